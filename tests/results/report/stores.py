"""Stores for tests of the report, with damaged records and hostile names."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from tests.results.records import measure, record, write

#: hostile names of a method and a run (a run's name is that of its folder)
HOSTILE = '<script>alert("m")</script>&amp;'
HOSTILE_RUN = "<script>alert('r')<!--"


def history(stages: dict[str, float], epochs: int = 6, shift: float = 0.0) -> list[dict[str, Any]]:
    """Epochs that end with each stage's mAP."""
    return [
        {
            "stage": stage, "epoch": epoch, "loss": 5.0 / (epoch + 1) + shift,
            "clusters": 90 - epoch, "identities": 80, "ari": 0.1 * epoch, "nmi": 0.8,
            "outliers": 400 // (epoch + 1),
        }
        | ({"mAP": mAP * (epoch + 1) / epochs, "rank1": mAP} if epoch % 2 else {})
        for stage, mAP in stages.items()
        for epoch in range(epochs)
    ]  # fmt: skip


def add(store: Path, name: str, method: str, seed: int = 0, **options: Any) -> Path:
    """A finished run with epochs, seconds and results by query."""
    stages = options.pop("stages", {"train": 50.0})
    epochs = options.pop("epochs", 6)
    content = record(method, seed, **options, **stages)
    for name_of, stage in content["stages"].items():
        stage["seconds"] = {"extract": 3.0, "label": 2.0, "train": 20.0, "test": 1.0}
        if name_of == "initial":  # not trained
            del stage["images_per_second"]
            stage["seconds"] = {"test": 1.0}
    content["finished"] = f"2026-01-{seed + 1:02}"
    content["environment"] = {"device": "CPU", "cpu": "a processor", "commit": "abc"}
    folder = write(store, name, content)
    (folder / "config.json").write_text(json.dumps({"method": {"name": method}, "seed": seed}))
    (folder / "history.json").write_text(json.dumps(history(stages, epochs, 0.1 * seed)))
    draw = np.random.default_rng(seed)
    arrays: dict[str, Any] = {"query_identity": np.arange(40) // 4}
    for stage, mAP in stages.items():
        arrays[f"{stage}_ap"] = np.clip(draw.normal(mAP / 100, 0.05, 40), 0, 1).astype(np.float32)
        arrays[f"{stage}_first_match_rank"] = draw.integers(1, 12, 40)
    np.savez(folder / "per_query.npz", **arrays)
    return folder


def mixed(store: Path) -> Path:
    """Methods, seeds, data sets and protocols; text with markup; damaged records."""
    for seed, mAP in enumerate((68.0, 70.0, 75.0)):
        add(store, f"mskd-{seed}", "mskd", seed, stages={"teacher": mAP - 10, "student": mAP})
        add(store, f"cc-{seed}", "cluster_contrast", seed, stages={"train": mAP - 20})
    add(store, "floor", "direct_transfer", stages={"initial": 2.2}, card={"cameras": False})
    (store / "floor" / "history.json").unlink()
    add(store, "other", "spcl", card={"input": "128x64"}, stages={"train": 33.0})
    add(store, "small-1", "mskd", dataset="synthetic", stages={"train": 9.5})
    add(store, "small-2", "spcl", dataset="synthetic", stages={"train": 10.5})
    add(
        store,
        "small-3",
        "buc",
        dataset="synthetic",
        stages={"train": 100.0},
        card={"cameras": False},
    )
    add(store, HOSTILE_RUN, HOSTILE, dataset="synthetic", stages={"train": 5.0})
    write(store, "damaged", '{"schema": 1, "experiment"')
    add(store, "half", "hhcl", stages={"train": 30.0})
    (store / "half" / "history.json").write_text("[{")
    write(store, "begun", None)
    measure(store, "processor", mskd=2.4, cluster_contrast=1.0, direct_transfer=0.1)
    return store


def large(store: Path, runs: int) -> Path:
    """A number of runs: three seeds of each method, in tables of twenty methods."""
    for number in range(runs):
        row, seed = divmod(number, 3)
        table, method = divmod(row, 20)
        add(
            store, f"run-{number:04}", f"method_{method}", seed,
            card={"input": f"{table}x{table}"}, epochs=50,
            stages={"train": 50 + 30 * math.sin(row)},
        )  # fmt: skip
    return store

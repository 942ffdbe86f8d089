"""Searches that take a moment: tiny runs, or runs that only pretend to train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from harness.core.files import write_json
from harness.core.hashing import card_hash
from harness.core.progress import Reporter
from harness.experiment.search.command import run
from harness.results.store import SCHEMA, Run
from tests.tiny import tiny

#: what the tiny data set has enough people for, and nothing that takes time
SMALL = (
    "batch.identities=2", "search.held_out=0.4", "search.storage=journal", "search.reproduce=0",
    "search.plots=false", "search.heartbeat=1", "search.name=s",
)  # fmt: skip
#: one key, so that tests see what is drawn
EPS = ("~search.space.labeler.min_samples", "~search.space.neighbours", "~search.space.objective")


def small(folder: Path, *overrides: str) -> list[str]:
    """Overrides of a small search under a folder."""
    given = [o for o in overrides if o.startswith("method=")]
    method = [] if given else ["method=cluster_contrast"]
    return [*tiny(folder, *method, *SMALL, f"search.folder={folder}/searches", *overrides)]


def search(folder: Path, *overrides: str) -> None:
    """Run a small search."""
    run(small(folder, *overrides))


def pretend(
    value: Callable[[DictConfig, int], float], seen: list[DictConfig] | None = None
) -> Callable[[DictConfig, Reporter], Run]:
    """A `run_experiment` that trains nothing: `value(config, epoch)` is the mAP after an epoch."""

    def run_experiment(config: DictConfig, reporter: Reporter) -> Run:
        if seen is not None:
            seen.append(config)
        folder = Path(config.store) / str(config.name)
        stage = list(config.stages)[-1]
        history: list[dict[str, Any]] = []
        for epoch in range(int(config.train.epochs)):
            row = {"stage": stage, "epoch": epoch, "mAP": value(config, epoch), "rank1": 0.0}
            history.append(row)
            write_json(folder / "history.json", history)
            with reporter:
                reporter.epoch(row)
        metrics = dict.fromkeys(("mAP", "rank1", "rank5", "rank10", "mINP"), history[-1]["mAP"])
        ended = {"metrics": metrics, "images_per_second": 100 * float(config.labeler.eps)}
        card = {"name": "p", "cameras": True, "selection": "last"}
        record = {
            "schema": SCHEMA,
            "experiment": {"method": config.method.name, "dataset": "d", "seed": 0},
            "settings": "0",
            "protocol": card | {"hash": card_hash(card)},
            "dataset": {},
            "environment": {},
            "metrics": metrics,
            "stages": {stage: ended},
            "seconds": 1.0,
        }
        write_json(folder / "record.json", record)
        return Run(folder)

    return run_experiment

"""Kill runs at random moments, give the same command again, and compare with a run left alone.

    python -m tests.experiment.kills FOLDER SEED KILLS [KIND…]

Every attempt is a fork of this process, which has imported everything and started no threads.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import harness
from harness.experiment.compose import compose
from harness.experiment.run import run_experiment
from harness.results.store import Run, Store
from tests.same import assert_same
from tests.tiny import tiny

ALWAYS = "overwrite=always"
KINDS: dict[str, tuple[str, ...]] = {
    "untrained": ("method=direct_transfer",),
    "one stage": ("method=cluster_contrast", "train.epochs=4"),
    "two stages": ("method=mskd",),
    "best by test": ("method=mskd", "selection=oracle", "evaluation.every=1"),
    "best without labels": (
        "method=cluster_contrast", "train.epochs=4", "selection=label_free",
        "evaluation.label_free=silhouette", "evaluation.every=1",
    ),
    "self-paced": ("method=spcl", "train.epochs=3"),
    "two networks": ("method=mmt",),
    "labels that grow": ("method=cluster_contrast", "labeler=bottom_up", "labeler.share=0.2"),
    "grouped statistics": ("method=cluster_contrast", "batch.samples_per_bn=8", "train.epochs=4"),
    "replacement": ("method=cluster_contrast", "train.epochs=4", ALWAYS),
    "own images": ("method=direct_transfer", "dataset=folder", "dataset.csv=images.csv"),
}  # fmt: skip


def import_parts() -> None:
    """Import what runs import late, so that forks need not."""
    for name in (
        "joblib",
        "pydantic",
        "scipy.sparse.csgraph",
        "sklearn.cluster",
        "sklearn.metrics",
    ):
        importlib.import_module(name)
    for module in pkgutil.walk_packages(harness.__path__, "harness."):
        if module.name.split(".")[1] in ("components", "data", "evaluation", "training"):
            importlib.import_module(module.name)


def run(arguments: list[str], log: Path, delay: float | None = None) -> float | None:
    """Run an experiment in a fork, killed after `delay` seconds; its seconds, or None if killed."""
    config = compose(arguments)
    started = time.perf_counter()
    child = os.fork()
    if not child:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        try:
            run_experiment(config)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    while delay is None or time.perf_counter() - started < delay:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 0, log.read_text()[-2000:]
            return time.perf_counter() - started
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def command(folder: Path, kind: str) -> list[str]:
    """The command of a kind of run, whose data and records are in a folder."""
    settings = KINDS[kind]
    if kind != "own images":
        return tiny(folder, *settings)
    images, rows = folder / "data", ["path,id,camera,split"]
    if not images.is_dir():
        images.mkdir(parents=True)
        generator = np.random.default_rng(0)
        for number in range(240):
            pixels = generator.integers(0, 255, (256, 128, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(images / f"{number}.png")
            split = ("train", "query", "gallery")[number % 3]
            rows.append(f"{number}.png,{1 + number // 12},{number % 4},{split}")
        (images / "images.csv").write_text("\n".join(rows))
    places = [f"store={folder}/runs", f"data.root={images}"]
    return [*settings, "protocol=debug", "backbone.widths=[8,16]", "backbone.strides=[1,2]",
            "backbone.weights=none", "images.height=96", "images.width=48", "device=cpu",
            *places]  # fmt: skip


def only(folder: Path) -> Run:
    (found,) = Store(folder / "runs").runs()
    return found


def campaign(folder: Path, kind: str, kills: int, rng: random.Random) -> int:
    """Kill a kind of run at least `kills` times, in as many runs as that takes; the kills made."""
    folder.mkdir(parents=True)
    log, made, attempt = folder / "log.txt", 0, 0
    whole, seconds = folder / "whole", 0.0
    for _ in range(2):  # once for the result; again, from the image cache, for the time
        seconds = run(command(whole, kind), log) or 0.0
        if ALWAYS not in KINDS[kind]:
            break
    reference = only(whole)
    while made < kills:
        place, attempt = folder / f"killed{attempt}", attempt + 1
        arguments = command(place, kind)
        if ALWAYS in arguments:
            run(arguments, log)
            before = (only(place).folder / "record.json").stat().st_mtime_ns
        longest = 1.1  # grows, so that a run ends even if the machine becomes busy
        while run(arguments, log, rng.uniform(0.1, longest) * seconds) is None:
            made, longest = made + 1, longest + 0.1
            if ALWAYS in arguments:
                assert only(place).finished or only(place).problem, "the old record was lost"
        if ALWAYS in arguments:
            assert (only(place).folder / "record.json").stat().st_mtime_ns > before
        assert_same(reference, only(place))
        left = [path for path in place.rglob("*") if path.suffix == ".tmp"]
        left += [*only(place).folder.glob("checkpoint*"), *only(place).folder.glob(".repl*")]
        assert not left, left
    return made


if __name__ == "__main__":
    torch.set_num_threads(1)
    import_parts()
    root, seed, kills = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    for kind in sys.argv[4:] or KINDS:
        began = time.perf_counter()
        count = campaign(
            root / kind.replace(" ", "-"), kind, kills, random.Random(f"{seed} {kind}")
        )
        print(f"{kind}: {count} kills, {time.perf_counter() - began:.0f} s, same", flush=True)

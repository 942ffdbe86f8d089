"""`harness bench train | extract | augment`: the pipeline's images a second, beside a plain one.

Both are measured in turns, in one process and on the same images, so that what else a machine does
weighs on both. The first round warms up. Networks have random weights: arithmetic takes as long.
"""

from __future__ import annotations

import operator
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.nn import functional as F

from harness.backbones import set_samples_per_bn
from harness.bench import reference
from harness.bench.figures import machine
from harness.bench.measure import median
from harness.compilation import check_compile
from harness.errors import ConfigError
from harness.extraction import extract
from harness.images.bank import build_bank
from harness.images.feed import Courier, Feed
from harness.images.placement import place_bank
from harness.images.samplers import SAMPLERS
from harness.images.settings import make_augment
from harness.interfaces import Backbone, Objective, Subset, UnlabelledSet
from harness.memory import PeakMemory
from harness.precision import fp32_as, resolve_precision
from harness.progress import Reporter
from harness.recipe import (
    Stage,
    build_backbone,
    build_distiller,
    build_labeler,
    build_objective,
    make_recipe,
)
from harness.seeds import generator
from harness.throughput import synchronised
from harness.training import Parts, Trainer

#: MSKD's own network and loss, in the fair protocol; what is given on the command line wins
DEFAULTS = (
    "method=mskd", "dataset=synthetic", "protocol=common", "backbone.weights=none",
    "train.precision=auto",
)  # fmt: skip
WHATS = ("train", "extract", "augment")


@dataclass(frozen=True)
class Round:
    """images in seconds, of which the network waited for data in some. made: images that all of the
    work was for, that before the clock started included.
    """

    images: int
    seconds: float
    waited: float = 0.0
    made: int = 0


Once = Callable[[], Round]


@dataclass
class Contender:
    """Who is measured: `once` does a round."""

    name: str
    once: Once
    told: dict[str, Any] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    #: images a second that a core works, worker processes' work included
    efforts: list[float] = field(default_factory=list)
    mib: dict[str, float] = field(default_factory=dict)

    def measure(self, device: torch.device, counts: bool) -> None:
        """One round; a warm-up does not count."""
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        if not counts:  # memory is seen here, as looking gives back what the rounds should keep
            with PeakMemory() as peak:
                self.once()
            self.mib["host_above"] = round(peak.mib, 1)
            return
        before = _worked()
        done = self.once()
        self.efforts.append(max(done.made, done.images) / max(_worked() - before, 1e-6))
        self.rates.append(done.images / done.seconds)
        self.waits.append(done.waited / done.seconds)
        if device.type == "cuda":
            peak_there = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
            self.mib["device"] = max(peak_there, self.mib.get("device", 0.0))

    def result(self) -> dict[str, Any]:
        """Medians, and every round."""
        return {
            "images_per_second": round(median(self.rates), 2),
            "rounds": [round(rate, 2) for rate in self.rates],
            "images_per_core_second": round(median(self.efforts), 2),
            "waiting": round(median(self.waits), 5),
            "memory_mib": self.mib,
            **self.told,
        }


def _worked() -> float:
    """Seconds that cores worked for this process and for the workers that have ended."""
    return time.process_time() + sum(os.times()[2:4])


class Setting:
    """What is measured: a composed configuration, its first stage, and images as bank and files."""

    def __init__(
        self, changes: Sequence[str], device: torch.device, images: int, folder: Path
    ) -> None:
        from harness import hydra_app, plugins
        from harness.run import load_data

        plugins.register()
        self.config: DictConfig = hydra_app.compose([*DEFAULTS, *changes])
        recipe = make_recipe(self.config)
        if not recipe.stages:
            raise ConfigError(f"{recipe.method} does not train.", "Choose method=mskd, say.")
        self.stage: Stage = recipe.stages[0]
        if self.stage.teacher_run is not None:
            raise ConfigError("bench has no finished teacher.", "Leave distiller.teacher= out.")
        self.device = device
        self.precision = resolve_precision(str(self.config.train.precision), device)
        check_compile(self.config.train.compile, device)
        self.size = (int(self.config.images.height), int(self.config.images.width))
        batch = self.stage.config.batch
        self.batch = int(batch.identities) * int(batch.images)
        source = load_data(self.config).train.images
        count = min(images, len(source))
        if count < self.batch:
            raise ConfigError(
                f"{count} images are fewer than a batch of {self.batch}.",
                "Choose more --images, a larger data set, or batch.identities=4.",
            )
        chosen = np.linspace(0, len(source) - 1, count).astype(np.int64)
        self.files = reference.as_files(Subset(source, chosen), folder)
        bank = build_bank(self.files, self.size, folder / "bank")
        self.bank, self.place = place_bank(str(self.config.data.bank), bank, device)

    @property
    def count(self) -> int:
        return len(self.bank)

    @property
    def labels(self) -> Tensor:
        """As many clusters as batches of K images fill: (N,)."""
        return torch.arange(self.count) // int(self.stage.config.batch.images)

    def drawn(self, batches: int) -> list[Tensor]:
        """Batches of image indices as the stage's sampler draws them."""
        batch = self.stage.config.batch
        sampler = SAMPLERS[str(batch.sampler)](
            self.labels, None, int(batch.identities), int(batch.images), generator(0, "bench")
        )
        return list(sampler.batches(batches))

    def plain(self, train: bool) -> reference.PlainImages:
        """The files as the plain pipeline reads them."""
        return reference.PlainImages(self.files, self.size, int(self.config.images.pad), train)

    def backbone(self) -> Backbone:
        torch.manual_seed(0)
        return build_backbone(self.stage.config.backbone)

    def begin(self, objective: Objective, backbone: Backbone) -> None:
        """The start of an epoch with made-up features."""
        features = torch.randn(self.count, len(backbone.views), backbone.dim)
        cameras = torch.arange(self.count) % 6 if objective.uses_cameras else None
        objective.start_epoch(
            F.normalize(features, dim=-1).to(self.device),
            self.labels.to(self.device),
            None if cameras is None else cameras.to(self.device),
        )

    def described(self) -> dict[str, Any]:
        """What figures have to say of it."""
        config = self.stage.config
        return {
            "method": str(config.method.name),
            "backbone": str(config.backbone.get("arch", "small")),
            "views": list(config.backbone.get("views", ["global"])),
            "input": f"{self.size[0]}x{self.size[1]}",
            "batch": self.batch,
            "samples_per_bn": int(config.batch.samples_per_bn),
            "precision": self.precision,
            "compile": str(config.train.compile),
            "bank": self.place.name,
            "dataset": str(config.dataset.name),
            "images": self.count,
        }


def measure(
    what: str,
    changes: Sequence[str],
    device: torch.device,
    images: int = 1024,
    steps: int = 0,
    repeats: int = 3,
    with_reference: bool = False,
    workers: int | None = None,
    note: str = "",
) -> dict[str, Any]:
    """Measure one of `WHATS`.

    Args:
        changes: KEY=VALUE of the configuration. images: at most, of its training part.
        steps: batches a round; 0: 50 on a GPU, on a CPU 1 of training, 4 of extraction, 16 of
            augmentation. repeats: rounds after the one that warms up.
        with_reference: beside the plain pipeline. workers: of it; None: as many as are best.
        note: what a reader of the figures has to know of the machine.

    Returns:
        What `--output` writes.

    Raises:
        HarnessError: settings that cannot be had.
    """
    if repeats < 1 or images < 2 or steps < 0 or (workers is not None and workers < 0):
        raise ConfigError("bench needs 1 repeat and 2 images at least, and no negative numbers.")
    on_gpu = device.type == "cuda"
    steps = steps or (50 if on_gpu else {"train": 1, "extract": 4, "augment": 16}[what])
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(changes, device, images, Path(folder))
        contenders = [Contender("harness", OURS[what](setting, steps))]
        if with_reference:
            plain = setting.plain(train=what != "extract")
            tried: dict[int, float] = {}
            if workers is None:
                trial = [i.tolist() for i in setting.drawn(12 if on_gpu else 6)]
                workers, tried = reference.best_workers(plain, trial, device)
            told = {"workers": workers, "precision": "fp32", "memory_format": "NCHW"}
            if tried:
                told["loading"] = {str(k): round(v, 1) for k, v in tried.items()}
            kinds = ["fp32", "tf32"] if on_gpu and what != "augment" else ["fp32"]
            for kind in kinds:
                name = "reference" if kind == "fp32" else "reference_tf32"
                once = PLAIN[what](setting, plain, steps, workers, kind)
                contenders.append(Contender(name, once, {**told, "precision": kind}))
        for repeat in range(repeats + 1):
            for contender in contenders:
                contender.measure(device, counts=repeat > 0)
        result: dict[str, Any] = {
            "what": what,
            "setting": setting.described() | ({"precision": "fp32"} if what == "augment" else {}),
            "steps": steps,
            "repeats": repeats,
            **{c.name: c.result() for c in contenders},
            "machine": machine(device),
            "note": note,
        }
    for other in contenders[1:]:
        pairs = zip(contenders[0].rates, other.rates, strict=True)
        key = other.name.replace("reference", "ratio")
        result[key] = round(median([ours / theirs for ours, theirs in pairs]), 2)
        efforts = (median(c.efforts) for c in (contenders[0], other))
        result[f"{key}_per_core"] = round(operator.truediv(*efforts), 2)
    return result


# ------------------------------------------------------------------------------------------ ours


def _train(setting: Setting, steps: int) -> Once:
    """The very steps of a run."""
    config = setting.stage.config
    backbone = setting.backbone()
    set_samples_per_bn(backbone, int(config.batch.samples_per_bn))
    backbone.to(setting.device).to(memory_format=torch.channels_last)
    trainer = Trainer(
        name=setting.stage.name,
        config=config,
        parts=Parts(
            backbone,
            build_labeler(setting.stage),
            build_objective(setting.stage),
            build_distiller(setting.stage, None, backbone),
        ),
        data=UnlabelledSet(setting.bank),
        device=setting.device,
        precision=setting.precision,
        reporter=Reporter(),
        observe=lambda labels: {},
        test=lambda network: {},
    )
    with torch.no_grad():
        setting.begin(trainer.parts.objective, backbone)
    trainer.trained.train()
    labels, rounds = setting.labels.to(setting.device), iter(range(1_000_000))

    def once() -> Round:
        feed = Feed(
            trainer._batches(next(rounds), iter(setting.drawn(steps)), labels), setting.device
        )
        started = synchronised(setting.device)
        with fp32_as(setting.precision), feed:
            for batch in feed:
                trainer._step(batch, False)
        seconds = synchronised(setting.device) - started
        return Round(steps * setting.batch, seconds, feed.waited)

    return once


def _extract(setting: Setting, steps: int) -> Once:
    """Features of as many images as `steps` batches hold, over and over if there are fewer."""
    backbone = setting.backbone().to(setting.device).to(memory_format=torch.channels_last)
    spans = _spans(setting, steps)

    def once() -> Round:
        started = synchronised(setting.device)
        for count in spans:
            extract(backbone, setting.bank[:count], setting.device, setting.precision)
        return Round(sum(spans), synchronised(setting.device) - started)

    return once


def _augment(setting: Setting, steps: int) -> Once:
    """Augmented batches on the device, and no network."""
    augment, courier = make_augment(setting.config.images), Courier(setting.bank, setting.device)
    draws = generator(0, "bench augment")

    def made() -> Iterator[Tensor]:
        for indices in setting.drawn(steps):
            source, rows = courier.rows(indices)
            parameters = augment.draw(len(indices), draws)
            yield augment.apply(source, parameters, indices=rows, device=setting.device)

    def once() -> Round:
        started = synchronised(setting.device)
        count = sum(len(batch) for batch in made())
        return Round(count, synchronised(setting.device) - started)

    return once


def _spans(setting: Setting, steps: int) -> list[int]:
    """Of how many images, one after the other, to take `steps` batches."""
    wanted, spans = steps * setting.batch, []
    while wanted > 0:
        spans.append(min(setting.count, wanted))
        wanted -= spans[-1]
    return spans


# ------------------------------------------------------------------------------ the plain pipeline


def _plain_train(
    setting: Setting, plain: reference.PlainImages, steps: int, workers: int, precision: str
) -> Once:
    """Network, loss and Adam in a plain loop; batch norm over the whole batch."""
    backbone = setting.backbone().to(setting.device).train()
    objective = build_objective(setting.stage)
    objective.prepare(len(backbone.views), backbone.dim, setting.count)
    objective.to(setting.device)
    with torch.no_grad():
        setting.begin(objective, backbone)
    optimizer = torch.optim.Adam(
        [p for p in [*backbone.parameters(), *objective.parameters()] if p.requires_grad],
        lr=3.5e-4,
        weight_decay=5e-4,
    )
    labels = setting.labels.to(setting.device)

    def step(pixels: Tensor, indices: Tensor) -> None:
        loss = objective(backbone(pixels), labels[indices], indices)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.update()

    return _timed(setting, plain, steps, workers, precision, step)


def _plain_extract(
    setting: Setting, plain: reference.PlainImages, steps: int, workers: int, precision: str
) -> Once:
    backbone = setting.backbone().to(setting.device).eval()

    @torch.no_grad()
    def step(pixels: Tensor, indices: Tensor) -> None:
        F.normalize(backbone(pixels), dim=-1)

    return _timed(setting, plain, steps, workers, precision, step)


def _plain_augment(
    setting: Setting, plain: reference.PlainImages, steps: int, workers: int, precision: str
) -> Once:
    return _timed(setting, plain, steps, workers, precision, None)


def _timed(
    setting: Setting, plain: reference.PlainImages, steps: int, workers: int, precision: str,
    step: Callable[[Tensor, Tensor], None] | None,
) -> Once:  # fmt: skip
    """Clock `steps` batches once the first has come, which costs the start of the workers."""

    def once() -> Round:
        drawn = [indices.tolist() for indices in setting.drawn(steps + 1)]
        stream = reference.batches(plain, drawn, workers, setting.device)
        count, waited = 0, 0.0
        with fp32_as(precision):
            made = len(next(stream)[0])
            started = synchronised(setting.device)
            while True:
                asked = synchronised(setting.device)
                batch = next(stream, None)
                waited += synchronised(setting.device) - asked
                if batch is None:
                    break
                if step is not None:
                    step(*batch)
                count += len(batch[0])
            seconds = synchronised(setting.device) - started
            # no network saw the first batch: only where there is none does it count as work
            return Round(count, seconds, waited, count if step else made + count)

    return once


OURS = {"train": _train, "extract": _extract, "augment": _augment}
PLAIN = {"train": _plain_train, "extract": _plain_extract, "augment": _plain_augment}

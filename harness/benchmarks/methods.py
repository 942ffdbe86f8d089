"""`harness bench methods`: what training by each method costs, beside a reference method.

All methods run in one process, on the same images; they are also the labeled source of methods that
need one. Each training stage has four parts that are
timed: steps, feature extraction, the label step, and the ranking of a test. A round times the same
part of every stage, one after the other, then the next part; the cost of a method is the time of
its whole schedule at the speeds of one round, over that of the reference in the same round.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.nn import functional as F

from harness.benchmarks.features import synthetic_features
from harness.benchmarks.harness_implementation import make_network, make_trainer, training_steps
from harness.benchmarks.timing import (
    USUAL,
    Bounds,
    Candidate,
    Round,
    built_when_run,
    error_of_median,
    machine,
    spread,
    take_turns,
)
from harness.benchmarks.workload import with_defaults
from harness.core.errors import ConfigError
from harness.core.host_memory import keep_freed_memory
from harness.core.interfaces import Backbone, LabelledSet
from harness.core.precision import resolve_precision
from harness.core.progress import Reporter
from harness.core.seeds import generator
from harness.core.throughput import synchronized_time
from harness.data.cache_folder import cache_folder
from harness.data.samplers import SAMPLERS
from harness.evaluation.evaluator import Evaluator, make_evaluator
from harness.evaluation.protocol import EvaluationProtocol
from harness.experiment.compose import compose
from harness.experiment.labelled_source import source_stages
from harness.experiment.protocol import protocol_card
from harness.experiment.recipe import make_recipe
from harness.experiment.registration import options, register
from harness.experiment.stages import Stage, backbone_name, load_data, preprocessing
from harness.results.measured_costs import cost_key
from harness.training import extraction
from harness.training.compilation import check_compile
from harness.training.trainer import Trainer

DEFAULTS = ("dataset=synthetic", "protocol=common", "backbone.weights=none")
PARTS = ("train", "extract", "labels", "rank")
#: parts that take a few percent of a schedule are timed in every fourth round only
EVERY = {"labels": 4, "rank": 4}
#: the stage of a method that does not train
UNTRAINED = "initial"


@dataclass(frozen=True)
class Speeds:
    """Seconds in one round: of a step, of extraction per image, of the label step, of the ranking
    of a test, and of the start of an epoch (memories, classifiers).
    """

    step: float
    image: float
    labels: float
    rank: float
    start: float


@dataclass(frozen=True)
class Amounts:
    """How much of each part a stage's schedule has.

    extracted: images, those of the tests aside. labelings: calls of the labeler.
    """

    epochs: int = 0
    steps: int = 0
    extracted: int = 0
    labelings: int = 0
    tests: int = 1

    def seconds(self, speeds: Speeds, test_images: int) -> dict[str, float]:
        """Seconds of the whole schedule by phase, as phases are named in records."""
        return {
            "extract": self.extracted * speeds.image,
            "label": self.labelings * speeds.labels,
            "train": self.epochs * speeds.start + self.steps * speeds.step,
            "test": self.tests * (test_images * speeds.image + speeds.rank),
        }


class Features:
    """The decoded training images of a data set, and features like those of a network of them."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.decoded = evaluator.unlabelled(uses_cameras=False).images
        train, self.device = evaluator.data.train, evaluator.device
        identities = len(np.unique(train.identities[train.identities >= 0]))
        self.identities = max(2, identities or len(self.decoded) // 16)
        self.cameras = 6 if train.cameras is None else len(np.unique(train.cameras))
        self._made: dict[tuple[int, int], Tensor] = {}

    def as_source(self, cameras: Tensor | None) -> LabelledSet:
        """The same images as a labeled source, with made-up identities."""
        count = len(self.decoded)
        identities = torch.arange(count) * min(self.identities, count) // count
        return LabelledSet(self.decoded, cameras, identities=identities)

    def features(self, backbone: Backbone) -> Tensor:
        """Synthetic features (N, V, D) of a half-trained network, on the device."""
        shape = len(backbone.views), backbone.dim
        if shape not in self._made:
            count = [len(self.decoded)]
            (drawn,) = synthetic_features(count, self.identities, self.cameras, *shape)
            self._made[shape] = drawn.features.to(self.device)
        return self._made[shape]


@dataclass(eq=False)
class StageCosts:
    """A stage of a method, or a network that is only tested, and its candidates.

    seconds: how long a round of one part lasts at least. facts: what else the result says of it.
    """

    method: str
    config: DictConfig
    stage: Stage | None
    evaluator: Evaluator
    uses_cameras: bool
    seconds: float
    images: Features
    candidates: dict[str, Candidate] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name = UNTRAINED if self.stage is None else self.stage.name
        self.device, self.precision = self.evaluator.device, self.evaluator.precision
        parts: dict[str, Callable[[], Callable[[], Round]]] = {
            "train": self._train, "extract": self._extract,
            "labels": self._labels, "rank": self._rank,
        }  # fmt: skip
        for part in PARTS if self.stage is not None else ("extract", "rank"):
            if part != "rank" or self.evaluator.evaluates:
                name = " ".join(dict.fromkeys([self.method, self.name, part]))
                self.candidates[part] = Candidate(
                    name, built_when_run(parts[part]), every=EVERY.get(part, 1)
                )

    @functools.cached_property
    def trainer(self) -> Trainer:
        assert self.stage is not None
        data = self.evaluator.unlabelled(self.uses_cameras)
        source = self.images.as_source(data.cameras)
        return make_trainer(self.stage, data, self.device, self.precision, source)

    @functools.cached_property
    def backbone(self) -> Backbone:
        """The network, without a trainer where there is nothing to train."""
        if self.stage is not None:
            return self.trainer.components.backbone
        return make_network(self.config, self.device)

    def rehearse(self) -> None:
        """Compute a step that is not measured: the first one also loads libraries and kernels."""
        once = dataclasses.replace(self, seconds=1e-9, candidates={}, facts={})
        once._train()

    def speeds(self, number: int) -> Speeds:
        """The speeds of a round."""
        rounds = {part: each.rounds[number] for part, each in self.candidates.items()}
        train, labels, rank = (rounds.get(part) for part in ("train", "labels", "rank"))
        extract = rounds["extract"]
        return Speeds(
            step=train.seconds / train.images * self.trainer.batch_size if train else 0.0,
            image=extract.seconds / extract.images,
            labels=labels.details["once"] if labels else 0.0,
            rank=rank.details["once"] if rank else 0.0,
            start=train.details["start"] if train else 0.0,
        )

    def in_round(self, number: int) -> dict[str, float]:
        """The numbers of a round: seconds, and hours of the schedule."""
        speeds, amounts, phases = self.speeds(number), self.amounts, self.phases(number)
        tests = phases["test"]
        epochs = sum(phases.values()) - tests
        return {
            "step_seconds": speeds.step,
            "extract_seconds": speeds.image * len(self.images.decoded),
            "label_seconds": speeds.labels,
            "test_seconds": tests / amounts.tests if amounts.tests else 0.0,
            "epoch_seconds": epochs / amounts.epochs if amounts.epochs else 0.0,
            "hours": (epochs + tests) / 3600,
        }

    def phases(self, number: int) -> dict[str, float]:
        """Seconds of the whole schedule by phase, at the speeds of a round."""
        data = self.evaluator.data
        test_images = len(data.query.images) + len(data.gallery.images)
        return self.amounts.seconds(self.speeds(number), test_images)

    @functools.cached_property
    def amounts(self) -> Amounts:
        """The schedule's amounts; known once training steps were computed."""
        if self.stage is None:
            return Amounts(tests=int(self.evaluator.evaluates))
        trainer = self.trainer
        count, epochs = len(trainer.data), range(trainer.first_epoch, trainer.last_epoch + 1)
        labels = torch.zeros(count, dtype=torch.int64)  # iterations=auto: no outliers
        networks = self._networks_first + sum(len(trainer.extracted_by(e)) for e in epochs[1:])
        networks += trainer.source is not None  # once, for the centers of its classes
        return Amounts(
            epochs=len(epochs),
            steps=sum(trainer._iterations(labels, epoch < 0) for epoch in epochs),
            extracted=networks * count,
            labelings=sum(trainer._labelings(epoch) for epoch in epochs),
            tests=len(trainer.tested) if self.evaluator.evaluates else 0,
        )

    def _train(self) -> Callable[[], Round]:
        """Training steps in the middle of the schedule."""
        trainer, batch = self.trainer, self.trainer.config.batch
        self._networks_first = len(trainer.extracted_by(trainer.first_epoch))
        features = self.images.features(trainer.components.backbone)
        labels = torch.arange(len(features)) // int(batch.images)
        on_device, cameras = labels.to(self.device), trainer.data.cameras
        if trainer.source is not None:
            own = trainer.source.identities.to(self.device)
            with torch.no_grad():
                trainer.components.objective.start_source(features, own)
        sampler = SAMPLERS[str(batch.sampler)](
            labels, cameras, int(batch.identities), int(batch.images), generator(0, "bench")
        )
        epoch = max(0, (trainer.last_epoch + 1) // 2)
        for name, value in trainer.trained.named_buffers():
            if name.rpartition(".")[2] == "epochs_begun":  # a loss may begin with fewer terms
                value.fill_(epoch - trainer.first_epoch)

        def compute(steps: int) -> Round:
            began = synchronized_time(self.device)
            trainer._start_epoch(epoch, on_device, features)
            start = synchronized_time(self.device) - began
            drawn = sampler.batches(steps + 1)
            seconds, waiting = training_steps(trainer, steps, drawn, on_device, epoch)
            return Round(steps * trainer.batch_size, seconds, {"start": start, "waiting": waiting})

        with counted_images(trainer.step.networks) as passed:
            first = compute(1)
        if str(trainer.config.train.compile) != "off":
            compute(1)  # compiles again, without the hooks that counted
            first = compute(1)
        trained = sum(
            p.numel() for group in trainer.optimizer.param_groups for p in group["params"]
        )
        passes = round(passed[0] / trainer.batch_size, 3)
        self.facts = {"forward_passes": passes, "trained_parameters": trained}
        steps = self._enough(first, lambda: compute(1))
        return lambda: compute(steps)

    def _extract(self) -> Callable[[], Round]:
        images, device = self.images.decoded, self.device

        def compute(count: int) -> Round:
            passes, rest = divmod(count, len(images))
            began = synchronized_time(device)
            for part in [len(images)] * passes + [rest] * bool(rest):
                extraction.extract(self.backbone, images[:part], device, self.precision)
            return Round(count, synchronized_time(device) - began)

        first = min(extraction.BATCH, len(images))
        batches = self._enough(compute(first), lambda: compute(first))
        return lambda: compute(batches * first)

    def _labels(self) -> Callable[[], Round]:
        """The label step of all training images, from the same state in each round."""
        trainer, labeler = self.trainer, self.trainer.components.labeler
        features = self.images.features(trainer.components.backbone)
        cameras = trainer.data.cameras if labeler.uses_cameras else None
        for _ in range(labeler.min_calls - 1):
            labeler.label(features, cameras)
        state = labeler.state_dict()

        def label() -> None:
            labeler.load_state_dict(state)
            labeler.label(features, cameras)

        label()  # compiles the kernels
        return lambda: self._repeated(label, len(features))

    def _rank(self) -> Callable[[], Round]:
        """The ranking of all queries; extraction of the test images is counted apart."""
        data, draw = self.evaluator.data, torch.Generator().manual_seed(0)
        query, gallery = (
            F.normalize(torch.randn(len(part.images), self.backbone.dim, generator=draw), dim=-1)
            for part in (data.query, data.gallery)
        )
        query, gallery = query.to(self.device), gallery.to(self.device)
        self.evaluator.score(query, gallery)
        return lambda: self._repeated(lambda: self.evaluator.score(query, gallery), len(query))

    def _enough(self, first: Round, again: Callable[[], Round]) -> int:
        """How often to repeat work that fills a round; the first time it took longer than usual."""
        one = first if first.seconds > 2 * self.seconds else again()
        return math.ceil(self.seconds / one.seconds)

    def _repeated(self, call: Callable[[], object], images: int) -> Round:
        """A round of calls with that many images each; `once` is the time of one call."""
        began, calls, passed = synchronized_time(self.device), 0, 0.0
        while passed < self.seconds:
            call()
            calls += 1
            passed = synchronized_time(self.device) - began
        return Round(calls * images, passed, {"once": passed / calls})

    @property
    def in_tables(self) -> dict[str, str]:
        """What identifies the method in tables of runs: its name, and its protocol card."""
        card = protocol_card(self.config, self.precision, defaultdict(str))
        return {"name": str(self.config.method.name), "card": cost_key(card)}

    def describe(self) -> dict[str, Any]:
        """Settings that a result depends on."""
        config = self.config if self.stage is None else self.stage.config
        backbone = config.backbone
        return {
            "dataset": self.evaluator.data.name,
            "protocol": str(config.protocol.name),
            "backbone": backbone_name(backbone),
            "input": f"{config.images.height}x{config.images.width}",
            "batch": int(config.batch.identities) * int(config.batch.images),
            "samples_per_bn": int(config.batch.samples_per_bn),
            "views": list(backbone.get("views") or ["global"]),
            "precision": self.precision,
            "compile": str(config.train.compile),
            "test_every": int(config.evaluation.every),
            "train": len(self.evaluator.data.train.images),
            "query": len(self.evaluator.data.query.images),
            "gallery": len(self.evaluator.data.gallery.images),
        }


def measure(
    overrides: Sequence[str], device: torch.device, reference: str = "cluster_contrast",
    repeats: int = 3, seconds: float = 2.0, bounds: Bounds = USUAL,
    reporter: Reporter | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Time methods under one protocol.

    Args:
        overrides: KEY=VALUE of the configuration; `method=` may name several (default: all).
        reference: the method that costs are compared with; it is timed in any case.
        seconds: how long a round of one part lasts at least.
        reporter: shows the progress.

    Returns:
        `methods`: hours of each method's schedule, its cost (a multiple of the reference's hours),
        and its stages; methods that have nothing to do are left out. `candidates`: the
        measurements. For the rest see `compare`.

    Raises:
        HarnessError: a method, a setting or the data set is not as it should be.
    """
    reporter = reporter or Reporter()
    if device.type == "cpu":
        keep_freed_memory()
    register()
    names, shared = split_methods(overrides)
    if reference not in options()["method"]:
        known = ", ".join(name for name in options()["method"] if "/" not in name)
        raise ConfigError(f"--reference {reference} is no method.", f"Known: {known}.")
    stages = _stages(
        [reference, *(n for n in names if n != reference)], shared, device, seconds, reporter
    )
    if stages[0].stage is None:
        raise ConfigError(f"--reference {reference} does not train.",
                          "Choose a method that trains, such as cluster_contrast.")  # fmt: skip
    for idle in [s for s in stages if s.stage is None and not s.evaluator.evaluates]:
        reporter.say(f"{idle.method} is left out: it does not train, and there is no test part.")
        stages.remove(idle)
    stages[0].rehearse()
    candidates = [s.candidates[part] for part in PARTS for s in stages if part in s.candidates]
    progress = reporter.phase("measurements")
    measured = take_turns(candidates, repeats, device, bounds, progress)
    described = [stage.describe() for stage in stages]
    same = {k: v for k, v in described[0].items() if all(each[k] == v for each in described)}
    for stage, about in zip(stages, described, strict=True):
        stage.facts |= {key: value for key, value in about.items() if key not in same}
    methods = costs(stages, reference, repeats)
    measured["disturbed"] += imprecise(methods, bounds)
    setting = {"reference": reference, **same, "seconds_per_round": seconds}
    return {"what": "methods", "setting": setting, "machine": machine(device), "methods": methods,
            "candidates": {each.name: each.summary() for each in candidates},
            **measured}  # fmt: skip


def split_methods(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The methods that `method=` names, all of them without one, and the other overrides.

    Raises:
        ConfigError: it names none, or one that does not exist.
    """
    given = [word for word in overrides if word.startswith("method=")] or ["method=glob(*)"]
    others = [word for word in overrides if word not in given]
    known = options()["method"]
    try:
        value = OverridesParser.create().parse_override(given[-1]).value()
    except HydraException as error:
        raise ConfigError(f"'{given[-1]}' cannot be read.", "Write method=mskd,buc.") from error
    if isinstance(value, Glob):
        names = value.filter([name for name in known if "/" not in name])
    else:
        names = list(map(str, value.list)) if isinstance(value, ChoiceSweep) else [str(value)]
    if not names or (unknown := [name for name in names if name not in known]):
        wrong = f"no method '{unknown[0]}'" if names else f"no method like {given[-1]}"
        shown = ", ".join(name for name in known if "/" not in name)
        raise ConfigError(f"There is {wrong}.", f"Known: {shown}.")
    return names, others


def costs(stages: Sequence[StageCosts], reference: str, repeats: int) -> dict[str, Any]:
    """Hours and costs of each method, with the ratios taken within each round."""
    total: dict[str, list[float]] = {}
    each_stage: list[dict[str, list[float]]] = []
    for stage in stages:
        rows = [stage.in_round(number) for number in range(repeats)]
        each_stage.append({key: [row[key] for row in rows] for key in rows[0]})
        hours = each_stage[-1]["hours"]
        before = total.get(stage.method, [0.0] * repeats)
        total[stage.method] = [a + b for a, b in zip(before, hours, strict=True)]
    # a reference of several stages is compared by its last one
    base = next(own for s, own in reversed([*zip(stages, each_stage, strict=True)])
                if s.method == reference)  # fmt: skip
    found: dict[str, Any] = {}
    names = {stage.method: stage.in_tables for stage in stages}
    for method, hours in total.items():
        ratios = [a / b for a, b in zip(hours, total[reference], strict=True)]
        found[method] = {
            **names[method],
            "hours": _round(statistics.median(hours)),
            "spread": _round(spread(hours)),
            "cost": _round(statistics.median(ratios)),
            "cost_error": _round(error_of_median(ratios)),
            "rounds": list(map(_round, hours)),
            "cost_rounds": list(map(_round, ratios)),
            "stages": {},
        }
    for stage, own in zip(stages, each_stage, strict=True):
        step = statistics.median(own["step_seconds"])
        speed = {"images_per_second": _round(stage.trainer.batch_size / step)} if step else {}
        by_phase = [stage.phases(number) for number in range(repeats)]
        hours_by_phase = {
            phase: _round(statistics.median(each[phase] for each in by_phase) / 3600)
            for phase in by_phase[0]
        }
        ratios_of = {
            key: _round(statistics.median(a / b for a, b in zip(values, base[key], strict=True)))
            for key, values in own.items()
            if min(base[key]) > 0 and min(values) > 0 and key != "hours"
        }
        share = [a / b for a, b in zip(own["hours"], total[reference], strict=True)]
        found[stage.method]["stages"][stage.name] = {
            **{key: _round(statistics.median(values)) for key, values in own.items()},
            **speed, "hours_by_phase": hours_by_phase, "cost": _round(statistics.median(share)),
            "ratios": ratios_of, **_memory(stage), **stage.facts,
            "schedule": vars(stage.amounts),
        }  # fmt: skip
    return found


def imprecise(methods: Mapping[str, Mapping[str, Any]], bounds: Bounds) -> list[str]:
    """A line for each method whose cost is not known within the bound."""
    return [
        f"{name}: cost {found['cost']} is uncertain by ± {found['cost_error']:.0%}"
        for name, found in methods.items()
        if found["cost_error"] > bounds.error
    ]


def _memory(stage: StageCosts) -> dict[str, Any]:
    """Peak memory of the steps, networks included; of the extraction where nothing is trained."""
    candidate = stage.candidates.get("train") or stage.candidates["extract"]
    return {"memory_mib": candidate.memory_mib}


def _stages(
    names: Sequence[str],
    overrides: Sequence[str],
    device: torch.device,
    seconds: float,
    reporter: Reporter,
) -> list[StageCosts]:
    """The stages of all methods, on shared images."""
    shared: dict[tuple[Any, ...], tuple[Evaluator, Features]] = {}
    found = []
    for name in names:
        config = compose([f"method={name}", *with_defaults(DEFAULTS, overrides)])
        recipe = make_recipe(config)
        if source_stages(recipe.stages) and config.source is None:
            own: Any = OmegaConf.to_container(config.dataset, resolve=True)
            config.source = own | {"name": f"{own['name']} itself"}
        check_compile(config.train.compile, device)
        precision = resolve_precision(str(config.train.precision), device)
        size = int(config.images.height), int(config.images.width)
        interpolation = preprocessing(config.backbone).interpolation
        key = size, precision, bool(config.evaluation.rerank), interpolation
        if key not in shared:
            evaluator = make_evaluator(
                load_data(config), size, cache_folder(config.data.root, config.data.cache_dir),
                train=True, on_bad_image=config.dataset.get("on_bad_image", "error"),
                device=device, precision=precision, reporter=reporter,
                protocol=EvaluationProtocol(rerank=bool(config.evaluation.rerank)),
                image_cache=str(config.data.cache_location), interpolation=interpolation,
            )  # fmt: skip
            shared[key] = evaluator, Features(evaluator)
        evaluator, images = shared[key]
        for stage in recipe.stages or (None,):
            # before the clock starts, so that no candidate's memory counts shared features
            images.features(make_network(stage.config if stage else config, device))
            found.append(StageCosts(name, config, stage, evaluator, recipe.uses_cameras,
                                    seconds, images))  # fmt: skip
    return found


@contextmanager
def counted_images(networks: Sequence[Backbone]) -> Iterator[list[int]]:
    """The number of images that networks embed inside the block, as the list's only entry."""
    passed = [0]

    def count(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        passed[0] += len(inputs[0])

    handles = [network.register_forward_pre_hook(count) for network in networks]
    try:
        yield passed
    finally:
        for handle in handles:
            handle.remove()


def _round(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")

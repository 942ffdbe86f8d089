"""`harness bench methods`: what training by each method costs, beside a reference method.

All methods run in one process. A round times the same part of every training stage, one after the
other, then the next part; the cost of a method is the time of its whole schedule at the speeds of
one round, over that of the reference in the same round.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob
from hydra.errors import HydraException
from omegaconf import OmegaConf

from harness.benchmarks.harness_implementation import make_network
from harness.benchmarks.stage_costs import PARTS, Features, StageCosts
from harness.benchmarks.timing import (
    USUAL,
    Bounds,
    error_of_median,
    machine,
    spread,
    take_turns,
    uncertain,
)
from harness.benchmarks.workload import with_defaults
from harness.core.errors import ConfigError, did_you_mean
from harness.core.host_memory import keep_freed_memory
from harness.core.precision import resolve_precision
from harness.core.progress import Reporter
from harness.data.cache_folder import cache_folder
from harness.evaluation.evaluator import Evaluator, make_evaluator
from harness.evaluation.protocol import EvaluationProtocol
from harness.experiment.compose import compose
from harness.experiment.labelled_source import source_stages
from harness.experiment.recipe import make_recipe
from harness.experiment.registration import options, register
from harness.experiment.stages import load_data, preprocessing
from harness.training.compilation import check_compile

DEFAULTS = ("dataset=synthetic", "protocol=common", "backbone.weights=none")


def measure(
    overrides: Sequence[str], device: torch.device, reference: str = "cluster_contrast",
    repeats: int = 20, seconds: float = 0.5, bounds: Bounds = USUAL,
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
        hint = did_you_mean(reference, (name for name in options()["method"] if "/" not in name))
        raise ConfigError(f"--reference {reference} is not a method.", hint)
    stages = make_stages(
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
    errors = {name: found["cost_error"] for name, found in methods.items()}
    measured["disturbed"] += uncertain("cost", errors, bounds)
    setting = {"reference": reference, **same, "seconds_per_round": seconds}
    return {"what": "methods", "setting": setting, "machine": machine(device), "methods": methods,
            "candidates": {each.name: each.summary() for each in candidates},
            **measured}  # fmt: skip


def split_methods(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The methods that `method=` names, each once, or all of them, and the other overrides.

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
        hint = did_you_mean(unknown[0] if names else "", (n for n in known if "/" not in n))
        raise ConfigError(f"There is {wrong}.", hint)
    return list(dict.fromkeys(names)), others


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


def _memory(stage: StageCosts) -> dict[str, Any]:
    """Peak memory of the steps, networks included; of the extraction where nothing is trained."""
    candidate = stage.candidates.get("train") or stage.candidates["extract"]
    return {"memory_mib": candidate.memory_mib}


def make_stages(
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


def _round(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")

"""Test the network of a finished run again, by another evaluation protocol or on other data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import OmegaConf

from harness.core.errors import ConfigError, DataError, did_you_mean
from harness.core.host_memory import keep_freed_memory
from harness.core.precision import resolve_device
from harness.core.progress import Reporter
from harness.evaluation import kept_features
from harness.evaluation.evaluator import Evaluator, make_evaluator
from harness.evaluation.protocol import EvaluationProtocol, score
from harness.evaluation.ranking import RANKS
from harness.experiment import cross_domain
from harness.experiment.finished_networks import load_network
from harness.experiment.joint_datasets import BETWEEN, complete, sections, settings
from harness.experiment.registration import register
from harness.experiment.stages import build
from harness.results import evaluations
from harness.results.store import Store


def evaluate_run(
    run: str,
    changes: Sequence[str] = (),
    stage: str | None = None,
    protocol: EvaluationProtocol | None = None,
    store: str | Path = "results/runs",
    data_root: str | Path | None = None,
    cache_dir: str | Path | None = None,
    device: str = "auto",
    images: bool = False,
    save: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Test the network of a finished run again, without training; the record does not change.

    Features that the run kept (`evaluation.keep_features`) are ranked at once; otherwise the
    network embeds the test images.

    Args:
        run: its name, the beginning of the name, or its folder.
        changes: `dataset=NAME` to test on another data set; `dataset.KEY=VALUE` for its options,
            and for data that have moved, because records hold no paths.
        stage: whose network; None: the last one's. protocol: None: the standard one.
        images: use the network even if features were kept.
        save: write the result beside the record; of another data set, where
            `harness table --cross` finds it.

    Returns:
        The metrics in percent, with `run`, `stage`, `rule`, `source` and, where they apply,
        `dataset` and `written`.

    Raises:
        HarnessError: no such run or stage, a protocol out of range, neither features nor weights,
            or missing data.
    """
    protocol = protocol or EvaluationProtocol()
    protocol.check()
    found = Store(Path(store)).find(run)
    stages = list(found.record.get("stages", {}))
    if not stages:
        raise ConfigError(f"{found.name} is not finished.", "Give its command again to finish it.")
    stage = stage or stages[-1]
    if stage not in stages:
        raise ConfigError(f"{found.name} has no stage '{stage}'.", did_you_mean(stage, stages))
    on = resolve_device(device)
    answer = {"run": found.name, "stage": stage, "rerank": protocol.rerank,
              "rule": protocol.as_dict()}  # fmt: skip
    if not (images or changes) and (kept := kept_features.load(found.folder, stage)):
        result = score(kept.query.to(on), kept.gallery.to(on), kept.ground_truth, protocol)
        answer |= {"source": "features", **protocol.metrics(result)}
        if save:
            answer["written"] = str(
                evaluations.save(found, stage, protocol, result, "features", kept.fingerprint)
            )
        return answer
    config = found.config()
    other = choose(config, changes)
    backbone = load_network(found, stage).to(on)
    with reporter or Reporter() as reporter:
        evaluator = _evaluator(config, on, protocol, data_root, cache_dir, reporter)
        if not evaluator.evaluates:
            raise DataError(f"{evaluator.data.name} has no test part.", "Choose another dataset=.")
        if not other and evaluator.fingerprint != found.record["dataset"]["fingerprint"]:
            reporter.say("These are not the images that the run's record was made with.")
        for line in evaluator.differences or []:
            reporter.say(f"{evaluator.data.name} is not as published: {line}")
        evaluator.test(backbone)
    assert evaluator.last is not None
    answer |= {"source": "network", **protocol.metrics(evaluator.last)}
    if other:
        answer["dataset"] = evaluator.data.name
    if save and other:
        section = sections(config["dataset"])[0]
        answer["written"] = str(cross_domain.save(found, stage, evaluator, protocol, section))
    elif save:
        answer["written"] = str(
            evaluations.save(
                found, stage, protocol, evaluator.last, "network", evaluator.fingerprint
            )
        )
    return answer


def _evaluator(
    config: dict[str, Any],
    device: torch.device,
    protocol: EvaluationProtocol,
    data_root: str | Path | None,
    cache_dir: str | Path | None,
    reporter: Reporter,
) -> Evaluator:
    """The test part of a run's data set."""
    if device.type == "cpu":
        keep_freed_memory()
    root = Path(data_root or os.environ.get("HARNESS_DATA", "data")).expanduser()
    return make_evaluator(
        build(OmegaConf.create(complete(config["dataset"], root)), "dataset").load(),
        (int(config["images"]["height"]), int(config["images"]["width"])),
        Path(cache_dir).expanduser() if cache_dir else root / ".harness",
        train=False,
        on_bad_image=config["dataset"].get("on_bad_image", "error"),
        device=device,
        precision=_precision(config["train"]["precision"], device),
        reporter=reporter,
        protocol=protocol,
    )


def describe(answer: dict[str, Any]) -> str:
    """One line for the terminal."""
    rule = answer["rule"]
    words = [
        f" on {answer['dataset']}" if "dataset" in answer else "",
        " re-ranked" if answer["rerank"] else "",
        "" if rule["cameras"] else " without cameras",
    ]
    usual = tuple(rule["ranks"]) == tuple(RANKS)
    shares = "  ".join(
        f"Rank-{k} {answer[f'rank{k}']:.1f}" for k in rule["ranks"] if not (usual and k == 20)
    )
    kept = "  [from kept features, float16]" if answer["source"] == "features" else ""
    return (
        f"{answer['run']} ({answer['stage']}){''.join(words)}: mAP {answer['mAP']:.1f}  "
        f"{shares}  mINP {answer['mINP']:.1f}{kept}"
    )


def _precision(trained_in: str, device: torch.device) -> str:
    """The run's own precision, or fp32 where the device does not have it."""
    return "fp32" if trained_in == "fp16" and device.type != "cuda" else trained_in


def choose(config: dict[str, Any], changes: Sequence[str]) -> bool:
    """Apply `dataset=NAME` and `dataset.KEY=VALUE` to a run's configuration.

    Returns:
        Whether a data set was named: one with the settings of its own page, not the run's.

    Raises:
        ConfigError: something else, or an option or data set that does not exist.
    """
    named = [change for change in changes if change.startswith("dataset=")]
    for change in named:
        name = change.partition("=")[2]
        if BETWEEN in name or "[" in name:
            raise ConfigError(f"'{change}': one data set at a time.", "Evaluate on each in turn.")
        config["dataset"] = settings(name, register()["datasets"])
    for change in changes:
        if change in named:
            continue
        key, _, value = change.partition("=")
        *path, last = key.removeprefix("dataset.").split(".")
        if not key.startswith("dataset.") or not value:
            raise ConfigError(f"'{change}' is not dataset.KEY=VALUE.")
        section = config["dataset"]
        for step in path:
            section = section.get(step) if isinstance(section, dict) else None
        if not isinstance(section, dict) or last not in section:
            raise ConfigError(
                f"There is no option '{key}'.", did_you_mean(last, section or config["dataset"])
            )
        section[last] = yaml.safe_load(value)
    missing = [key for key, value in config["dataset"].items() if value == "???"] if named else []
    if missing:
        raise ConfigError(
            f"No value was given for dataset.{missing[0]}.",
            f"Give one: dataset.{missing[0]}=VALUE.",
        )
    return bool(named)

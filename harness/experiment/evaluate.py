"""Test the network of a finished run again, by another evaluation protocol or on other data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from harness.core.errors import ConfigError, DataError, did_you_mean
from harness.core.files import expanded
from harness.core.host_memory import keep_freed_memory
from harness.core.options import value_of
from harness.core.precision import resolve_device
from harness.core.progress import Reporter
from harness.data.cache_folder import cache_folder
from harness.evaluation import kept_features
from harness.evaluation.evaluator import Evaluator, make_evaluator
from harness.evaluation.protocol import EvaluationProtocol, score
from harness.evaluation.ranking import RANKS
from harness.experiment import cross_domain
from harness.experiment.finished_networks import load_network
from harness.experiment.joint_datasets import BETWEEN, complete, sections, settings
from harness.experiment.plan import check_name
from harness.experiment.registration import register
from harness.experiment.stages import build, named, preprocessing
from harness.results import evaluations
from harness.results.store import Run, Store


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
        changes: `dataset=NAME` to test on another data set, `dataset.KEY=VALUE` for its options.
        stage: by default the last one. protocol: by default the standard one.
        images: use the network even if features were kept.
        save: write the result beside the record, where `harness table --cross` finds it.

    Returns:
        The metrics in percent, with `run`, `stage`, `rule`, `source`, and `dataset` and `written`
        where they apply.

    Raises:
        HarnessError: no such run or stage, a protocol out of range, or data are missing.
    """
    protocol = protocol or EvaluationProtocol()
    protocol.check()
    found = Store(Path(store)).find(run)
    stage = find_stage(found, stage)
    on = resolve_device(device)
    answer = {"run": found.name, "stage": stage, "rerank": protocol.rerank,
              "rule": protocol.as_dict()}  # fmt: skip
    written = None
    if not (images or changes) and (kept := kept_features.load(found.folder, stage)):
        result = score(kept.query.to(on), kept.gallery.to(on), kept.ground_truth, protocol)
        answer |= {"source": "features", **protocol.metrics(result)}
        if save:
            written = evaluations.save(found, stage, protocol, result, "features", kept.fingerprint)
    else:
        backbone = load_network(found, stage).to(on)
        config = found.complete_config()
        other = choose(config, changes)
        root, cache = data_folders(data_root, cache_dir)
        with reporter or Reporter() as reporter:
            evaluator = recorded_evaluator(config, root, cache, on, reporter, protocol)
            if not evaluator.evaluates:
                raise DataError(
                    f"{evaluator.data.name} has no test part.", "Choose another dataset=."
                )
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
            written = cross_domain.save(found, stage, evaluator, protocol, section)
        elif save:
            written = evaluations.save(
                found, stage, protocol, evaluator.last, "network", evaluator.fingerprint
            )
    return answer | ({"written": str(written)} if written else {})


def find_stage(
    run: Run, stage: str | None, hint: str = "Give its command again to finish it."
) -> str:
    """The name of a finished run's stage; the last one by default.

    Raises:
        ConfigError: the run is unfinished, which `hint` follows, or has no such stage.
    """
    stages = list(run.record.get("stages", {}))
    if not stages:
        raise ConfigError(f"{run.name} is not finished.", hint)
    if stage not in (None, *stages):
        raise ConfigError(f"{run.name} has no stage '{stage}'.", did_you_mean(str(stage), stages))
    return stage or stages[-1]


def data_folders(root: str | Path | None, cache: str | Path | None) -> tuple[Path, Path]:
    """The folders of data sets, by default $HARNESS_DATA, and of decoded images."""
    found = expanded(root or os.environ.get("HARNESS_DATA", "data"))
    return found, cache_folder(found, cache)


def recorded_evaluator(
    config: dict[str, Any],
    root: Path,
    cache: Path,
    device: torch.device,
    reporter: Reporter,
    protocol: EvaluationProtocol,
    train: bool = False,
) -> Evaluator:
    """The evaluator of the data set in a run's config.json, `train` with its training part."""
    if device.type == "cpu":
        keep_freed_memory()
    return make_evaluator(
        named(
            build(OmegaConf.create(complete(config["dataset"], root)), "dataset").load(),
            str(config["dataset"]["name"]),
        ),
        (int(config["images"]["height"]), int(config["images"]["width"])),
        cache,
        train=train,
        on_bad_image=config["dataset"].get("on_bad_image", "error"),
        device=device,
        precision=recorded_precision(config, device),
        reporter=reporter,
        protocol=protocol,
        interpolation=preprocessing(OmegaConf.create(config["backbone"])).interpolation,
    )


def recorded_precision(config: dict[str, Any], device: torch.device) -> str:
    """The run's own precision, or fp32 where the device does not have it."""
    trained_in = str(config["train"]["precision"])
    return "fp32" if trained_in == "fp16" and device.type != "cuda" else trained_in


def describe(answer: dict[str, Any]) -> str:
    """An answer of `evaluate_run` in one line."""
    rule = answer["rule"]
    words = f" on {answer['dataset']}" if "dataset" in answer else ""
    words += " re-ranked" if answer["rerank"] else ""
    words += "" if rule["cameras"] else " without cameras"
    usual = tuple(rule["ranks"]) == tuple(RANKS)
    shares = "  ".join(
        f"Rank-{k} {answer[f'rank{k}']:.1f}" for k in rule["ranks"] if not (usual and k == 20)
    )
    kept = "  [from kept features, float16]" if answer["source"] == "features" else ""
    return (
        f"{answer['run']} ({answer['stage']}){words}: mAP {answer['mAP']:.1f}  "
        f"{shares}  mINP {answer['mINP']:.1f}{kept}"
    )


def choose(config: dict[str, Any], changes: Sequence[str]) -> bool:
    """Apply `dataset=NAME` and `dataset.KEY=VALUE` to a run's configuration.

    Returns:
        Whether a data set was named: one with the settings of its own page, not the run's.

    Raises:
        ConfigError: something else, an option or data set that does not exist, or a name that no
            folder may have.
    """
    named = False
    for change in sorted(changes, key=lambda change: not change.startswith("dataset=")):
        key, _, value = change.partition("=")
        if key == "dataset":
            if BETWEEN in value or "[" in value:
                raise ConfigError(
                    f"'{change}': one data set at a time.", "Evaluate on each in turn."
                )
            config["dataset"], named = settings(value, register()["datasets"]), True
            continue
        *path, last = key.removeprefix("dataset.").split(".")
        if not key.startswith("dataset.") or not value:
            raise ConfigError(
                f"'{change}' is not dataset.KEY=VALUE.", "Images elsewhere: --data-root DIR."
            )
        section = config["dataset"]
        for step in path:
            section = section.get(step) if isinstance(section, dict) else None
        if not isinstance(section, dict) or last not in section:
            raise ConfigError(
                f"There is no option '{key}'.", did_you_mean(last, section or config["dataset"])
            )
        section[last] = value_of(change)
    for key, value in config["dataset"].items() if named else ():
        if value == "???":
            raise ConfigError(
                f"No value was given for dataset.{key}.", f"Give one: dataset.{key}=VALUE."
            )
    check_name("dataset.name", str(config["dataset"]["name"]))  # of files beside the record
    return named

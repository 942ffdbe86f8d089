"""`harness eval`: test the network of a finished run again, by another rule, without training."""

from __future__ import annotations

import json as jsonlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import OmegaConf
from rich.console import Console

from harness.core.errors import ConfigError, DataError, did_you_mean
from harness.core.host_memory import keep_freed_memory
from harness.core.precision import resolve_device
from harness.core.progress import Reporter
from harness.evaluation import kept_features
from harness.evaluation.evaluator import make_evaluator
from harness.evaluation.protocol import EvaluationProtocol, score
from harness.evaluation.ranking import RANKS, RankingResult
from harness.experiment import cross_domain as transfers
from harness.experiment.finished_networks import load_network
from harness.experiment.joint_datasets import BETWEEN, complete, sections, settings
from harness.experiment.registration import register
from harness.experiment.stages import build
from harness.results import evaluations
from harness.results.store import Run, Store


def evaluate_run(
    run: str,
    changes: Sequence[str] = (),
    stage: str | None = None,
    rerank: bool = False,
    store: str = "results/runs",
    data_root: str | None = None,
    cache: str | None = None,
    device: str = "auto",
    json: bool = False,
    k1: int = 20,
    k2: int = 6,
    lam: float = 0.3,
    ranks: Sequence[int] = RANKS,
    no_cams: bool = False,
    images: bool = False,
    save: bool = False,
) -> dict[str, Any]:
    """Metrics in percent of a run's network; printed, and not written into its record.

    Features that the run kept (evaluation.keep_features) are scored at once; else its network sees
    the images again.

    Args:
        changes: `dataset=NAME` for another data set than the run's; `dataset.KEY=VALUE` for its
            options, and for data that have moved (records hold no places).
        rerank, k1, k2, lam, ranks, no_cams: the rule, see `EvaluationProtocol`.
        images: by the network even where features were kept. save: write the result beside the
            record; of another data set, where `harness table --cross` looks for it.

    Raises:
        HarnessError: no such run or stage, a rule out of range, neither features nor weights,
            missing data.
    """
    rule = EvaluationProtocol(rerank, k1, k2, lam, not no_cams, tuple(ranks))
    if not rerank and (k1, k2, lam) != (20, 6, 0.3):
        raise ConfigError("--k1, --k2 and --lambda are of re-ranking.", "Add --rerank.")
    rule.check()
    found = Store(Path(store)).find(run)
    stages = list(found.record.get("stages", {}))
    if not stages:
        raise ConfigError(f"{found.name} is not finished.", "Give its command again to finish it.")
    stage = stage or stages[-1]
    if stage not in stages:
        raise ConfigError(f"{found.name} has no stage '{stage}'.", did_you_mean(stage, stages))
    if not (images or changes) and (kept := kept_features.load(found.folder, stage)):
        on = resolve_device(device)
        result = score(kept.query.to(on), kept.gallery.to(on), kept.ground_truth, rule)
        written = None
        if save:
            written = evaluations.save(found, stage, rule, result, "features", kept.fingerprint)
        return _told(_answer(found, stage, rule, result, "features"), rule, json, written)
    config = found.config()
    other = choose(config, changes)
    root = Path(data_root or os.environ.get("HARNESS_DATA", "data")).expanduser()
    on = resolve_device(device)
    if on.type == "cpu":
        keep_freed_memory()
    backbone = load_network(found, stage).to(on)
    with Reporter(Console(stderr=True, highlight=False) if json else None) as reporter:
        evaluator = make_evaluator(
            build(OmegaConf.create(complete(config["dataset"], root)), "dataset").load(),
            (int(config["images"]["height"]), int(config["images"]["width"])),
            Path(cache).expanduser() if cache else root / ".harness",
            train=False,
            on_bad_image=config["dataset"].get("on_bad_image", "error"),
            device=on,
            precision=_precision(config["train"]["precision"], on),
            reporter=reporter,
            protocol=rule,
        )
        if not evaluator.evaluates:
            raise DataError(f"{evaluator.data.name} has no test part.", "Choose another dataset=.")
        if not other and evaluator.fingerprint != found.record["dataset"]["fingerprint"]:
            reporter.say("These are not the images that the run's record was made with.")
        for line in evaluator.differences or []:
            reporter.say(f"{evaluator.data.name} is not as published: {line}")
        evaluator.test(backbone)
    assert evaluator.last is not None
    answer = _answer(found, stage, rule, evaluator.last, "network")
    written = None
    if other:
        answer["dataset"] = evaluator.data.name
        if save:
            section = sections(config["dataset"])[0]
            written = transfers.save(found, stage, evaluator, rule, section)
    elif save:
        written = evaluations.save(
            found, stage, rule, evaluator.last, "network", evaluator.fingerprint
        )
    return _told(answer, rule, json, written)


def _answer(
    run: Run, stage: str, rule: EvaluationProtocol, result: RankingResult, source: str
) -> dict[str, Any]:
    return {
        "run": run.name, "stage": stage, "rerank": rule.rerank, "rule": rule.as_dict(),
        "source": source, **rule.metrics(result),
    }  # fmt: skip


def _told(
    answer: dict[str, Any], rule: EvaluationProtocol, json: bool, written: Path | None
) -> dict[str, Any]:
    """Print what came out and where it was written."""
    if json:
        print(jsonlib.dumps(answer))
    else:
        words = [f" on {answer['dataset']}" if "dataset" in answer else "",
                 " re-ranked" if rule.rerank else "",
                 "" if rule.cameras else " without cameras"]  # fmt: skip
        shown = [k for k in rule.ranks if k != 20 or tuple(rule.ranks) != tuple(RANKS)]
        shares = "  ".join(f"Rank-{k} {answer[f'rank{k}']:.1f}" for k in shown)
        print(
            f"{answer['run']} ({answer['stage']}){''.join(words)}: mAP {answer['mAP']:.1f}  "
            f"{shares}  mINP {answer['mINP']:.1f}"
            + ("  [from kept features, float16]" if answer["source"] == "features" else "")
        )
    if written:
        print(f"written: {written}", file=sys.stderr)
    return answer


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

"""`harness eval`: test the network of a finished run again, by another rule, without training."""

from __future__ import annotations

import json as jsonlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from harness import kept_features, plugins
from harness.errors import ConfigError, did_you_mean
from harness.evaluation.ranking import RANKS, RankingResult
from harness.evaluation.rule import Rule, score
from harness.memory import keep_freed_memory
from harness.networks import load_network
from harness.precision import resolve_device
from harness.progress import Reporter
from harness.recipe import build
from harness.referee import make_referee
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
        changes: `dataset.KEY=VALUE`, for data that have moved (records hold no places).
        rerank, k1, k2, lam, ranks, no_cams: the rule, see `Rule`.
        images: by the network even where features were kept. save: write the result beside the
            record.

    Raises:
        HarnessError: no such run or stage, a rule out of range, neither features nor weights,
            missing data.
    """
    rule = Rule(rerank, k1, k2, lam, not no_cams, tuple(ranks))
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
        result = score(kept.query.to(on), kept.gallery.to(on), kept.truth, rule)
        return _told(found, stage, rule, result, "features", kept.fingerprint, json, save)
    config = found.config()
    for change in changes:
        key, _, value = change.partition("=")
        name = key.removeprefix("dataset.")
        if not key.startswith("dataset.") or not value:
            raise ConfigError(f"'{change}' is not dataset.KEY=VALUE.")
        if name not in config["dataset"]:
            raise ConfigError(f"There is no option '{key}'.", did_you_mean(name, config["dataset"]))
        config["dataset"][name] = yaml.safe_load(value)
    root = Path(data_root or os.environ.get("HARNESS_DATA", "data")).expanduser()
    on = resolve_device(device)
    if on.type == "cpu":
        keep_freed_memory()
    backbone = load_network(found, stage).to(on)
    with Reporter() as reporter:
        referee = make_referee(
            _dataset(found, config, root).load(),
            (int(config["images"]["height"]), int(config["images"]["width"])),
            Path(cache).expanduser() if cache else root / ".harness",
            train=False,
            on_bad_image=config["dataset"].get("on_bad_image", "error"),
            device=on,
            precision=config["train"]["precision"],
            rerank=rule.rerank,
            reporter=reporter,
        )
        if referee.fingerprint != found.record["dataset"]["fingerprint"]:
            reporter.say("These are not the images that the run's record was made with.")
        referee.rule = rule
        referee.test(backbone)
    assert referee.last is not None
    return _told(found, stage, rule, referee.last, "network", referee.fingerprint, json, save)


def _told(
    run: Run, stage: str, rule: Rule, result: RankingResult, source: str, fingerprint: str,
    json: bool, save: bool,
) -> dict[str, Any]:  # fmt: skip
    """Print what came out, and keep it if asked to."""
    metrics = rule.metrics(result)
    answer = {"run": run.name, "stage": stage, "rerank": rule.rerank, "rule": rule.as_dict(),
              "source": source, **metrics}  # fmt: skip
    written = evaluations.save(run, stage, rule, result, source, fingerprint) if save else None
    if json:
        print(jsonlib.dumps(answer))
        return answer
    words = [" re-ranked" if rule.rerank else "", "" if rule.cameras else " without cameras"]
    shown = [k for k in rule.ranks if k != 20 or tuple(rule.ranks) != tuple(RANKS)]
    shares = "  ".join(f"Rank-{k} {metrics[f'rank{k}']:.1f}" for k in shown)
    print(
        f"{run.name} ({stage}){''.join(words)}: mAP {metrics['mAP']:.1f}  {shares}  "
        f"mINP {metrics['mINP']:.1f}"
        + ("  [from kept features, float16]" if source == "features" else "")
    )
    if written:
        print(f"written: {written}")
    return answer


def _dataset(run: Run, config: dict[str, Any], root: Path) -> Any:
    """The run's data set, looked for under `root` (records hold no paths)."""
    name = config["dataset"]["name"]
    found = plugins.register()["datasets"]
    if name not in found:
        raise ConfigError(f"{run.name} is of data set '{name}', which is not installed here.")
    own = OmegaConf.to_container(OmegaConf.load(found[name].folder / "config.yaml"), resolve=False)
    assert isinstance(own, dict)
    settings = own | config["dataset"]
    settings = {k: v for k, v in settings.items() if k not in ("name", "on_bad_image", "defaults")}
    if "root" in settings:
        settings["root"] = str(root)
    return build(OmegaConf.create(settings), f"dataset {name}")

"""`harness eval`: test the network of a finished run again, by another rule, without training."""

from __future__ import annotations

import json as jsonlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import OmegaConf

from harness import plugins
from harness.errors import ConfigError, did_you_mean
from harness.memory import keep_freed_memory
from harness.networks import load_network
from harness.precision import resolve_device
from harness.progress import Reporter
from harness.recipe import build
from harness.referee import make_referee
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
) -> dict[str, Any]:
    """Metrics in percent of a run's network; printed, and not written into its record.

    Args:
        changes: `dataset.KEY=VALUE`, for data that have moved (records hold no places).

    Raises:
        HarnessError: no such run or stage, weights that were not kept, missing data.
    """
    found = Store(Path(store)).find(run)
    stages = list(found.record.get("stages", {}))
    if not stages:
        raise ConfigError(f"{found.name} is not finished.", "Give its command again to finish it.")
    stage = stage or stages[-1]
    if stage not in stages:
        raise ConfigError(f"{found.name} has no stage '{stage}'.", did_you_mean(stage, stages))
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
            precision=_precision(config["train"]["precision"], on),
            rerank=rerank,
            reporter=reporter,
        )
        if referee.fingerprint != found.record["dataset"]["fingerprint"]:
            reporter.say("These are not the images that the run's record was made with.")
        metrics = referee.test(backbone)
    result = {"run": found.name, "stage": stage, "rerank": rerank, **metrics}
    if json:
        print(jsonlib.dumps(result))
    else:
        print(
            f"{found.name} ({stage}){' re-ranked' if rerank else ''}: mAP {metrics['mAP']:.1f}  "
            f"Rank-1 {metrics['rank1']:.1f}  Rank-5 {metrics['rank5']:.1f}  "
            f"Rank-10 {metrics['rank10']:.1f}  mINP {metrics['mINP']:.1f}"
        )
    return result


def _precision(trained_in: str, device: torch.device) -> str:
    """The run's own precision, or fp32 where the device does not have it."""
    return "fp32" if trained_in == "fp16" and device.type != "cuda" else trained_in


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

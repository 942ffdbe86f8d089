"""The data set of a finished run, found again: records hold no places, and data may have moved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from harness import plugins
from harness.errors import ConfigError, did_you_mean
from harness.interfaces import Dataset
from harness.recipe import build
from harness.results.store import Run


def changed_data(config: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """A run's configuration with `dataset.KEY=VALUE` for data that have moved.

    Raises:
        ConfigError: a change that is none, or of an option that the data set does not have.
    """
    for change in changes:
        key, _, value = change.partition("=")
        name = key.removeprefix("dataset.")
        if not key.startswith("dataset.") or not value:
            raise ConfigError(f"'{change}' is not dataset.KEY=VALUE.")
        if name not in config["dataset"]:
            raise ConfigError(f"There is no option '{key}'.", did_you_mean(name, config["dataset"]))
        config["dataset"][name] = yaml.safe_load(value)
    return config


def dataset_of(run: Run, config: dict[str, Any], root: Path) -> Dataset:
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

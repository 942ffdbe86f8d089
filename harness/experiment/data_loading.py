"""Load the data set of a configuration."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from harness.core.errors import ConfigError
from harness.data.types import Dataset, ReIDData
from harness.experiment.stages import build


def load_data(config: DictConfig) -> ReIDData:
    """The images, identities and cameras of a data set; no image is decoded.

    Raises:
        ConfigError: wrong options. DataError: the data set is missing or incomplete.
    """
    return make_dataset(config).load()


def make_dataset(config: DictConfig) -> Dataset:
    """The loader of a data set, or a ConfigError that names a wrong option."""
    node: Any = OmegaConf.to_container(config.dataset, resolve=True)
    name, on_bad_image = node.pop("name"), node.pop("on_bad_image", "error")
    if on_bad_image not in ("error", "skip"):
        raise ConfigError(f"dataset.on_bad_image={on_bad_image} is unknown.", "Use error or skip.")
    return build(OmegaConf.create(node), f"dataset {name}")

"""The data set that a configuration names."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from harness.core.errors import ConfigError
from harness.data.types import Dataset, ReIDData
from harness.experiment.stages import build


def load_data(config: DictConfig) -> ReIDData:
    """The data set of a configuration, found and parsed; no image is decoded.

    Raises:
        ConfigError: options that it refuses. DataError: it is missing or incomplete.
    """
    return make_dataset(config).load()


def make_dataset(config: DictConfig) -> Dataset:
    """What loads the data set of a configuration.

    Raises:
        ConfigError: options that it refuses.
    """
    node = OmegaConf.to_container(config.dataset, resolve=True)
    assert isinstance(node, dict)
    name, on_bad_image = node.pop("name"), node.pop("on_bad_image", "error")
    if on_bad_image not in ("error", "skip"):
        raise ConfigError(f"dataset.on_bad_image={on_bad_image} is unknown.", "error or skip")
    return build(OmegaConf.create(node), f"dataset {name}")

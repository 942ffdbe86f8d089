"""An experiment that runs in a second or two, for tests."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from harness.experiment.compose import compose

#: an eighth of the smallest synthetic data set: everything runs, nothing is learned
TINY = (
    "dataset=synthetic",
    "protocol=debug",
    "dataset.identities=12",
    "dataset.test_identities=6",
    "dataset.cameras=3",
    "backbone.widths=[8,16]",
    "backbone.strides=[1,2]",
    "images.height=32",
    "images.width=16",
    "images.pad=2",
    "device=cpu",
)


def tiny(folder: Path, *overrides: str) -> list[str]:
    """Overrides of a tiny experiment with data and records under `folder`."""
    places = [f"store={folder}/runs", f"data.root={folder}/data"]
    return [*TINY, *places, *overrides]


def tiny_config(folder: Path, *overrides: str) -> DictConfig:
    """The composed configuration of a tiny experiment."""
    return compose(tiny(folder, *overrides))

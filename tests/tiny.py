"""An experiment that runs in a second or two, for tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from PIL import Image

from harness.core import plugins
from harness.core.errors import ConfigError
from harness.core.variants import overridden
from harness.experiment.compose import compose
from harness.experiment.labelled_source import source_stages
from harness.experiment.recipe import make_recipe

#: an eighth of the smallest synthetic data set: everything runs, nothing is learned
TINY = (
    "dataset=synthetic",
    "protocol=debug",
    "dataset.identities=12",
    "dataset.test_identities=6",
    "dataset.cameras=3",
    "backbone.widths=[8,16]",
    "backbone.strides=[1,2]",
    "backbone.weights=none",
    "images.height=32",
    "images.width=16",
    "images.pad=2",
    "device=cpu",
)
#: a labeled source of the same size, of other people
SOURCE = (
    "source=synthetic",
    "source.seed=1",
    "source.identities=12",
    "source.cameras=3",
    "source.test_identities=2",
)


@cache
def needs_source(method: str) -> bool:
    """Whether `method=METHOD` trains on a labeled source that it has to be given.

    False for what is no method, such as several of a sweep.
    """
    try:
        config = compose([f"method={method}"])
        return config.source is None and bool(source_stages(make_recipe(config).stages))
    except ConfigError:
        return False


def source_of(method: str) -> tuple[str, ...]:
    """The overrides of a labeled source for a method that needs one."""
    return SOURCE if needs_source(method) else ()


#: a ViT of 64 features, in place of a method's own
TINY_VIT = ("backbone.model=test_vit", "backbone.pretrained=false", "backbone.weights=none")


def has_own_backbone(method: str) -> bool:
    """Whether a method, or the method of a variant, chooses a backbone."""
    plugin = plugins.find()["methods"].get(method.partition("/")[0])
    return plugin is not None and "backbone" in _chosen(plugin.folder / "config.yaml")


@cache
def _chosen(config: Path) -> set[str]:
    """The parts that a method's file chooses."""
    return set(overridden(plugins.load_config(config)))


def tiny(folder: Path, *overrides: str) -> list[str]:
    """Overrides of a tiny experiment with data and records under `folder`."""
    places = [f"store={folder}/runs", f"data.root={folder}/data"]
    named = [word.removeprefix("backbone=") for word in overrides if word.startswith("backbone=")]
    methods = [word.removeprefix("method=") for word in overrides if word.startswith("method=")]
    vit = not named and any(map(has_own_backbone, methods))
    other = vit or any(name != "small" for name in named)
    usual = [word for word in TINY if not (other and word.startswith("backbone."))]
    given = any(word.startswith("source=") for word in overrides)
    source = source_of(methods[-1]) if methods and not given else ()
    return [*usual, *(TINY_VIT if vit else ()), *places, *source, *overrides]


def tiny_config(folder: Path, *overrides: str) -> DictConfig:
    """The composed configuration of a tiny experiment."""
    return compose(tiny(folder, *overrides))


def own_images(folder: Path, cameras: bool = True) -> list[str]:
    """Overrides of a tiny experiment on own images: noise, 8 identities with 4 images each."""
    people = folder / "people"
    people.mkdir()
    rows = ["path,id,camera,split" if cameras else "path,id,split"]
    generator = np.random.default_rng(0)
    for identity in range(8):
        for shot in range(4):
            split = "train" if identity < 4 else ("query" if shot == 0 else "gallery")
            name = f"{identity}_{shot}.png"
            pixels = generator.integers(0, 255, (32, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(people / name)
            rows.append(",".join([name, str(identity + 1), *([str(shot)] * cameras), split]))
    (people / "list.csv").write_text("\n".join(rows))
    return [
        "method=cluster_contrast", "dataset=folder", f"dataset.csv={people}/list.csv",
        "protocol=debug", "neighbours.k1=4", "neighbours.k2=1", "labeler.min_samples=1",
        "batch.identities=2", "batch.images=2", "backbone.widths=[8]", "backbone.strides=[1]",
        "backbone.weights=none",
        f"store={folder}/runs", f"data.root={folder}/data", "device=cpu",
    ]  # fmt: skip

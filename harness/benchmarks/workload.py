"""The training stage and the images that `harness bench train | extract | augment` time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from harness.core.errors import ConfigError
from harness.core.interfaces import Backbone, Objective
from harness.core.precision import resolve_precision
from harness.core.seeds import generator
from harness.data.cache_location import place_images
from harness.data.image_cache import build_image_cache
from harness.data.image_files import ImageFiles
from harness.data.image_source import ImageSource, Subset
from harness.data.samplers import SAMPLERS
from harness.experiment.compose import compose
from harness.experiment.recipe import make_recipe
from harness.experiment.registration import register
from harness.experiment.stages import Stage, backbone_name, build_backbone, load_data, preprocessing
from harness.training.compilation import check_compile

#: MSKD's network and loss under the common protocol; overrides of the command line win
DEFAULTS = ("method=mskd", "dataset=synthetic", "protocol=common", "backbone.weights=none",
            "train.precision=auto")  # fmt: skip
#: (width, height) and quality of the JPEGs that stand in for a data set without files
JPEG_SIZE, JPEG_QUALITY = (64, 128), 95


class Workload:
    """The first stage of a configuration, with images in the image cache and as files.

    Args:
        overrides: KEY=VALUE of the configuration, on top of `DEFAULTS`.
        images: use at most this many training images.
        folder: for the image cache, and for JPEGs if the data set has no files.

    Raises:
        ConfigError: the method does not train, or there are fewer images than a batch holds.
    """

    def __init__(
        self, overrides: Sequence[str], device: torch.device, images: int, folder: Path
    ) -> None:
        register()
        self.config: DictConfig = compose(with_defaults(DEFAULTS, overrides))
        recipe = make_recipe(self.config)
        if not recipe.stages:
            raise ConfigError(f"{recipe.method} does not train.", "Choose method=mskd, say.")
        self.stage: Stage = recipe.stages[0]
        if self.stage.teacher_run is not None:
            raise ConfigError("bench cannot load a finished teacher.", "Omit distiller.teacher=.")
        self.device = device
        self.precision = resolve_precision(str(self.config.train.precision), device)
        check_compile(self.config.train.compile, device)
        self.size = (int(self.config.images.height), int(self.config.images.width))
        batch = self.stage.config.batch
        self.batch = int(batch.identities) * int(batch.images)
        source = load_data(self.config).train.images
        self.count = min(images, len(source))
        if self.count < self.batch:
            raise ConfigError(f"{self.count} images are fewer than a batch of {self.batch}.",
                              "Raise --images, or set batch.identities=4.")  # fmt: skip
        chosen = np.linspace(0, len(source) - 1, self.count).astype(np.int64)
        self.files = as_files(Subset(source, chosen), folder)
        cache = build_image_cache(
            self.files, self.size, folder / "image_cache",
            interpolation=preprocessing(self.stage.config.backbone).interpolation,
        )  # fmt: skip
        location = str(self.config.data.cache_location)
        self.image_cache, self.place = place_images(location, cache, device)
        #: (N,) int64: clusters of K images each
        self.labels = torch.arange(self.count) // int(batch.images)
        self.cameras = torch.arange(self.count) % 6

    def drawn(self, batches: int) -> list[Tensor]:
        """Image indices (B,) of each batch, drawn by the stage's sampler."""
        batch = self.stage.config.batch
        sampler = SAMPLERS[str(batch.sampler)](
            self.labels, None, int(batch.identities), int(batch.images), generator(0, "bench")
        )
        return list(sampler.batches(batches))

    def backbone(self) -> Backbone:
        torch.manual_seed(0)
        return build_backbone(self.stage.config.backbone)

    @torch.no_grad()
    def start_epoch(self, objective: Objective, backbone: Backbone) -> None:
        """Start an epoch of the objective with random features."""
        cameras = self.cameras.to(self.device) if objective.uses_cameras else None
        features, labels = self.features(backbone), self.labels.to(self.device)
        objective.start_epoch(features, labels, cameras)

    def features(self, backbone: Backbone) -> Tensor:
        """Random features (N, V, D) on the device, L2-normalized per view."""
        features = torch.randn(self.count, len(backbone.views), backbone.dim)
        return F.normalize(features, dim=-1).to(self.device)

    def describe(self) -> dict[str, Any]:
        """Settings that a result depends on."""
        config = self.stage.config
        return {
            "method": str(config.method.name),
            "backbone": backbone_name(config.backbone),
            "views": list(config.backbone.get("views") or ["global"]),
            "input": f"{self.size[0]}x{self.size[1]}",
            "batch": self.batch,
            "samples_per_bn": int(config.batch.samples_per_bn),
            "precision": self.precision,
            "compile": str(config.train.compile),
            "image_cache": self.place.name,
            "dataset": str(config.dataset.name),
            "images": self.count,
        }


def with_defaults(defaults: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Overrides after the defaults; an experiment brings its own data set and protocol."""
    own = any(word.lstrip("+").startswith("experiment=") for word in overrides)
    left_out = ("dataset=", "protocol=", "train.precision=") if own else ()
    return [*(word for word in defaults if not word.startswith(left_out)), *overrides]


def as_files(source: ImageSource, folder: Path) -> ImageSource:
    """The source itself if its images are files; otherwise its images as JPEGs in `folder`."""
    inner = source
    while isinstance(inner, Subset):
        inner = inner.source
    if isinstance(inner, ImageFiles):
        return source
    names = [f"{index:06d}.jpg" for index in range(len(source))]
    for index, name in enumerate(names):
        image = source.read(index).resize(JPEG_SIZE, Image.Resampling.BICUBIC)
        image.save(folder / name, quality=JPEG_QUALITY)
    return ImageFiles(folder, names)

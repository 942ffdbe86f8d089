"""What the pipeline's benchmarks run on: a first stage, and images as image_cache and as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.nn import functional as F

from harness.benchmarks import reference
from harness.core.errors import ConfigError
from harness.core.interfaces import Backbone, Objective
from harness.core.precision import resolve_precision
from harness.core.seeds import generator
from harness.data.cache_location import place_images
from harness.data.image_cache import build_image_cache
from harness.data.image_source import Subset
from harness.data.samplers import SAMPLERS
from harness.experiment.recipe import make_recipe
from harness.experiment.stages import Stage, build_backbone
from harness.training.compilation import check_compile

#: MSKD's own network and loss, in the fair protocol; what is given on the command line wins
DEFAULTS = (
    "method=mskd", "dataset=synthetic", "protocol=common", "backbone.weights=none",
    "train.precision=auto",
)  # fmt: skip


class Setting:
    """What is measured: a composed configuration, its first stage, and images as image_cache and files."""

    def __init__(
        self, changes: Sequence[str], device: torch.device, images: int, folder: Path
    ) -> None:
        from harness.core import plugins
        from harness.experiment import compose as hydra_app
        from harness.experiment.data_loading import load_data

        plugins.register()
        self.config: DictConfig = hydra_app.compose([*DEFAULTS, *changes])
        recipe = make_recipe(self.config)
        if not recipe.stages:
            raise ConfigError(f"{recipe.method} does not train.", "Choose method=mskd, say.")
        self.stage: Stage = recipe.stages[0]
        if self.stage.teacher_run is not None:
            raise ConfigError("bench has no finished teacher.", "Leave distiller.teacher= out.")
        self.device = device
        self.precision = resolve_precision(str(self.config.train.precision), device)
        check_compile(self.config.train.compile, device)
        self.size = (int(self.config.images.height), int(self.config.images.width))
        batch = self.stage.config.batch
        self.batch = int(batch.identities) * int(batch.images)
        source = load_data(self.config).train.images
        count = min(images, len(source))
        if count < self.batch:
            raise ConfigError(
                f"{count} images are fewer than a batch of {self.batch}.",
                "Choose more --images, a larger data set, or batch.identities=4.",
            )
        chosen = np.linspace(0, len(source) - 1, count).astype(np.int64)
        self.files = reference.as_files(Subset(source, chosen), folder)
        image_cache = build_image_cache(self.files, self.size, folder / "image_cache")
        self.image_cache, self.place = place_images(
            str(self.config.data.cache_location), image_cache, device
        )

    @property
    def count(self) -> int:
        return len(self.image_cache)

    @property
    def labels(self) -> Tensor:
        """As many clusters as batches of K images fill: (N,)."""
        return torch.arange(self.count) // int(self.stage.config.batch.images)

    def drawn(self, batches: int) -> list[Tensor]:
        """Batches of image indices as the stage's sampler draws them."""
        batch = self.stage.config.batch
        sampler = SAMPLERS[str(batch.sampler)](
            self.labels, None, int(batch.identities), int(batch.images), generator(0, "bench")
        )
        return list(sampler.batches(batches))

    def plain(self, train: bool) -> reference.PlainImages:
        """The files as the plain pipeline reads them."""
        return reference.PlainImages(self.files, self.size, int(self.config.images.pad), train)

    def backbone(self) -> Backbone:
        torch.manual_seed(0)
        return build_backbone(self.stage.config.backbone)

    def begin(self, objective: Objective, backbone: Backbone) -> None:
        """The start of an epoch with made-up features."""
        features = torch.randn(self.count, len(backbone.views), backbone.dim)
        cameras = torch.arange(self.count) % 6 if objective.uses_cameras else None
        objective.start_epoch(
            F.normalize(features, dim=-1).to(self.device),
            self.labels.to(self.device),
            None if cameras is None else cameras.to(self.device),
        )

    def described(self) -> dict[str, Any]:
        """What figures have to say of it."""
        config = self.stage.config
        return {
            "method": str(config.method.name),
            "backbone": str(config.backbone.get("arch", "small")),
            "views": list(config.backbone.get("views", ["global"])),
            "input": f"{self.size[0]}x{self.size[1]}",
            "batch": self.batch,
            "samples_per_bn": int(config.batch.samples_per_bn),
            "precision": self.precision,
            "compile": str(config.train.compile),
            "image_cache": self.place.name,
            "dataset": str(config.dataset.name),
            "images": self.count,
        }

"""A trained network that embeds images."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image

from harness.core.errors import ConfigError, DataError, HarnessError
from harness.core.host_memory import halving
from harness.core.interfaces import Backbone
from harness.core.precision import has_bf16
from harness.core.preprocessing import Preprocessing
from harness.data.decoding import Progress, ReadError, decode
from harness.data.image_source import ImageSource, Subset
from harness.data.releases import shown
from harness.experiment.models.description import Description
from harness.experiment.models.inputs import AnyImage, ImagesInMemory
from harness.training.extraction import BATCH, extract

#: images that are decoded before the network embeds them; a whole number of batches
CHUNK = 1024

Views = Literal["global", "all"]


@dataclass(frozen=True, eq=False)
class Model:
    """A network in evaluation mode on its device, with its preprocessing.

    digest: of its weights and description. precision: of its arithmetic.
    """

    network: Backbone
    description: Description
    digest: str
    device: torch.device
    precision: str

    @property
    def dim(self) -> int:
        """D, the number of features of each view."""
        return self.description.dim

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the V views; the first one is the global one."""
        return self.description.views

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) that images are resized to, in pixels."""
        return self.description.size

    @property
    def preprocessing(self) -> Preprocessing:
        """Normalization, and the filter that resizes images."""
        return self.description.input

    def __repr__(self) -> str:
        height, width = self.size
        return (
            f"Model({self.description.run} {self.description.stage}: {height}×{width} pixels, "
            f"views {', '.join(self.views)} of {self.dim}, {self.device}, {self.precision})"
        )

    def embed(
        self, images: Iterable[AnyImage] | AnyImage, *, batch: int = BATCH, views: Views = "global"
    ) -> np.ndarray:
        """Features of images, as tests extract them: resized, normalized, without augmentation.

        Args:
            images: paths, Pillow images, or arrays (H, W, 3) or (H, W) of uint8 in RGB, of any
                size; an array (N, H, W, 3); or a single image.
            batch: images of a forward pass.
            views: global: the first view only. all: every view.

        Returns:
            (N, D) float32, or (N, V, D) for all views; each row L2-normalized.

        Raises:
            ConfigError: a file does not exist. DataError: an image cannot be decoded.
        """
        single = isinstance(images, str | os.PathLike | Image.Image) or (
            isinstance(images, np.ndarray) and images.ndim < 4
        )
        source = ImagesInMemory([images] if single else list(images))  # type: ignore[list-item, arg-type]
        count = self.count_views(views)
        features = np.empty((len(source), count, self.dim), dtype=np.float32)
        step = chunk_size(batch)
        for start in range(0, len(source), step):
            rows = np.arange(start, min(start + step, len(source)))
            pixels, kept = self.decode(Subset(source, rows))
            if len(kept) < len(rows):
                bad = [source.name(i) for i in np.setdiff1d(rows, rows[kept])]
                raise cannot_decode(bad, len(source), "Replace them, or leave them out.")
            features[rows] = self.extract(pixels, batch, views)
        return features[:, 0] if views == "global" else features

    def count_views(self, views: Views) -> int:
        """How many views are extracted; a ConfigError for another word than global or all."""
        if views not in ("global", "all"):
            raise ConfigError(f"views={views} is unknown.", "Use global or all.")
        return 1 if views == "global" else len(self.views)

    def decode(
        self, source: ImageSource, progress: Progress | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Images resized as image caches do, (K, H, W, 3) uint8, and the indices (K,) of those that
        can be decoded.

        Raises:
            DataError: a file cannot be read from disk.
        """
        height, width = self.size
        pixels = np.empty((len(source), height, width, 3), dtype=np.uint8)
        kept: list[int] = []
        try:
            decoded = decode(source, self.size, progress, self.preprocessing.interpolation)
            for index, (content, _) in enumerate(decoded):
                if content is not None:
                    pixels[len(kept)] = np.frombuffer(content, np.uint8).reshape(height, width, 3)
                    kept.append(index)
        except ReadError as error:
            raise DataError(
                f"An image cannot be read from disk: {error.__cause__}",
                "Check the disk and the permissions of the images.",
            ) from error
        return pixels[: len(kept)], np.array(kept, dtype=np.int64)

    def extract(
        self, pixels: np.ndarray, batch: int = BATCH, views: Views = "global",
        progress: Progress | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Features (N, V, D) float32 of images (N, H, W, 3) uint8 of the right size.

        Raises:
            HarnessError: features are not finite.
        """
        if pixels.shape[1:] != (*self.size, 3) or pixels.dtype != np.uint8:
            raise DataError(
                f"The images are {pixels.dtype} of shape {pixels.shape}, not (N, {self.size[0]}, "
                f"{self.size[1]}, 3) of uint8."
            )
        kept = self.count_views(views)

        def work(size: int) -> np.ndarray:
            where = self.device, self.precision, size
            made = extract(self.network, pixels, *where, progress=progress, views=kept)
            return made.cpu().numpy()

        features = halving(work, batch, "extraction")
        if not np.isfinite(features).all():
            raise HarnessError(
                f"The features of {self.description.run} are not finite (NaN or Inf).",
                "Its weights are damaged, or its precision overflows: try --precision fp32.",
            )
        return features


def chunk_size(batch: int) -> int:
    """Images that are decoded at once: about `CHUNK`, in whole batches.

    Raises:
        ConfigError: an impossible batch.
    """
    if not 1 <= batch <= 65536:
        raise ConfigError(f"A batch of {batch} images is impossible.", f"The default is {BATCH}.")
    return batch * max(1, CHUNK // batch)


def cannot_decode(names: list[str], total: int, hint: str) -> DataError:
    """The error for images that are damaged or no images."""
    return DataError(f"{len(names)} of {total} images cannot be decoded: {shown(names)}", hint)


def usable_precision(name: str, device: torch.device) -> str:
    """A precision that a network was trained in, or fp32 where the device computes it slowly."""
    if name == "fp16" and device.type != "cuda":
        return "fp32"
    return "fp32" if name == "bf16" and not has_bf16(device) else name


def chosen_precision(name: str | None, recorded: str, device: torch.device) -> str:
    """The precision that a user names, or by default the recorded one.

    Raises:
        ConfigError: the device does not have it.
    """
    if name is None:
        return usable_precision(recorded, device)
    if name not in ("fp32", "tf32", "bf16", "fp16"):
        raise ConfigError(f"precision={name} is unknown.", "Use fp32, tf32, bf16 or fp16.")
    if name == "fp16" and device.type != "cuda":
        raise ConfigError(f"The precision fp16 needs a GPU, not {device}.", "Use fp32 or bf16.")
    return name

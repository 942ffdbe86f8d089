"""`synthetic`: pedestrians rendered from a seed, in seconds, without any download."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import Field

from harness.core.errors import ConfigError
from harness.core.hashing import hexdigest
from harness.data.image_source import ImageSource
from harness.data.types import Dataset, ReIDData, Split

from .draws import Draws
from .render import VERSION, Shot, World


class Rendered(ImageSource):
    """Shots of one world, rendered on demand. Only three numbers (N,) per shot are stored.

    `part` is train or test (bad detections are always of `gallery`); `settings` are the world's,
    for the fingerprint.
    """

    rendered = True

    def __init__(
        self, world: World, part: str, identities: np.ndarray, cameras: np.ndarray,
        indices: np.ndarray, settings: dict[str, object],
    ) -> None:  # fmt: skip
        self._world, self._part, self._settings = world, part, settings
        self._identities, self._cameras, self._indices = (
            numbers.astype(np.int32) for numbers in (identities, cameras, indices)
        )

    def __len__(self) -> int:
        return len(self._identities)

    def shot(self, index: int) -> Shot:
        """The shot of image `index`."""
        identity = int(self._identities[index])
        part = self._part if identity else "gallery"
        return Shot(part, identity, int(self._cameras[index]), int(self._indices[index]))

    def name(self, index: int) -> str:
        """`<split>/<identity>_c<camera from 1>_<number>.png`, as in Market-1501."""
        shot = self.shot(index)
        return f"{shot.split}/{shot.identity:04d}_c{shot.camera + 1}_{shot.index:03d}.png"

    def read(self, index: int) -> Image.Image:
        """Render image `index`, (height, width) RGB; always the same pixels."""
        return self._world.render(self.shot(index))

    def fingerprint(self) -> str:
        """A digest of the renderer's version, the settings and the names."""
        names = (b"\n" + self.name(index).encode() for index in range(len(self)))
        head = json.dumps([VERSION, self._settings], sort_keys=True).encode()
        return hexdigest(itertools.chain([head], names))


class Synthetic(Dataset):
    """Rendered pedestrians: a small problem with the difficulties of real data.

    Each identity passes most of the cameras. A test identity has one query per camera; its other
    images are in the gallery, together with bad detections (identity 0).

    Raises ConfigError: the size is below 32 × 16.
    """

    def __init__(
        self,
        *,
        identities: Annotated[
            int, Field(ge=2, description="training identities, disjoint from the test identities")
        ] = 80,
        test_identities: Annotated[int, Field(ge=2, description="test identities")] = 60,
        cameras: Annotated[int, Field(ge=2, description="number of cameras")] = 5,
        images_per_camera: Annotated[
            int, Field(ge=2, description="mean number of images of an identity per camera")
        ] = 4,
        distractors: Annotated[
            float, Field(ge=0, description="bad detections in the gallery per test identity")
        ] = 1.0,
        size: Annotated[
            Sequence[Annotated[int, Field(ge=16)]],
            Field(min_length=2, max_length=2, description="height (at least 32) and width"),
        ] = (64, 32),
        difficulty: Annotated[
            float, Field(ge=0, le=2, description="color casts, exposure and occlusion")
        ] = 0.5,
        seed: Annotated[int, Field(ge=0, description="another seed gives another data set")] = 0,
        total_images: Annotated[
            int | None,
            Field(
                ge=1,
                description="total number of training and test images without bad detections, "
                "instead of images_per_camera",
            ),
        ] = None,
    ) -> None:
        if size[0] < 32:
            raise ConfigError(f"dataset.size={list(size)}: the height must be at least 32.")
        self.identities, self.test_identities, self.cameras = identities, test_identities, cameras
        self.images_per_camera, self.total_images = images_per_camera, total_images
        self.distractors, self.difficulty = float(distractors), float(difficulty)
        self.size = (size[0], size[1])
        self.seed = seed

    def load(self) -> ReIDData:
        """Lay out the three splits, without rendering images."""
        world = World(self.seed, self.size, self.difficulty)
        identities, cameras, counts = self._visits()
        visit = np.repeat(np.arange(len(counts)), counts)  # of each shot
        index = np.arange(len(visit)) - np.repeat(counts.cumsum() - counts, counts)
        shots = np.stack((identities[visit], cameras[visit], index))
        test = shots[0] > self.identities
        bad = np.arange(round(self.distractors * self.test_identities))
        bad_shots = np.stack((np.zeros_like(bad), bad % self.cameras, bad))
        gallery = np.concatenate([bad_shots, shots[:, test & (index > 0)]], axis=1)
        return ReIDData(
            name="synthetic",
            train=self._split(world, "train", *shots[:, ~test]),
            query=self._split(world, "test", *shots[:, test & (index == 0)]),
            gallery=self._split(world, "test", *gallery),
            notes={"seed": self.seed, "renderer": VERSION},
        )

    def _visits(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Visits of identities to cameras, unevenly distributed as in real data.

        Returns (V,) identities from 1, training ones first; cameras; numbers of images, 2 or more.
        """
        visits: list[tuple[int, int, int]] = []
        for identity in range(1, self.identities + self.test_identities + 1):
            draws = Draws(self.seed, "visits", identity)
            missed = draws.integer(min(2, self.cameras - 2) + 1)
            for camera in sorted(draws.shuffled(range(self.cameras))[missed:]):
                if self.total_images is None:  # between 2 and 2·mean − 2 images
                    count = 2 + draws.integer(2 * self.images_per_camera - 3)
                else:
                    count = 1 + draws.integer(1024)  # a share of the remaining images
                visits.append((identity, camera, count))
        identities, cameras, counts = np.array(visits, dtype=np.int64).T
        if self.total_images is not None:
            left = self.total_images - 2 * len(counts)
            if left < 0:
                raise ConfigError(
                    f"dataset.total_images={self.total_images} are too few for {len(counts):,} "
                    "visits of identities to cameras, with at least two images each.",
                    f"Give {2 * len(counts)} or more, or fewer identities or cameras.",
                )
            until = left * counts.cumsum() // counts.sum()
            counts = 2 + np.diff(until, prepend=0)
        return identities, cameras, counts

    def _split(
        self, world: World, part: str, identities: np.ndarray, cameras: np.ndarray,
        indices: np.ndarray,
    ) -> Split:  # fmt: skip
        settings = {key: getattr(self, key) for key in ("cameras", "difficulty", "seed", "size")}
        images = Rendered(world, part, identities, cameras, indices, settings)
        return Split(images, np.ascontiguousarray(identities), np.ascontiguousarray(cameras))

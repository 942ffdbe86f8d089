"""`synthetic`: pedestrians drawn from a seed, in seconds, with nothing to download."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from PIL import Image

from harness.core.errors import ConfigError
from harness.data.image_source import ImageSource
from harness.data.types import Dataset, ReIDData, Split

from .draws import Draws
from .render import VERSION, Shot, World


class Rendered(ImageSource):
    """Shots of one world; each is drawn when it is read. Three numbers a shot are kept, no more.

    Args:
        world: the people and cameras.
        part: train or test, of the people; bad detections are of `gallery`.
        identities, cameras, indices: (N,) which shots, in order.
        settings: all that the world was made from, for the fingerprint.
    """

    rendered = True

    def __init__(
        self,
        world: World,
        part: str,
        identities: np.ndarray,
        cameras: np.ndarray,
        indices: np.ndarray,
        settings: dict[str, object],
    ) -> None:
        self._world = world
        self._part = part
        self._identities, self._cameras, self._indices = (
            numbers.astype(np.int32) for numbers in (identities, cameras, indices)
        )
        self._settings = settings

    def __len__(self) -> int:
        return len(self._identities)

    def shot(self, index: int) -> Shot:
        """Which picture that is."""
        identity = int(self._identities[index])
        part = self._part if identity else "gallery"
        return Shot(part, identity, int(self._cameras[index]), int(self._indices[index]))

    def name(self, index: int) -> str:
        """`<split>/<identity>_c<camera from 1>_<number>.png`, as in Market-1501."""
        shot = self.shot(index)
        return f"{shot.split}/{shot.identity:04d}_c{shot.camera + 1}_{shot.index:03d}.png"

    def read(self, index: int) -> Image.Image:
        """Draw image `index`: (height, width) RGB, the same pixels each time."""
        return self._world.render(self.shot(index))

    def fingerprint(self) -> str:
        """A digest of the renderer's version, the settings and the names."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps([VERSION, self._settings], sort_keys=True).encode())
        for index in range(len(self)):
            digest.update(b"\n" + self.name(index).encode())
        return digest.hexdigest()


class Synthetic(Dataset):
    """Rendered pedestrians: a small problem with the difficulties of the real one.

    Every person passes most of the cameras; a test person gives one query per camera, and the rest
    goes to the gallery, with bad detections (identity 0) among it.

    Args:
        identities: people of the training set (other ones than those of the test set).
        test_identities: people of the test set.
        cameras: how many cameras; at least 2.
        images_per_camera: mean number of pictures of a person by a camera; at least 2 (in the
            test set one is the query).
        distractors: bad detections in the gallery, per test person.
        size: (height, width) of the pictures in pixels; at least 32 × 16.
        difficulty: from 0 to 2: colour casts, exposure and occlusion.
        seed: what everything is drawn from; another seed is another data set.
        total_images: how many pictures of people in all, training and test, in place of
            `images_per_camera`; bad detections come on top.

    Raises:
        ConfigError: arguments that make no data set.
    """

    def __init__(
        self,
        *,
        identities: int = 80,
        test_identities: int = 60,
        cameras: int = 5,
        images_per_camera: int = 4,
        distractors: float = 1.0,
        size: Sequence[int] = (64, 32),
        difficulty: float = 0.7,
        seed: int = 0,
        total_images: int | None = None,
    ) -> None:
        _check("identities", identities, 2, whole=True)
        _check("test_identities", test_identities, 2, whole=True)
        _check("cameras", cameras, 2, whole=True)
        _check("images_per_camera", images_per_camera, 2, whole=True)
        _check("distractors", distractors, 0)
        _check("difficulty", difficulty, 0, high=2)
        _check("seed", seed, 0, whole=True)
        if isinstance(size, str) or not isinstance(size, Sequence) or len(size) != 2:
            raise ConfigError(f"dataset.size={size} is no size.", "Give height and width: [64,32].")
        _check("size[0]", size[0], 32, whole=True)
        _check("size[1]", size[1], 16, whole=True)
        self.identities = int(identities)
        self.test_identities = int(test_identities)
        self.cameras = int(cameras)
        self.images_per_camera = int(images_per_camera)
        self.distractors = float(distractors)
        self.size = (int(size[0]), int(size[1]))
        self.difficulty = float(difficulty)
        self.seed = int(seed)
        if total_images is not None:
            _check("total_images", total_images, 1, whole=True)
        self.total_images = None if total_images is None else int(total_images)

    def load(self) -> ReIDData:
        """Lay out the three parts. Draws no image yet."""
        world = World(self.seed, self.size, self.difficulty)
        identities, cameras, counts = self._visits()
        shots = np.repeat(np.arange(len(counts)), counts)  # the visit that each is of
        index = np.arange(len(shots)) - np.repeat(counts.cumsum() - counts, counts)
        who, where = identities[shots], cameras[shots]
        test = who > self.identities
        bad = np.arange(round(self.distractors * self.test_identities))
        found = test & (index > 0)
        return ReIDData(
            name="synthetic",
            train=self._split(world, "train", who[~test], where[~test], index[~test]),
            query=self._split(
                world, "test", *(a[test & (index == 0)] for a in (who, where, index))
            ),
            gallery=self._split(
                world,
                "test",
                np.concatenate([np.zeros_like(bad), who[found]]),
                np.concatenate([bad % self.cameras, where[found]]),
                np.concatenate([bad, index[found]]),
            ),
            notes={"seed": self.seed, "renderer": VERSION},
        )

    def _visits(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Who is seen by which camera, and how often: uneven, as in life.

        Returns:
            (V,) identities from 1, those of the training set first; cameras; pictures, 2 or more.
        """
        who: list[int] = []
        where: list[int] = []
        often: list[int] = []
        for identity in range(1, self.identities + self.test_identities + 1):
            draws = Draws(self.seed, "visits", identity)
            missed = draws.integer(min(2, self.cameras - 2) + 1)
            for camera in sorted(draws.shuffled(range(self.cameras))[missed:]):
                who.append(identity)
                where.append(camera)
                if self.total_images is None:  # between 2 and 2·mean − 2 pictures
                    often.append(2 + draws.integer(2 * self.images_per_camera - 3))
                else:
                    often.append(1 + draws.integer(1024))  # a share of what is left
        counts = np.array(often, dtype=np.int64)
        if self.total_images is not None:
            left = self.total_images - 2 * len(counts)
            if left < 0:
                raise ConfigError(
                    f"dataset.total_images={self.total_images} are too few for {len(counts):,} "
                    "visits of people to cameras, each of which is two pictures at least.",
                    f"Give {2 * len(counts)} or more, or fewer identities or cameras.",
                )
            until = left * counts.cumsum() // counts.sum()
            counts = 2 + np.diff(until, prepend=0)
        return np.array(who, dtype=np.int64), np.array(where, dtype=np.int64), counts

    def _split(
        self,
        world: World,
        part: str,
        identities: np.ndarray,
        cameras: np.ndarray,
        indices: np.ndarray,
    ) -> Split:
        settings: dict[str, object] = {
            "cameras": self.cameras,
            "difficulty": self.difficulty,
            "seed": self.seed,
            "size": self.size,
        }
        images = Rendered(world, part, identities, cameras, indices, settings)
        return Split(images, identities, cameras)


def _check(
    name: str, value: object, low: int, high: float = float("inf"), whole: bool = False
) -> None:
    """Refuse what is no number, not finite, out of its range, or broken where it must be whole."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        finite = low <= value <= high and value != float("inf")  # NaN fails every comparison
        if finite and not (whole and value % 1):
            return
    kind = "a whole number" if whole else "a number"
    limits = f"of at least {low}" if high == float("inf") else f"from {low} to {high:g}"
    raise ConfigError(f"dataset.{name}={value} makes no data set.", f"Give {kind} {limits}.")

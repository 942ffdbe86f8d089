"""`synthetic`: pedestrians drawn from a seed, in seconds, with nothing to download."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from PIL import Image

from harness.errors import ConfigError
from harness.interfaces import Dataset, ImageSource, ReIDData, Split

from .draws import Draws
from .render import VERSION, Shot, World


class Rendered(ImageSource):
    """A list of shots of one world; each is drawn when it is read.

    Args:
        world: the people and cameras.
        shots: which pictures, in order.
        settings: all that the world was made from, for the fingerprint.
    """

    def __init__(self, world: World, shots: Sequence[Shot], settings: dict[str, object]) -> None:
        self._world = world
        self._shots = list(shots)
        self._settings = settings

    def __len__(self) -> int:
        return len(self._shots)

    def name(self, index: int) -> str:
        """`<split>/<identity>_c<camera from 1>_<number>.png`, as in Market-1501."""
        shot = self._shots[index]
        return f"{shot.split}/{shot.identity:04d}_c{shot.camera + 1}_{shot.index:03d}.png"

    def read(self, index: int) -> Image.Image:
        """Draw image `index`: (height, width) RGB, the same pixels each time."""
        return self._world.render(self._shots[index])

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

    def load(self) -> ReIDData:
        """Lay out the three parts. Draws no image yet."""
        world = World(self.seed, self.size, self.difficulty)
        first_test = self.identities + 1
        train = self._shots("train", range(1, first_test))
        test = self._shots("test", range(first_test, first_test + self.test_identities))
        query = [shot for shot in test if shot.index == 0]
        gallery = self._bad_detections() + [shot for shot in test if shot.index > 0]
        return ReIDData(
            name="synthetic",
            train=self._split(world, train),
            query=self._split(world, query),
            gallery=self._split(world, gallery),
            notes={"seed": self.seed, "renderer": VERSION},
        )

    def _shots(self, split: str, identities: range) -> list[Shot]:
        """Who is seen by which camera, and how often: uneven, as in life."""
        shots = []
        for identity in identities:
            draws = Draws(self.seed, "visits", identity)
            missed = draws.integer(min(2, self.cameras - 2) + 1)
            seen = sorted(draws.shuffled(range(self.cameras))[missed:])
            for camera in seen:
                # between 2 and 2·mean − 2 pictures
                count = 2 + draws.integer(2 * self.images_per_camera - 3)
                shots += [Shot(split, identity, camera, index) for index in range(count)]
        return shots

    def _bad_detections(self) -> list[Shot]:
        count = round(self.distractors * self.test_identities)
        return [Shot("gallery", 0, index % self.cameras, index) for index in range(count)]

    def _split(self, world: World, shots: Sequence[Shot]) -> Split:
        settings: dict[str, object] = {
            "cameras": self.cameras,
            "difficulty": self.difficulty,
            "seed": self.seed,
            "size": self.size,
        }
        return Split(
            Rendered(world, shots, settings),
            np.array([shot.identity for shot in shots], dtype=np.int64),
            np.array([shot.camera for shot in shots], dtype=np.int64),
        )


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

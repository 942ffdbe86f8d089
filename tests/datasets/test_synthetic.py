"""The rendered data set: the same pixels each time, a sound protocol, a problem worth having."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Callable
from types import ModuleType
from typing import Any, cast

import numpy as np
import pytest

from harness.core.errors import ConfigError
from harness.core.options import check_options
from harness.data.types import Dataset, ReIDData, Split

PIXEL_SUM = 110_110_406
Make = Callable[..., Dataset]


@pytest.fixture(scope="module")
def synthetic(dataset_module: Callable[[str], ModuleType]) -> Make:
    """The data set's class."""
    return cast("Make", dataset_module("synthetic").Synthetic)


def pixels(split: Split) -> np.ndarray:
    """(N, H, W, 3) uint8."""
    return np.stack([np.asarray(split.images.read(i)) for i in range(len(split.images))])


def cameras(split: Split) -> np.ndarray:
    assert split.cameras is not None
    return split.cameras


@pytest.fixture(scope="module")
def default(synthetic: Make) -> ReIDData:
    return synthetic().load()


@pytest.fixture(scope="module")
def drawn(default: ReIDData) -> dict[str, np.ndarray]:
    """Pixels of the test set, part by part."""
    return {"query": pixels(default.query), "gallery": pixels(default.gallery)}


def test_the_same_pixels_from_two_loads_in_any_order(synthetic: Make) -> None:
    first, second = (synthetic(identities=4, test_identities=2).load() for _ in range(2))
    count = len(first.train.images)
    backwards = [np.asarray(second.train.images.read(i)) for i in reversed(range(count))]
    np.testing.assert_array_equal(pixels(first.train), np.stack(backwards[::-1]))
    assert first.fingerprint() == second.fingerprint()


def test_pixels_are_those_of_other_machines(synthetic: Make) -> None:
    """Changed on purpose? Then raise `VERSION` of the renderer, and this sum with it.

    The tolerance is for Pillow, whose polygons' borders may move with compiler and version.
    """
    data = synthetic(identities=6, test_identities=6, difficulty=0.7).load()
    total = sum(int(pixels(part).astype(np.int64).sum()) for part in (data.train, data.gallery))
    assert total == pytest.approx(PIXEL_SUM, rel=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"difficulty": 1.0},
        {"size": (128, 64)},
        {"cameras": 4},
        {"identities": 5},
        {"images_per_camera": 3},
    ],
)
def test_every_setting_is_in_the_fingerprint(synthetic: Make, change: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"identities": 4, "test_identities": 2}
    plain, changed = synthetic(**settings).load(), synthetic(**{**settings, **change}).load()
    assert plain.train.images.fingerprint() != changed.train.images.fingerprint()
    assert plain.fingerprint() != changed.fingerprint()


def test_counts_and_names(default: ReIDData) -> None:
    assert default.name == "synthetic"
    assert set(default.train.identities) == set(range(1, 81))
    assert set(default.query.identities) == set(range(81, 141))
    assert set(default.gallery.identities) == {0, *range(81, 141)}
    assert (default.gallery.identities == 0).sum() == 60
    for part in (default.train, default.query, default.gallery):
        names = [part.images.name(i) for i in range(len(part.images))]
        assert len(set(names)) == len(names)
        assert set(cameras(part)) == set(range(5))
    _, images = np.unique(default.train.identities * 5 + cameras(default.train), return_counts=True)
    assert images.min() >= 2
    assert 3.5 < images.mean() < 4.5


def test_one_query_per_person_and_camera_with_a_match_in_another(default: ReIDData) -> None:
    query, gallery = default.query, default.gallery
    seen = list(zip(query.identities.tolist(), cameras(query).tolist(), strict=True))
    assert len(set(seen)) == len(seen)
    for identity, camera in seen:
        same = gallery.identities == identity
        assert (same & (cameras(gallery) != camera)).any()


@pytest.mark.parametrize("size", [(64, 32), (128, 64), (33, 17)])
def test_pictures_are_rgb_of_the_size_asked_for(synthetic: Make, size: tuple[int, int]) -> None:
    image = synthetic(identities=2, test_identities=2, size=size).load().gallery.images.read(0)
    assert image.mode == "RGB"
    assert image.size == (size[1], size[0])


def test_pictures_of_one_walk_differ(default: ReIDData) -> None:
    walk = [i for i in range(20) if default.train.identities[i] == 1]
    drawn = {default.train.images.read(i).tobytes() for i in walk}
    assert len(drawn) == len(walk)


def test_cameras_differ_in_colour(default: ReIDData, drawn: dict[str, np.ndarray]) -> None:
    """Mean colours of cameras lie farther apart than halves of one camera's pictures do."""
    images, views = drawn["gallery"].mean(axis=(1, 2)), cameras(default.gallery)
    between, within = [], []
    for camera in range(5):
        mine = images[views == camera]
        within.append(np.abs(mine[::2].mean(0) - mine[1::2].mean(0)).max())
        between += [
            np.abs(mine.mean(0) - images[views == other].mean(0)).max() for other in range(camera)
        ]
    assert np.mean(between) > 3 * np.mean(within)


def _histograms(images: np.ndarray) -> np.ndarray:
    """(N, 3·512) float: joint 8 × 8 × 8 RGB histograms of three stripes, Hellinger-normalised."""
    bins = images.astype(np.int64) // 32
    codes = (bins[..., 0] * 8 + bins[..., 1]) * 8 + bins[..., 2]
    stripes = np.array_split(codes, 3, axis=1)
    counts = [[np.bincount(row.ravel(), minlength=512) for row in part] for part in stripes]
    roots = np.sqrt(np.concatenate([np.array(part) for part in counts], axis=1))
    return roots / np.linalg.norm(roots, axis=1, keepdims=True)


def test_a_colour_histogram_helps_but_does_not_solve_it(
    default: ReIDData, drawn: dict[str, np.ndarray]
) -> None:
    query, gallery = default.query, default.gallery
    similar = _histograms(drawn["query"]) @ _histograms(drawn["gallery"]).T
    precisions = []
    for i, row in enumerate(similar):
        mine = gallery.identities == query.identities[i]
        shown = ~(mine & (cameras(gallery) == cameras(query)[i]))
        ranks = np.flatnonzero(mine[shown][np.argsort(-row[shown], kind="stable")]) + 1
        precisions.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
    assert 0.05 < np.mean(precisions) < 0.50  # chance is about 0.02, a trained network 0.85


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"identities": 1}, "identities"),
        ({"test_identities": 0}, "test_identities"),
        ({"cameras": 1}, "cameras"),
        ({"images_per_camera": 1}, "images_per_camera"),
        ({"distractors": -0.5}, "distractors"),
        ({"difficulty": 3}, "difficulty"),
        ({"difficulty": float("nan")}, "difficulty"),
        ({"size": (16, 8)}, "size"),
        ({"size": (64,)}, "size"),
        ({"size": 64}, "size"),
        ({"cameras": 2.5}, "cameras"),
        ({"identities": "many"}, "identities"),
        ({"distractors": float("inf")}, "distractors"),
    ],
)
def test_values_out_of_range_are_refused_with_a_hint(
    synthetic: Make, wrong: dict[str, Any], word: str
) -> None:
    with pytest.raises(ConfigError, match=word) as error:
        check_options(synthetic, wrong, "dataset")
    assert error.value.hint


def test_images_that_are_too_low_are_refused(synthetic: Make) -> None:
    with pytest.raises(ConfigError, match="height must be at least 32"):
        synthetic(size=(16, 16))


def test_the_smallest_one_is_a_sound_problem(synthetic: Make) -> None:
    data = synthetic(identities=2, test_identities=2, cameras=2, images_per_camera=2, distractors=0)
    small = data.load()
    assert len(small.query.images) == len(small.gallery.images) == 4


@pytest.mark.parametrize("total", [500, 777])
def test_so_many_pictures_in_all(synthetic: Make, total: int) -> None:
    data = synthetic(
        identities=20, test_identities=15, total_images=total, images_per_camera=9, distractors=2
    ).load()
    parts = (data.train, data.query, data.gallery)
    shots = sum(int((part.identities > 0).sum()) for part in parts)
    assert shots == total
    assert (data.gallery.identities == 0).sum() == 30
    _, images = np.unique(data.train.identities * 5 + cameras(data.train), return_counts=True)
    assert images.min() >= 2 and len(set(images)) > 3, "uneven, as in life"
    for identity, camera in zip(data.query.identities, cameras(data.query), strict=True):
        same = data.gallery.identities == identity
        assert (same & (cameras(data.gallery) != camera)).any()


def test_too_few_pictures_are_refused_with_a_number_that_does(synthetic: Make) -> None:
    settings = {"identities": 20, "test_identities": 15}
    with pytest.raises(ConfigError, match="too few for") as caught:
        synthetic(**settings, total_images=100).load()
    enough = int(caught.value.hint.split()[1])
    data = synthetic(**settings, total_images=enough, distractors=0).load()
    assert sum(len(p.images) for p in (data.train, data.query, data.gallery)) == enough
    with pytest.raises(ConfigError, match="total_images"):
        check_options(synthetic, {"total_images": 2.5}, "dataset")


def test_the_size_of_msmt17_is_no_list_in_memory(synthetic: Make) -> None:
    made = synthetic(identities=1041, test_identities=3060, cameras=15, total_images=126_441)
    tracemalloc.start()
    data = made.load()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(data.train.images) > 30_000
    assert peak < 24 * 2**20, "bytes: names alone would take as much"
    assert len(pickle.dumps(data.gallery.images)) < 2 * 2**20, "what each process gets"


def test_pickled_it_draws_the_same(default: ReIDData) -> None:
    copy = pickle.loads(pickle.dumps(default.train.images))
    assert copy.rendered and copy.name(7) == default.train.images.name(7)
    assert copy.read(7).tobytes() == default.train.images.read(7).tobytes()

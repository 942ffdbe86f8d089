"""The label step beside dense code: equal labels, timed on the same features."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
from torch import Tensor

from harness.benchmarks.features import CAMERAS, SIZES, synthetic_features
from harness.components.labelers import JaccardDBSCAN
from tests.benchmarks import dense

#: (images, identities)
SMALL, MARKET = (1_500, 90), SIZES["market1501"]["train"]
MSMT = SIZES["msmt17"]["train"]
SIZED = [SMALL, pytest.param(MARKET, marks=pytest.mark.slow)]


@functools.cache
def features(images: int, identities: int, views: int = 1) -> Tensor:
    (drawn,) = synthetic_features([images], identities, CAMERAS["market1501"], views)
    return drawn.features


@functools.cache
def dense_labels(images: int, identities: int) -> np.ndarray:
    return dense.labels(features(images, identities)[:, 0], 30, 6, 0.6, 4)


@pytest.mark.parametrize("size", SIZED)
@pytest.mark.parametrize("name", ["harness", "dense"])
def test_one_view(measure: Callable[..., Any], name: str, size: tuple[int, int]) -> None:
    x = features(*size)

    def by_harness() -> np.ndarray:
        return JaccardDBSCAN().label(x).labels.numpy()

    def by_dense_code() -> np.ndarray:
        dense_labels.cache_clear()
        return dense_labels(*size)

    work = by_harness if name == "harness" else by_dense_code
    found = measure(f"labels, {size[0]:,} images", name, work)
    np.testing.assert_array_equal(found, dense_labels(*size))
    assert 0 < (found < 0).sum() < len(found) and found.max() > 20


@pytest.mark.parametrize("search", ["torch", "faiss"])
@pytest.mark.parametrize("size", SIZED)
def test_back_ends(
    measure: Callable[..., Any], search: Literal["torch", "faiss"], size: tuple[int, int]
) -> None:
    if search == "faiss":
        pytest.importorskip("faiss")
    x = features(*size)
    name = "harness" if search == "torch" else search
    found = measure(
        f"search by torch and faiss, {size[0]:,}",
        name,
        lambda: JaccardDBSCAN(search=search).label(x),
    )
    np.testing.assert_array_equal(found.labels, dense_labels(*size))


@pytest.mark.slow
def test_market_three_views(measure: Callable[..., Any]) -> None:
    x = features(*MARKET, views=3)
    labeler = JaccardDBSCAN(part_weight=0.15)
    found = measure("labels, 12,936 images, three views", "harness", lambda: labeler.label(x))
    assert found.clusters > 100


@pytest.mark.slow
def test_msmt17_size(measure: Callable[..., Any]) -> None:
    x = features(*MSMT)
    found = measure("labels, 32,621 images", "harness", lambda: JaccardDBSCAN().label(x))
    assert found.clusters > 100

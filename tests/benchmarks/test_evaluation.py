"""Evaluation and re-ranking beside dense code: equal results, timed on the same features."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from harness.benchmarks.evaluation import test_set as features_of
from harness.benchmarks.features import Images
from harness.evaluation.ground_truth import GroundTruth
from harness.evaluation.ranking import rank
from harness.evaluation.reranking import rerank_blocks
from tests.benchmarks import dense

SCALES = [0.1, pytest.param(1.0, marks=pytest.mark.slow)]


@functools.cache
def images(size: str, scale: float) -> tuple[Images, Images]:
    return features_of(size, scale)


def by_harness(query: Images, gallery: Images, rerank: bool = False) -> tuple[float, float]:
    x, y = query.features[:, 0], gallery.features[:, 0]
    truth = GroundTruth(query.identities, gallery.identities, query.cameras, gallery.cameras)
    found = rank(x, y, truth, distances=rerank_blocks(x, y) if rerank else None)
    return found.mAP, found.cmc_at(1)


def by_dense_code(query: Images, gallery: Images, rerank: bool = False) -> tuple[float, float]:
    x, y = query.features[:, 0], gallery.features[:, 0]
    distance = dense.reranked(x, y, 20, 6, 0.3) if rerank else None
    return dense.metrics(
        x, y, query.identities, gallery.identities, query.cameras, gallery.cameras, distance
    )


@functools.cache
def expected(scale: float, rerank: bool) -> tuple[float, float]:
    return by_dense_code(*images("market1501", scale), rerank)


@pytest.mark.parametrize("rerank", [False, True])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["harness", "dense"])
def test_market(measure: Callable[..., Any], name: str, scale: float, rerank: bool) -> None:
    query, gallery = images("market1501", scale)

    def dense_again() -> tuple[float, float]:
        expected.cache_clear()
        return expected(scale, rerank)

    what = "re-ranking" if rerank else "mAP, CMC"
    group = f"{what}, {len(query.identities):,} × {len(gallery.identities):,}"
    work = (lambda: by_harness(query, gallery, rerank)) if name == "harness" else dense_again
    found = measure(group, name, work)
    # rounding in the matrix product occasionally swaps neighbors
    assert found == pytest.approx(expected(scale, rerank), abs=2e-5)
    assert 0.05 < found[0] < 0.95


@pytest.mark.slow
def test_msmt17_size(measure: Callable[..., Any]) -> None:
    work = functools.partial(by_harness, *images("msmt17", 1.0))
    mean, first = measure("mAP, CMC, 11,659 × 82,161", "harness", work)
    assert 0 < mean < first < 1

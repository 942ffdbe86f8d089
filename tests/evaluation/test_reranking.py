from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from harness.components.labelers import sparse
from harness.components.labelers.neighbours import Neighbours, search
from harness.core.errors import ConfigError, HarnessError
from harness.evaluation import reranking
from harness.evaluation.reranking import rerank_blocks
from tests.components.labelers.cases import blobs, lattice
from tests.oracles import jaccard as oracle
from tests.paths import GOLDEN


def rerank(query: Tensor, gallery: Tensor, **settings: Any) -> np.ndarray:
    """All blocks concatenated; each must start where the last one ended."""
    blocks, rows = [], 0
    for start, block in rerank_blocks(query, gallery, **settings):
        assert start == rows
        blocks.append(block.numpy())
        rows += len(block)
    return np.concatenate(blocks)


@pytest.mark.parametrize(
    ("distance", "expected"),
    [("squared", "rerank_dist"), ("euclidean", "rerank_dist_from_euclidean")],
)
def test_distances_are_the_golden_ones(distance: str, expected: str) -> None:
    with np.load(GOLDEN / "eval.npz") as case:
        found = rerank(
            torch.from_numpy(case["query_features"]),
            torch.from_numpy(case["gallery_features"]),
            k1=int(case["rerank_k1"]),
            k2=int(case["rerank_k2"]),
            lam=float(case["rerank_lambda"]),
            distance=distance,
        )
        np.testing.assert_allclose(found, case[expected], rtol=0, atol=2e-6)


@given(
    features=lattice(4),
    k1=st.integers(1, 25),
    lam=st.sampled_from([0.0, 0.3, 1.0]),
    power=st.sampled_from([1, 2]),
    terms=st.sampled_from([1, 1 << 19]),
    data=st.data(),
)
@settings(max_examples=50, deadline=None)
def test_agrees_with_the_oracle(
    features: np.ndarray, k1: int, lam: float, power: int, terms: int, data: st.DataObject
) -> None:
    queries = data.draw(st.integers(1, len(features) - 1))
    k2 = data.draw(st.integers(1, k1))
    query, gallery = features[:queries], features[queries:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "_TERMS_CPU", terms)
        found = rerank(
            torch.from_numpy(query),
            torch.from_numpy(gallery),
            k1=k1,
            k2=k2,
            lam=lam,
            distance=("euclidean", "squared")[power - 1],
        )
    expected = oracle.rerank(query, gallery, k1, k2, lam, power)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_identical_images_have_distance_zero() -> None:
    same = blobs(1, 1).expand(8, -1)
    found = rerank(same[:2], same[2:], k1=20, k2=1, lam=0.3)
    np.testing.assert_allclose(found, 0, atol=1e-6)


@pytest.mark.parametrize("distance", ["squared", "euclidean"])
@pytest.mark.parametrize("seed", range(3))
def test_duplicate_rows_differ_only_where_the_definition_does(
    distance: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the float64 oracle gives duplicates one distance, so do we, bit for bit, even if the
    products of every other image are rounded differently.
    """

    def rounded(*arguments: Any, **options: Any) -> Neighbours:
        found = search(*arguments, **options)
        assert found.kept is not None and found.farthest is not None
        for rows in (found.kept.T, found.farthest):
            rows[::2] = rows[::2].nextafter(torch.tensor(torch.inf))
        return found

    monkeypatch.setattr(reranking, "search", rounded)
    generator = torch.Generator().manual_seed(seed)
    different = F.normalize(torch.randn(40, 67, generator=generator), dim=1)
    rows = different[torch.randint(40, (120,), generator=generator)]
    query, gallery = rows[:30], rows[30:]
    found = rerank(query, gallery, k1=9, k2=3, lam=0.3, distance=distance)
    power = {"euclidean": 1, "squared": 2}[distance]
    expected = oracle.rerank(query.numpy(), gallery.numpy(), 9, 3, 0.3, power)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    same = (gallery[:, None] == gallery[None]).all(dim=2).nonzero().numpy()
    pairs = np.array([(i, j) for i, j in same if i < j])
    equal = np.abs(expected[:, pairs[:, 0]] - expected[:, pairs[:, 1]]) < 1e-12
    assert equal.sum() > 1000
    np.testing.assert_array_equal(found[:, pairs[:, 0]][equal], found[:, pairs[:, 1]][equal])


@pytest.mark.parametrize(
    "settings", [{"k1": 3, "k2": 4}, {"k2": 0}, {"lam": 1.5}, {"distance": "cosine"}]
)
def test_bad_settings_are_refused_at_once(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as raised:
        rerank_blocks(blobs(2, 2), blobs(2, 4), **settings)
    assert raised.value.hint


@pytest.mark.parametrize(
    ("query", "gallery", "cause"),
    [
        (blobs(2, 2, dim=8), blobs(2, 4), "not"),
        (blobs(2, 2)[0], blobs(2, 4), "not"),
        (blobs(2, 2)[:0], blobs(2, 4), "at least one"),
        (blobs(2, 2), blobs(2, 4) * float("inf"), "not finite"),
    ],
)
def test_bad_features_are_refused_at_once(query: Tensor, gallery: Tensor, cause: str) -> None:
    with pytest.raises(HarnessError, match=cause):
        rerank_blocks(query, gallery)

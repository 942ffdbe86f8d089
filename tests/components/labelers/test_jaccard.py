from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.components.labelers import encoding, jaccard, sparse
from harness.components.labelers.encoding import ONE, Encoding, encode
from harness.components.labelers.jaccard import distance_rows, radius_graph
from harness.components.labelers.neighbours import nearest, search
from harness.core.errors import HarnessError
from harness.core.kernels import kernels
from tests.components.labelers.cases import blobs, golden, lattice
from tests.oracles import jaccard as oracle

GOLDEN = ["jaccard_k30_k2_6", "jaccard_k20_k2_6"]


def encoded(features: Tensor | np.ndarray, k1: int, k2: int) -> Encoding:
    features = torch.as_tensor(features)
    return encode(features, nearest(features, k1), k1, k2)


def all_rows(*encodings: Encoding, part_weight: float = 0.0) -> np.ndarray:
    return distance_rows(encodings, torch.arange(len(encodings[0])), part_weight).numpy()


@pytest.mark.parametrize("name", GOLDEN)
def test_distances_are_the_golden_ones(name: str) -> None:
    case = golden(name)
    distances = all_rows(encoded(case["features"], int(case["k1"]), int(case["k2"])))
    np.testing.assert_allclose(distances, case["dist"], rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", GOLDEN)
def test_without_query_expansion(name: str) -> None:
    case = golden(name)
    v = encoded(case["features"], int(case["k1"]), 1)
    rows = distance_rows([v], torch.arange(100))
    np.testing.assert_allclose(rows, case["dist_k2_1_first100"], rtol=0, atol=2e-6)


def test_the_classical_variant_of_mmt() -> None:
    case = golden("jaccard_k20_k2_6")
    features = torch.from_numpy(case["features"])
    found = search(features, int(case["k1"]) + 1, farthest=True)
    ranks, farthest = found.ranks, found.farthest
    v = encode(features, ranks, int(case["k1"]), int(case["k2"]), scale=farthest)
    rows = distance_rows([v], torch.arange(100))
    np.testing.assert_allclose(rows, case["dist_dense_first100"], rtol=0, atol=2e-6)


def test_views_and_their_fusion() -> None:
    case = golden("mskd_pipeline")
    views = [encoded(view, int(case["k1"]), int(case["k2"])) for view in case["features"]]
    for view, name in zip(views, ["global", "upper", "lower"], strict=True):
        rows = distance_rows([view], torch.arange(40))
        np.testing.assert_allclose(rows, case[f"dist_{name}_first40"], rtol=0, atol=2e-6)
    fused = all_rows(*views, part_weight=float(case["lambda1"]))
    np.testing.assert_allclose(fused, case["dist_combined"], rtol=0, atol=2e-6)


@given(features=lattice(), k1=st.integers(1, 26), data=st.data())
@settings(max_examples=60, deadline=None)
def test_agrees_with_the_oracle(features: np.ndarray, k1: int, data: st.DataObject) -> None:
    k2 = data.draw(st.integers(1, k1))
    distances = all_rows(encoded(features, k1, k2))
    np.testing.assert_allclose(distances, oracle.distance(features, k1, k2), rtol=0, atol=2e-6)
    np.testing.assert_array_equal(distances, distances.T)


@given(seed=st.integers(0, 999), k1=st.integers(1, 40), data=st.data())
@settings(max_examples=25, deadline=None)
def test_agrees_with_the_oracle_on_clusters_and_lone_images(
    seed: int, k1: int, data: st.DataObject
) -> None:
    k2 = data.draw(st.integers(1, k1))
    features = torch.cat([blobs(3, 12, seed=seed), blobs(7, 1, seed=seed + 1)])
    # who is nearer must not hang on rounding: the oracle has float64
    gaps = np.diff(np.sort(oracle.squared_distances(features.numpy()), axis=1), axis=1)
    assume(gaps.min() > 1e-6)
    distances = all_rows(encoded(features, k1, k2))
    expected = oracle.distance(features.numpy(), k1, k2)
    np.testing.assert_allclose(distances, expected, rtol=0, atol=2e-6)


@given(
    seed=st.integers(0, 99),
    eps=st.floats(0.01, 1.0),
    views=st.integers(1, 3),
    part_weight=st.sampled_from([0.0, 0.15, 0.4]),
    terms=st.sampled_from([300, 1 << 19]),
)
@settings(max_examples=25, deadline=None)
def test_the_graph_holds_the_pairs_of_the_dense_rows(
    seed: int, eps: float, views: int, part_weight: float, terms: int
) -> None:
    encodings = [encoded(blobs(5, 7, seed=seed + v, spread=0.4), 10, 3) for v in range(views)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "_TERMS_CPU", terms)
        graph = radius_graph(encodings, eps, part_weight)
    dense = all_rows(*encodings, part_weight=part_weight)
    stored = np.zeros(dense.shape, dtype=bool)
    stored[np.repeat(np.arange(35), np.diff(graph.indptr)), graph.indices] = True
    near = (dense <= np.float32(eps)) & ~np.eye(35, dtype=bool)
    np.testing.assert_array_equal(stored, near)
    np.testing.assert_array_equal(graph.toarray()[stored], dense[stored])


@given(features=lattice(), upper=lattice(24), part_weight=st.sampled_from([0.15, 0.45]))
@settings(max_examples=20, deadline=None)
def test_fusion_is_the_weighted_sum(
    features: np.ndarray, upper: np.ndarray, part_weight: float
) -> None:
    views = [features, upper[: len(features)], upper[-len(features) :]]
    encodings = [encoded(view, 8, 2) for view in views]
    whole = [oracle.distance(view, 8, 2) for view in views]
    expected = (1 - 2 * part_weight) * whole[0] + part_weight * (whole[1] + whole[2])
    fused = all_rows(*encodings, part_weight=part_weight)
    np.testing.assert_allclose(fused, expected, rtol=0, atol=2e-6)


def test_rows_of_the_encoding_sum_to_one() -> None:
    encoding = encoded(blobs(6, 9), 12, 4)
    sums = np.add.reduceat(encoding.weights.numpy() / ONE, encoding.starts[:-1].numpy())
    np.testing.assert_allclose(sums, 1, rtol=0, atol=1e-6)


def test_half_sets_round_half_to_even() -> None:
    # k1 = 5: half sets have round(2.5) + 1 = 3 entries, not 4
    features = blobs(4, 9, spread=0.5)
    even = all_rows(encoded(features, 5, 1))
    d = oracle.squared_distances(features.numpy())
    ranks = oracle.neighbours(d, 5)
    np.testing.assert_allclose(
        even, oracle.jaccard(oracle.encoding(d, ranks, 4, 1)), rtol=0, atol=2e-6
    )
    four = oracle.jaccard(oracle.encoding(d, ranks, 6, 1))
    assert np.abs(even - four).max() > 1e-3


def test_some_rows_and_columns() -> None:
    v = encoded(blobs(6, 9), 12, 4)
    rows = torch.tensor([50, 3, 3, 17])
    part = distance_rows([v], rows, first=20)
    np.testing.assert_array_equal(part, all_rows(v)[rows, 20:])


def test_equal_from_run_to_run_and_with_any_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    features = blobs(20, 15, spread=0.3)
    first = radius_graph([encoded(features, 20, 6)], 0.7)
    monkeypatch.setattr(sparse, "_TERMS_CPU", 1000)
    monkeypatch.setattr(encoding, "_CHUNK", 37)
    second = radius_graph([encoded(features, 20, 6)], 0.7)
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_an_image_without_reciprocal_neighbours_is_far_from_all() -> None:
    # a far image is in nobody's list of three, though its own list is full
    crowd = blobs(1, 12, spread=0.01)
    features = torch.cat([crowd, -crowd[:1]])
    distances = all_rows(encoded(features, 3, 1))
    assert distances[12, 12] == 0
    assert (distances[12, :12] == 1).all()


def test_too_many_pairs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaccard, "_MAX_PAIRS", 100)
    v = encoded(blobs(1, 1).expand(40, -1), 10, 6)
    with pytest.raises(HarnessError, match="pairs"):
        radius_graph([v], 0.6)


@given(features=lattice(3), eps=st.sampled_from([0.3, 0.5, 0.6]))
@settings(max_examples=30, deadline=None)
def test_a_pair_at_the_radius_is_within_it(features: np.ndarray, eps: float) -> None:
    v = encoded(features, 6, 2)
    dense = all_rows(v)
    np.fill_diagonal(dense, 2)  # the graph leaves it out
    others = dense[(dense > 0.05) & (dense < 1)]
    assume(len(others))
    radius = float(others.flat[int(eps * len(others))])
    graph = radius_graph([v], radius)
    assert graph.nnz == (dense <= radius).sum()
    below = radius_graph([v], float(np.nextafter(np.float32(radius), np.float32(0))))
    assert below.nnz == (dense < radius).sum()


@pytest.mark.parametrize("k1", [64, 100, 128])
def test_a_range_of_one_row_holds_a_large_expanded_set(k1: int) -> None:
    compiled = kernels("harness.components.labelers.kernels.encoding")
    if compiled is None:
        pytest.skip("numba is not installed")
    features = torch.from_numpy(np.random.default_rng(1).normal(size=(300, 8)).astype("f4"))
    features = torch.nn.functional.normalize(features, dim=1)
    found, half = search(features, k1), round(k1 / 2) + 1
    ranks, near = found.ranks.to(torch.int32).numpy(), found.distances.numpy()
    sizes, sets = np.empty(300, np.int32), np.empty((300, half), np.int32)
    compiled.half_sets(ranks, half, sizes, sets, 0, 300)
    ones = np.ones(300, np.float32)
    fixed = (features.numpy(), ones, ranks, near, sizes, sets, ones, 1, encoding.ONE)
    whole = compiled.expanded_weights(*fixed, 0, 300)
    alone = [compiled.expanded_weights(*fixed, i, i + 1) for i in range(300)]
    assert whole[0].max() > 2 * max(64, k1), "one doubling of the smallest buffer is not enough"
    for place in range(3):
        np.testing.assert_array_equal(np.concatenate([a[place] for a in alone]), whole[place])


def test_pairs_on_the_radius_of_a_fused_distance_are_kept() -> None:
    one, same = torch.eye(300, 300)[:, :300], torch.eye(300)[torch.arange(300) // 2]
    for weight in (0.003, 0.007, 0.012, 0.017, 0.15):
        views = [encoded(view, 20, 1) for view in (one, same)]
        radius = 1 - weight
        dense = all_rows(*views, part_weight=weight)
        np.fill_diagonal(dense, 2)
        graph = radius_graph(views, radius, weight)
        assert graph.nnz == (dense <= np.float32(radius)).sum()


def test_collapsed_features_are_refused_before_memory_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jaccard, "_MAX_PAIRS", 20_000)
    v = encoded(blobs(1, 1).expand(2000, -1), 20, 6)
    found = 0
    concatenate = np.concatenate

    def counted(parts: Any, *rest: Any) -> Any:
        nonlocal found
        found = max(found, sum(len(part) for part in parts))
        return concatenate(parts, *rest)

    monkeypatch.setattr(np, "concatenate", counted)
    with pytest.raises(HarnessError, match="collapsed"):
        radius_graph([v], 0.6)
    assert found < 20_000

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.components.labelers import neighbours, tiles
from harness.components.labelers.neighbours import nearest, search
from harness.core import errors
from harness.core.errors import ConfigError
from harness.core.precision import exact_matmul
from tests.components.labelers.cases import blobs, golden, lattice
from tests.oracles import jaccard as oracle


@pytest.mark.parametrize("backend", ["auto", "torch", "faiss"])
@pytest.mark.parametrize("name", ["jaccard_k30_k2_6", "jaccard_k20_k2_6"])
def test_ranks_are_the_golden_ones(name: str, backend: str) -> None:
    if backend == "faiss":
        pytest.importorskip("faiss")
    case = golden(name)
    ranks = nearest(torch.from_numpy(case["features"]), int(case["k1"]), backend)
    assert ranks.dtype == torch.int64
    np.testing.assert_array_equal(ranks, case["rank"])


@pytest.mark.parametrize("backend", ["torch", "faiss"])
@given(features=lattice(1), k=st.integers(1, 30), tile=st.sampled_from([3, 8, 100]))
@settings(max_examples=40, deadline=None)
def test_ties_go_to_the_lower_number(backend: str, features: np.ndarray, k: int, tile: int) -> None:
    if backend == "faiss":
        pytest.importorskip("faiss")
    expected = oracle.neighbours(oracle.squared_distances(features), k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_TILE_CPU", tile)
        np.testing.assert_array_equal(nearest(torch.from_numpy(features), k, backend), expected)


@given(features=lattice(1), tile=st.sampled_from([3, 100]))
@settings(max_examples=30, deadline=None)
def test_farthest_is_the_row_maximum(features: np.ndarray, tile: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_TILE_CPU", tile)
        farthest = search(torch.from_numpy(features), 1, farthest=True).farthest
    np.testing.assert_array_equal(farthest, oracle.squared_distances(features).max(axis=1))


@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_copies_do_not_push_an_image_out(backend: str) -> None:
    if backend == "faiss":
        pytest.importorskip("faiss")
    features = blobs(1, 1).expand(50, -1)
    ranks = nearest(features, 5, backend)
    np.testing.assert_array_equal(ranks[:, 0], np.arange(50))
    np.testing.assert_array_equal(ranks[20], [20, 0, 1, 2, 3])


def test_half_precision_is_searched_in_float32() -> None:
    features = blobs(5, 8).half()
    np.testing.assert_array_equal(nearest(features, 8), nearest(features.float(), 8))


def test_autocast_and_tf32_do_not_reach_the_search() -> None:
    features = blobs(6, 20, dim=64, spread=0.3)
    expected = nearest(features, 20)
    mkldnn: Any = torch.backends.mkldnn
    matmul = mkldnn.matmul
    before = matmul.fp32_precision
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(nearest(features, 20), expected)
        with exact_matmul(features.device):
            assert (features @ features.T).dtype == torch.float32
            assert matmul.fp32_precision == "ieee"
    assert matmul.fp32_precision == before


def _without_faiss(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    original = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "faiss":
            raise error
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.mark.parametrize("error", [ImportError("no faiss"), OSError("libcuda missing")])
def test_faiss_may_be_missing_or_broken(
    monkeypatch: pytest.MonkeyPatch, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    _without_faiss(monkeypatch, error)
    monkeypatch.setattr(errors, "_noticed", set())
    features = blobs(2, 5)
    expected = nearest(features, 3, "torch")
    np.testing.assert_array_equal(nearest(features, 3, "auto"), expected)
    assert capsys.readouterr().err == ""  # nobody asked for faiss
    for _ in range(2):
        np.testing.assert_array_equal(nearest(features, 3, "faiss"), expected)
    said = capsys.readouterr().err
    assert str(error) in said and "torch" in said
    assert said.count("\n") == 1


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ConfigError, match="annoy"):
        nearest(blobs(2, 5), 3, "annoy")


def test_a_gpu_short_of_memory_gets_smaller_blocks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    features = blobs(6, 20)
    expected = nearest(features, 20)
    whole = neighbours._search_torch
    tried = []

    def short(x: torch.Tensor, k: int, keep: int, tile: int) -> neighbours.Neighbours:
        tried.append(tile)
        if tile > 300:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(x, k, keep, tile)

    monkeypatch.setattr(neighbours, "compiled_for", lambda *_: None)
    monkeypatch.setattr(neighbours, "_search_torch", short)
    monkeypatch.setattr(errors, "_noticed", set())
    for _ in range(2):
        np.testing.assert_array_equal(nearest(features, 20), expected)
    assert tried == [1024, 512, 256] * 2
    assert capsys.readouterr().err.count("short of memory") == 1


def test_not_even_single_rows_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> neighbours.Neighbours:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(neighbours, "compiled_for", lambda *_: None)
    monkeypatch.setattr(neighbours, "_search_torch", full)
    with pytest.raises(torch.OutOfMemoryError):
        nearest(blobs(2, 5), 3)


def test_distances_belong_to_the_ranks() -> None:
    features = blobs(8, 12, spread=0.4)
    found = search(features, 10, farthest=True)
    expected = oracle.squared_distances(features.numpy())
    rows = np.arange(96)[:, None]
    np.testing.assert_allclose(found.distances, expected[rows, found.ranks], rtol=0, atol=1e-6)
    assert found.farthest is not None
    np.testing.assert_allclose(found.farthest, expected.max(axis=1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_does_not_matter(threads: int) -> None:
    features = blobs(40, 15, dim=32, spread=0.5)
    expected = search(features, 20)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = search(features, 20)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found.ranks, expected.ranks)


@given(count=st.integers(2, 40), keep=st.integers(1, 39), tile=st.sampled_from([3, 8, 16, 100]))
@settings(max_examples=40, deadline=None)
def test_kept_distances_are_those_of_the_first_images(count: int, keep: int, tile: int) -> None:
    features, keep = blobs(1, count, spread=0.5, seed=count), min(keep, count - 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_TILE_CPU", tile)
        patch.setattr(tiles, "_TILES", ((1 << 60, tile),))
        kept = search(features, 3, keep=keep).kept
    assert kept is not None
    expected = oracle.squared_distances(features.numpy())[:keep, keep:]
    np.testing.assert_allclose(kept, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("backend", ["torch", "faiss"])
@pytest.mark.parametrize("count", [60, 300, 1100])
def test_copies_stand_in_the_order_of_their_numbers(backend: str, count: int) -> None:
    """A product rounds equal rows differently; that must decide nothing."""
    if backend == "faiss":
        pytest.importorskip("faiss")
    generator = torch.Generator().manual_seed(count)
    some = torch.nn.functional.normalize(torch.randn(count, 24, generator=generator), dim=1)
    which = torch.randint(0, count, (count + 13,), generator=generator)
    found = search(some[which], 20, backend)
    exact = oracle.squared_distances(some.numpy())[which][:, which]  # equal for copies
    np.testing.assert_array_equal(found.ranks, oracle.neighbours(exact, 20))
    rows = np.arange(len(which))[:, None]
    np.testing.assert_allclose(found.distances, exact[rows, found.ranks], rtol=0, atol=2e-6)


@given(features=lattice(2), k=st.integers(2, 30), copies=st.integers(2, 5))
@settings(max_examples=30, deadline=None)
def test_many_copies_and_ties(features: np.ndarray, k: int, copies: int) -> None:
    features = np.tile(features, (copies, 1))
    found = search(torch.from_numpy(features), k, farthest=True, keep=1)
    expected = oracle.squared_distances(features)
    np.testing.assert_array_equal(found.ranks, oracle.neighbours(expected, k))
    assert found.farthest is not None and found.kept is not None
    np.testing.assert_array_equal(found.farthest, expected.max(axis=1))
    np.testing.assert_array_equal(found.kept, expected[:1, 1:])

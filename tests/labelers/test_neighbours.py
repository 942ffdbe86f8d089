from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import notices
from harness.errors import ConfigError
from harness.labelers import neighbours
from harness.labelers.neighbours import nearest, search
from harness.precision import exact_matmul
from tests.labelers.cases import blobs, golden, lattice
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
    monkeypatch.setattr(notices, "_said", set())
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

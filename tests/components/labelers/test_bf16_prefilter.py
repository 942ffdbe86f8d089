"""The prefilter is tested on processors without bf16 units, too: torch emulates them."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from harness.components.labelers import bf16_prefilter, neighbours
from harness.components.labelers.neighbours import search
from harness.core.kernels import kernels
from tests.components.labelers.cases import blobs, lattice
from tests.oracles import jaccard as oracle


@pytest.fixture(scope="module")
def compiled() -> ModuleType:
    """In place of the folder's fixture: these tests need the compiled kernels."""
    pytest.importorskip("numba")
    module = kernels("harness.components.labelers.kernels.selection")
    assert module is not None
    return module


def crowd(count: int, dim: int = 256, seed: int = 0) -> Tensor:
    """Unit rows around one center in ten, as a network's features are."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(max(1, count // 10), dim, generator=generator)
    rows = centers[torch.randint(len(centers), (count,), generator=generator)]
    return F.normalize(rows + 0.7 * torch.randn(count, dim, generator=generator), dim=1)


def exact(x: Tensor) -> np.ndarray:
    """Squared distances (N, N) in float64; an image itself is at −1."""
    wide = x.double()
    distances = (wide[:, None] - wide[None]).square().sum(dim=2).numpy()
    np.fill_diagonal(distances, -1)
    return distances


def assert_nearest(x: Tensor, keys: Tensor, k: int) -> None:
    """The k nearest, in their order, as far as float32 can tell; with their distances."""
    distances = exact(x)
    numbers = (keys & 0xFFFFFFFF).numpy()
    found = (keys >> 32).to(torch.int32).view(torch.float32).numpy()
    expected = np.sort(distances, axis=1)[:, 1 : k + 1]
    np.testing.assert_allclose(found, expected, rtol=3e-6, atol=1e-12)
    mine = np.take_along_axis(distances, numbers, axis=1)
    np.testing.assert_allclose(mine, expected, rtol=3e-6, atol=1e-12)
    assert all(len(set(row)) == k for row in numbers.tolist())


@pytest.mark.parametrize("count", [300, 700])
def test_the_nearest_of_a_crowd(count: int, compiled: ModuleType) -> None:
    x = crowd(count)
    keys = bf16_prefilter.nearest_keys(x, 12, compiled)
    assert keys is not None
    assert_nearest(x, keys, 12)


@given(
    count=st.integers(3, 60),
    k=st.integers(1, 20),
    size=st.integers(1, 30),
    dim=st.sampled_from([2, 8, 16]),
    lengths=st.sampled_from([0.0, 0.3, 2.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_however_few_candidates_are_kept(
    count: int, k: int, size: int, dim: int, lengths: float, seed: int
) -> None:
    """Too few candidates leave images unsettled; those are searched without the prefilter."""
    module = kernels("harness.components.labelers.kernels.selection")
    if module is None:
        pytest.skip("numba is missing")
    k = min(k, count - 1)
    size = min(max(size, k), count - 1)
    generator = torch.Generator().manual_seed(seed)
    x = blobs(1, count, spread=0.5, seed=seed)[:, :dim].contiguous()
    x = x * (lengths * torch.randn(count, 1, generator=generator)).exp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bf16_prefilter, "_candidates", lambda *_: size)
        keys = bf16_prefilter.nearest_keys(x, k, module)
    assert keys is not None
    found = (keys >> 32).to(torch.int32).view(torch.float32).double().numpy()
    expected = np.sort(exact(x), axis=1)[:, 1 : k + 1]
    # an unsettled image's distances are those of products: they round like the squared norms
    scale = float(x.square().sum(dim=1).max())
    np.testing.assert_allclose(found, expected, rtol=3e-6, atol=4e-6 * scale)


@given(features=lattice(1), k=st.integers(2, 30))
@settings(max_examples=40, deadline=None)
def test_ties_go_to_the_lower_number(features: np.ndarray, k: int) -> None:
    pytest.importorskip("numba")
    expected = oracle.neighbours(oracle.squared_distances(features), k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "WORTH_COMPILING", 2)
        patch.setattr(bf16_prefilter, "applies", lambda _: True)
        patch.setattr(
            bf16_prefilter, "_candidates", lambda rounded, k: min(2 * k, len(rounded.rows) - 1)
        )
        np.testing.assert_array_equal(search(torch.from_numpy(features), k).ranks, expected)


def test_the_bound_holds_and_is_not_idle(compiled: ModuleType) -> None:
    """Estimates are off by less than the bound, and by more than a hundredth of it."""
    x = crowd(500)
    rounded = bf16_prefilter._round(x)
    products = (rounded.rows @ rounded.rows.T).float()
    estimates = rounded.squares[:, None] + rounded.squares - 2 * products
    errors = (estimates.double() - torch.from_numpy(exact(x))).abs().fill_diagonal_(0)
    images = torch.arange(500)[:, None].expand(500, 500).reshape(-1)
    bounds = rounded.error(images, estimates.reshape(-1)).view(500, 500)
    assert (errors <= bounds).all()
    assert errors.max() > 0.01 * bounds.min()


def test_equidistant_features_are_not_prefiltered(compiled: ModuleType) -> None:
    """When all are about equally far, a prefilter removes nothing."""
    assert bf16_prefilter.nearest_keys(torch.eye(400), 12, compiled) is None


def test_what_all_features_share_is_taken_away(compiled: ModuleType) -> None:
    x = F.normalize(3 + crowd(400), dim=1)
    keys = bf16_prefilter.nearest_keys(x, 12, compiled)
    assert keys is not None
    assert_nearest(x, keys, 12)


@pytest.mark.parametrize("scale", [1e-19, 1e19, 1e25, float("nan"), float("inf")])
def test_features_at_the_ends_of_float32_are_not_prefiltered(
    scale: float, compiled: ModuleType
) -> None:
    x = crowd(300)
    x[5] *= scale
    assert (bf16_prefilter.nearest_keys(x, 12, compiled) is None) == (scale != 1e-19)
    assert bf16_prefilter.nearest_keys(x * scale, 12, compiled) is None


def test_one_image_near_nothing_hurts_nobody(compiled: ModuleType) -> None:
    x = crowd(300)
    x[5] *= 1e-19
    keys = bf16_prefilter.nearest_keys(x, 12, compiled)
    assert keys is not None
    assert_nearest(x, keys, 12)


def test_a_processor_that_rounds_badly_is_detected(
    compiled: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(bf16_prefilter, "say_once", said.append)
    x = crowd(300)
    rounded = bf16_prefilter._round(x)
    broken = rounded.rows + (0.05 * torch.randn(x.shape)).bfloat16()
    monkeypatch.setattr(
        bf16_prefilter,
        "_round",
        lambda _: bf16_prefilter._Rounded(broken, rounded.squares, rounded.bounds),
    )
    monkeypatch.setattr(bf16_prefilter, "_candidates", lambda *_: 40)
    assert bf16_prefilter.nearest_keys(x, 12, compiled) is None
    assert len(said) == 1


def test_the_search_prefilters_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    calls: list[int] = []
    real = bf16_prefilter.nearest_keys

    def counted(x: Tensor, k: int, compiled: ModuleType) -> Tensor | None:
        calls.append(k)
        return real(x, k, compiled)

    monkeypatch.setattr(bf16_prefilter, "nearest_keys", counted)
    monkeypatch.setattr(bf16_prefilter, "MIN_IMAGES", 300)
    monkeypatch.setattr(bf16_prefilter, "_MIN_DIM", 256)
    monkeypatch.setattr(bf16_prefilter, "has_bf16", lambda _: False)
    x = crowd(600)
    plain = search(x, 13)
    assert calls == []
    monkeypatch.setattr(bf16_prefilter, "has_bf16", lambda _: True)
    filtered = search(x, 13)
    assert calls == [12]
    np.testing.assert_array_equal(filtered.ranks, plain.ranks)
    np.testing.assert_allclose(filtered.distances, plain.distances, rtol=0, atol=2e-6)
    search(x, 13, farthest=True)
    search(x, 13, keep=5)
    assert calls == [12], "distances that are asked for whole are not prefiltered"

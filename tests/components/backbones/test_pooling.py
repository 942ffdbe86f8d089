"""GeM, and the views that it pools."""

from __future__ import annotations

import pytest
import torch

from harness.components.backbones.pooling import (
    THIRDS,
    VIEWS,
    AveragePool,
    EmbeddingNeck,
    GeM,
    ViewHeads,
)
from harness.core.errors import ConfigError


def test_gem_is_the_generalized_mean() -> None:
    maps = torch.tensor([[[[1.0, 2.0], [3.0, -5.0]]]], dtype=torch.float64)
    # negative values count as eps
    expected = ((1 + 8 + 27 + 1e-18) / 4) ** (1 / 3)
    torch.testing.assert_close(GeM()(maps), torch.tensor([[expected]], dtype=torch.float64))
    mean = GeM(p=1.0)(maps.clamp(min=0.5))
    torch.testing.assert_close(mean, AveragePool()(maps.clamp(min=0.5)))


def test_gem_learns_its_exponent() -> None:
    pool = GeM()
    pool(torch.rand(2, 3, 4, 2)).sum().backward()
    assert pool.p.grad is not None
    assert pool.p.grad.abs() > 0


def plain_gem(maps: torch.Tensor, p: torch.Tensor, eps: float) -> torch.Tensor:
    """The formula, differentiated by autograd."""
    return maps.clamp(min=eps).pow(p).mean(dim=(2, 3)).pow(1.0 / p)


@pytest.mark.parametrize("p", [1.0, 3.0, 4.5])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_of_gem_are_those_of_its_formula(p: float, layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 5, 4, 2, dtype=torch.float64, generator=generator)
    maps = maps.to(memory_format=layout).requires_grad_()
    pool = GeM(p, eps=0.01).double()
    upstream = torch.randn(3, 5, dtype=torch.float64, generator=generator)
    own = torch.autograd.grad(pool(maps), [maps, pool.p], upstream)
    theirs = torch.autograd.grad(plain_gem(maps, pool.p, pool.eps), [maps, pool.p], upstream)
    for mine, expected in zip(own, theirs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-14)
    assert bool((own[0][maps < pool.eps] == 0).all())


def test_gem_of_a_map_that_is_zero_or_of_bf16_or_part_of_another() -> None:
    pool = GeM()
    (dead,) = torch.autograd.grad(
        pool(maps := torch.zeros(2, 3, 4, 2).requires_grad_()).sum(), maps
    )
    assert bool((dead == 0).all())
    whole = torch.rand(2, 3, 4, 2).bfloat16().requires_grad_()
    half = whole[:, :, :2]
    (own,) = torch.autograd.grad(pool(half).sum(), whole)
    (theirs,) = torch.autograd.grad(plain_gem(half.float(), pool.p, pool.eps).sum(), whole)
    assert own.dtype == torch.bfloat16
    torch.testing.assert_close(own, theirs, rtol=2**-7, atol=0)  # a step of bf16


def test_gem_is_the_same_with_and_without_gradients() -> None:
    maps = torch.randn(4, 6, 3, 5)
    with torch.no_grad():
        plain = GeM()(maps)
    torch.testing.assert_close(GeM()(maps), plain, rtol=0, atol=0)


@pytest.mark.parametrize("pooling", [GeM, AveragePool])
def test_pooling_leaves_reduced_precision(pooling: type[torch.nn.Module]) -> None:
    maps = torch.rand(1, 2, 3, 3).bfloat16()
    assert pooling()(maps).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(pooling()(maps), pooling()(maps.float()), rtol=0, atol=0)


@pytest.mark.parametrize("height", [4, 5])
def test_views_are_halves_and_an_odd_last_row_is_global_only(height: int) -> None:
    heads = ViewHeads(1, VIEWS, pooling="avg")
    maps = torch.arange(1.0, height + 1).view(1, 1, height, 1).repeat(1, 1, 1, 2)
    pooled = heads.pooled(maps)[0, :, 0]
    whole = sum(range(1, height + 1)) / height
    assert pooled.tolist() == [whole, (1 + 2) / 2, (3 + 4) / 2]


def test_each_view_has_a_neck_with_a_fixed_bias() -> None:
    heads = ViewHeads(3, VIEWS)
    assert heads(torch.rand(4, 3, 4, 2)).shape == (4, 3, 3)
    assert len({id(neck) for neck in heads.necks}) == len({id(pool) for pool in heads.pools}) == 3
    for neck in heads.necks:
        assert neck.get_parameter("weight").requires_grad
        assert not neck.get_parameter("bias").requires_grad
        assert neck.get_parameter("bias").tolist() == [0.0] * 3


def test_the_embedding_is_for_training_alone() -> None:
    """Lin et al.: the exclusive loss sees BN(W x + b), merging and tests see x."""
    torch.manual_seed(0)
    heads = ViewHeads(6, VIEWS, pooling="avg", neck="embedding")
    maps = torch.rand(5, 6, 4, 2)
    pooled = heads.pooled(maps)
    for v, neck in enumerate(heads.necks):
        assert isinstance(neck, EmbeddingNeck)
        linear = pooled[:, v] @ neck.linear.weight.T + neck.linear.bias
        mean, var = linear.mean(dim=0), linear.var(dim=0, unbiased=False)
        expected = (linear - mean) / (var + 1e-5).sqrt()
        torch.testing.assert_close(heads(maps)[:, v], expected)
    assert all(p.requires_grad for p in heads.necks.parameters())
    heads.eval()
    assert torch.equal(heads(maps), pooled)


def test_pooled_is_the_global_view_before_its_neck() -> None:
    heads = ViewHeads(3, ("global", "upper", "pooled"))
    maps = torch.rand(4, 3, 4, 2)
    out = heads(maps)
    assert out.shape == (4, 3, 3)
    assert torch.equal(out[:, 2], heads.pooled(maps)[:, 0])
    assert torch.equal(out[:, 0], heads.necks[0](out[:, 2]))
    assert len(heads.necks) == len(heads.pools) == 2
    # so a network with it is the same network, to be loaded as one without
    assert heads.state_dict().keys() == ViewHeads(3, ("global", "upper")).state_dict().keys()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"views": ["upper"]}, "first must be 'global'"),
        ({"views": []}, "first must be 'global'"),
        ({"views": ["global", "pooled", "upper"]}, "'pooled' must be the last"),
    ],
)
def test_refusals(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ViewHeads(3, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("height", [1, 2, 3, 8, 24, 25])
def test_thirds_are_those_of_adaptive_pooling(height: int) -> None:
    maps = torch.rand(2, 4, height, 3)
    pooled = ViewHeads(4, ("global", *THIRDS), pooling="avg").pooled(maps)[:, 1:]
    expected = torch.nn.functional.adaptive_avg_pool2d(maps, (3, 1))[..., 0].transpose(1, 2)
    torch.testing.assert_close(pooled, expected)

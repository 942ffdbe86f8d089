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

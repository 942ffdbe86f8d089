"""Batch statistics over groups: against plain batch norm, group by group."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from harness.components.backbones import set_samples_per_bn, small
from harness.components.backbones.batchnorm import GroupedBatchNorm1d, GroupedBatchNorm2d

SHAPES: dict[type[nn.Module], tuple[int, ...]] = {
    nn.BatchNorm1d: (12, 3),
    nn.BatchNorm2d: (12, 3, 4, 2),
}


def _pair(kind: type[nn.Module], samples: int) -> tuple[nn.Module, nn.Module]:
    """A plain batch norm with a history of its own, and the same one grouped."""
    torch.manual_seed(0)
    plain = nn.Sequential(kind(3)).double()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.uniform_(0.5, 1.5)
    plain(torch.randn(SHAPES[kind]).double())
    grouped = copy.deepcopy(plain)
    set_samples_per_bn(grouped, samples)
    return plain, grouped


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("samples", [3, 4, 5, 12, 64])  # 5 leaves a rest of 2
def test_each_group_is_normalized_by_itself(kind: type[nn.Module], samples: int) -> None:
    plain, grouped = _pair(kind, samples)
    x = torch.randn(SHAPES[kind], dtype=torch.float64) * 2 + 1
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    weight = torch.randn_like(x)

    copies = [copy.deepcopy(plain) for _ in x.split(samples)]
    expected = torch.cat([c(part) for c, part in zip(copies, theirs.split(samples), strict=True)])
    (expected * weight).sum().backward()
    result = grouped(ours)
    (result * weight).sum().backward()

    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)
    for name, parameter in grouped.named_parameters():
        shares = [c.get_parameter(name).grad for c in copies]
        torch.testing.assert_close(
            parameter.grad, torch.stack([g for g in shares if g is not None]).sum(0)
        )
    # the running statistics are those of the first group's own batch norm
    for name, buffer in grouped.named_buffers():
        torch.testing.assert_close(buffer, copies[0].get_buffer(name))
    if samples < len(x):
        whole = copy.deepcopy(plain)
        assert not torch.allclose(whole(x), result)
        mean = grouped.get_buffer("0.running_mean")
        assert not torch.allclose(whole.get_buffer("0.running_mean"), mean)


@pytest.mark.parametrize("kind", SHAPES)
def test_evaluation_mode_is_untouched(kind: type[nn.Module]) -> None:
    plain, grouped = (module.eval() for module in _pair(kind, 4))
    x = torch.randn(SHAPES[kind], dtype=torch.float64)
    assert torch.equal(grouped(x), plain(x))
    for name, buffer in grouped.named_buffers():
        assert torch.equal(buffer, plain.get_buffer(name))


def _norms(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]


def test_a_network_keeps_its_keys_values_and_what_is_frozen() -> None:
    network = small(widths=(4, 8), strides=(1, 2), views=("global", "upper"))
    before = copy.deepcopy(network)
    set_samples_per_bn(network, 8)
    assert all(isinstance(m, GroupedBatchNorm1d | GroupedBatchNorm2d) for m in _norms(network))
    assert len(_norms(network)) == len(_norms(before)) > 4
    state: dict[str, Tensor] = network.state_dict()
    assert list(state) == list(before.state_dict())
    for key, value in before.state_dict().items():
        assert torch.equal(state[key], value)
    frozen = {k: p.requires_grad for k, p in network.named_parameters()}
    assert frozen == {k: p.requires_grad for k, p in before.named_parameters()}
    assert not all(frozen.values())
    before.load_state_dict(state)


def test_device_precision_and_mode_stay() -> None:
    network = small(widths=(4,), strides=(1,)).double().eval()
    parameters = list(network.parameters())
    set_samples_per_bn(network, 4)
    assert not any(module.training for module in network.modules())
    assert all(a is b for a, b in zip(network.parameters(), parameters, strict=True))
    with torch.device("meta"):
        elsewhere = nn.Sequential(nn.BatchNorm1d(3))
    set_samples_per_bn(elsewhere, 4)
    assert {value.device.type for value in elsewhere.state_dict().values()} == {"meta"}


def test_zero_leaves_the_batch_whole() -> None:
    network = small(widths=(4,), strides=(1,))
    set_samples_per_bn(network, 0)
    assert {type(m) for m in _norms(network)} == {nn.BatchNorm1d, nn.BatchNorm2d}

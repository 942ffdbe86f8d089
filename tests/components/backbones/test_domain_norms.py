"""Domain-specific batch norm: two batch norms, applied by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.components.backbones import small
from harness.components.backbones.batchnorm import (
    SourceView,
    separate_domains,
    set_samples_per_bn,
    target_state,
)
from harness.training.micro_batches import MicroBatches


def network() -> Any:
    torch.manual_seed(0)
    made: Any = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    nn.init.normal_(made[1].weight)
    return made.double()


def images(seed: int, count: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 5, 4, generator=generator, dtype=torch.float64) + seed


def test_two_batch_norms_applied_by_hand() -> None:
    made = network()
    by_hand = {name: copy.deepcopy(made) for name in ("source", "target")}
    for name in ("source", "target"):  # one convolution, two norms
        by_hand[name][0] = by_hand["target"][0]
    separate_domains(made)
    source, target = images(1), images(2)
    ours = SourceView(made)(source).sum() + made(target).square().sum()
    theirs = by_hand["source"](source).sum() + by_hand["target"](target).square().sum()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    ours.backward()
    theirs.backward()
    torch.testing.assert_close(made[0].weight.grad, by_hand["target"][0].weight.grad)
    for own, other in ((made[1], by_hand["target"][1]), (made[1].source, by_hand["source"][1])):
        torch.testing.assert_close(own.weight.grad, other.weight.grad)
        assert torch.equal(own.running_mean, other.running_mean)
    assert not torch.equal(made[1].running_mean, made[1].source.running_mean)
    made.eval()
    by_hand["target"].eval()
    assert torch.equal(made(source), by_hand["target"](source)), "tests use the target's"


def test_the_kept_network_has_the_targets_norms_and_usual_keys() -> None:
    made, plain = small(), small()
    keys = list(plain.state_dict())
    separate_domains(made)
    SourceView(made)(images(1, 4).float())
    made(images(2, 4).float())
    state = target_state(made)
    assert list(state) == keys
    plain.load_state_dict(state)
    made.eval()
    plain.eval()
    assert torch.equal(made(images(3).float()), plain(images(3).float()))


@pytest.mark.parametrize("size", [0, 2, 4])
def test_groups_and_micro_batches_are_of_one_domain(size: int) -> None:
    made = network()
    set_samples_per_bn(made, 2)
    separate_domains(made)
    whole = copy.deepcopy(made)
    source, target = images(1, 8), images(2, 8)
    losses = []
    for module, batches in ((made, MicroBatches(size)), (whole, MicroBatches(0))):
        view: Any = SourceView(module)
        embeddings = [batches.embed(view, source), batches.embed(module, target)]
        loss = torch.cat(embeddings).square().sum()
        loss.backward()
        losses.append(loss.detach())
    torch.testing.assert_close(*losses)
    for own, other in zip(made.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)
    for kept, expected in zip(made.buffers(), whole.buffers(), strict=True):
        assert torch.equal(kept, expected)

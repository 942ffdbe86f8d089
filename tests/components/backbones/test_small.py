"""The small network's initial weights."""

from __future__ import annotations

import torch

from harness.components.backbones import small


def weights(init_seed: int | None, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.cat([p.flatten() for p in small(init_seed=init_seed).trunk.parameters()])


def test_weights_of_a_seed_are_the_same_in_every_run() -> None:
    assert torch.equal(weights(0, seed=1), weights(0, seed=2))
    assert not torch.equal(weights(0, seed=1), weights(1, seed=1))


def test_without_a_seed_they_are_the_runs_own() -> None:
    assert torch.equal(weights(None, seed=1), weights(None, seed=1))
    assert not torch.equal(weights(None, seed=1), weights(None, seed=2))

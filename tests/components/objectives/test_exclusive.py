"""BUC's memory: empty after a merge, kept while the labels stay."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives import ExclusiveMemory

IMAGES, DIM = 8, 6


def _embeddings(seed: int) -> Tensor:
    return torch.randn(IMAGES, 1, DIM, generator=torch.Generator().manual_seed(seed))


def _objective(dropout: float = 0.0) -> ExclusiveMemory:
    objective = ExclusiveMemory(dropout=dropout)
    objective.prepare(1, DIM, IMAGES)
    objective.start_epoch(torch.empty(0), torch.arange(IMAGES))
    return objective


def test_an_empty_memory_knows_nothing() -> None:
    objective = _objective()
    loss = objective(_embeddings(0), torch.arange(IMAGES), torch.arange(IMAGES))
    assert float(loss) == pytest.approx(math.log(IMAGES))
    objective.update()
    # norm((0 + x) / 2)
    torch.testing.assert_close(objective.memory[0], F.normalize(_embeddings(0)[:, 0], dim=-1))


def test_the_memory_lasts_as_long_as_the_labels() -> None:
    objective = _objective()
    labels = torch.arange(IMAGES)
    objective(_embeddings(0), labels, labels)
    objective.update()
    before = objective.memory.clone()
    objective.start_epoch(torch.empty(0), labels)
    assert torch.equal(objective.memory, before), "no merge"
    objective.start_epoch(torch.empty(0), labels // 2)
    assert not objective.memory.any()
    loss = objective(_embeddings(0), labels // 2, labels)
    assert float(loss) == pytest.approx(math.log(IMAGES // 2)), "merged clusters have no rows"


def test_dropout_is_of_training_alone_and_reaches_the_memory() -> None:
    objective = _objective(dropout=0.5)
    labels = torch.arange(IMAGES)
    torch.manual_seed(0)
    objective(_embeddings(0), labels, labels)
    objective.update()
    zeros = (objective.memory == 0).float().mean()
    assert 0.2 < zeros < 0.8
    torch.testing.assert_close(objective.memory.norm(dim=-1), torch.ones(1, IMAGES))
    objective.eval()
    first, second = (float(objective(_embeddings(1), labels, labels)) for _ in range(2))
    assert first == second

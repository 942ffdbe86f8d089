"""The two memories of HHCL and DCMIP, against the walk through the batch's labels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from harness.components.objectives import HardHybridMemory
from harness.core.errors import ConfigError

CLUSTERS, DIM = 4, 5


@given(
    st.lists(st.integers(0, CLUSTERS - 1), min_size=1, max_size=16),
    st.integers(0, 2**31),
    st.sampled_from([0.0, 0.1, 0.9]),
    st.sampled_from(["hardest", "every"]),
)
def test_update(labels: list[int], seed: int, momentum: float, update: Any) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(CLUSTERS, 2, DIM, dtype=torch.float64, generator=generator)
    x = torch.randn(len(labels), 2, DIM, dtype=torch.float64, generator=generator)
    objective = HardHybridMemory(momentum=momentum, part_weight=0.5, hard_update=update)
    objective.start_epoch(F.normalize(features, dim=-1), torch.arange(CLUSTERS))
    hard, mean = objective.hard.clone(), objective.mean.clone()
    assert torch.equal(hard, mean)
    objective(x, torch.tensor(labels), torch.arange(len(labels)))
    objective.update()
    unit = F.normalize(x, dim=-1)
    for v in range(2):
        for label in set(labels):
            own = torch.stack([unit[i, v] for i, y in enumerate(labels) if y == label])
            far = min(own, key=lambda f: float(f @ hard[v, label]))
            followed = [far] if update == "hardest" else list(own)
            for memory, feature in [*((hard, f) for f in followed), (mean, own.mean(0))]:
                row = momentum * memory[v, label] + (1 - momentum) * feature
                memory[v, label] = row / row.norm()
    torch.testing.assert_close(objective.hard, hard, rtol=0, atol=1e-12)
    torch.testing.assert_close(objective.mean, mean, rtol=0, atol=1e-12)


def test_the_default_weights_are_those_of_the_authors_code() -> None:
    """h = 0.5 and h (1 − h) = 0.25, not 0.5."""
    generator = torch.Generator().manual_seed(0)
    features = F.normalize(torch.randn(8, 1, DIM, generator=generator), dim=-1)
    labels = torch.arange(8) % CLUSTERS
    objective = HardHybridMemory()
    objective.start_epoch(features, labels)
    loss = objective(2 * features, labels, torch.arange(8))
    hard, mean = objective.terms[:, 0]
    torch.testing.assert_close(loss, 0.5 * hard + 0.25 * mean)
    assert hard == mean > 0, "both halves start alike"


def test_one_of_the_memories_must_count() -> None:
    with pytest.raises(ConfigError, match=r"objective\.hard_weight and objective\.mean_weight"):
        HardHybridMemory(hard_weight=0.0, mean_weight=0.0)


def test_below_the_margin_the_memory_of_hardest_samples_teaches_nothing() -> None:
    features = F.normalize(torch.eye(CLUSTERS, DIM)[:, None], dim=-1)
    labels = torch.arange(CLUSTERS)
    for margin, counts in ((0.0, True), (1e-4, True), (10.0, False)):
        objective = HardHybridMemory(temperature=0.5, mean_weight=0.0, hard_margin=margin)
        objective.start_epoch(features, labels)
        x = (features + 0.1).requires_grad_()
        loss = objective(x, labels, labels)
        (grad,) = torch.autograd.grad(loss, x)
        assert loss == (0.5 * (objective.terms[0, 0] - margin) if counts else 0)
        assert grad.any() == counts

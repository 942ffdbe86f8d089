"""PPLR's objective: its classifiers, its epochs, its cameras, and the ends of its terms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives import PartRefinement
from harness.components.objectives.memory import centroids
from harness.components.objectives.part_refinement import refined_global, smoothed_by_agreement
from harness.components.objectives.views import view_cross_entropies
from harness.core.errors import ConfigError, HarnessError, TrainingError

VIEWS, DIM, COUNT = 3, 8, 30
LABELS, CAMERAS = torch.arange(COUNT) % 5, torch.arange(COUNT) % 3
LABELS = torch.where(torch.arange(COUNT) == 4, -1, LABELS)
INDICES = torch.tensor([0, 5, 1, 6, 2, 7, 8, 9])


def features() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return F.normalize(torch.randn(COUNT, VIEWS, DIM, generator=generator), dim=-1)


def made(**options: float) -> PartRefinement:
    objective = PartRefinement(**options)  # type: ignore[arg-type]
    objective.prepare(VIEWS, DIM, COUNT)
    return objective


def start(objective: PartRefinement) -> None:
    objective.start_epoch(features(), LABELS, CAMERAS if objective.uses_cameras else None)


def loss(objective: PartRefinement, x: Tensor | None = None) -> Tensor:
    x = 3 * features()[INDICES].flip(-1) if x is None else x
    return objective(x, LABELS[INDICES], INDICES)


# ------------------------------------------------------------------------------------ classifiers


def test_the_first_rows_are_the_centroids_of_each_epoch_and_only_they_learn() -> None:
    objective = made()
    (classifiers,) = objective.parameters()
    assert classifiers.shape == (VIEWS, COUNT, DIM), "no more rows than images"
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
    start(objective)
    expected = centroids(features(), LABELS)
    assert torch.equal(classifiers[:, :5], expected)
    loss(objective).backward()
    assert classifiers.grad is not None
    assert (classifiers.grad[:, :5].abs().amax(dim=(1, 2)) > 0).all()
    assert classifiers.grad[:, 5:].abs().max() == 0
    optimizer.step()
    assert not torch.equal(classifiers[:, :5], expected)
    start(objective)
    assert torch.equal(classifiers[:, :5], expected)
    assert next(iter(objective.parameters())) is classifiers, "the optimizer's own"


def test_too_many_clusters_are_named() -> None:
    with pytest.raises(TrainingError, match="5 clusters are too many for a classifier of 4 rows"):
        start(made(max_clusters=4))


def test_it_must_be_prepared_and_have_parts() -> None:
    with pytest.raises(HarnessError, match="no classifiers"):
        start(PartRefinement())
    with pytest.raises(HarnessError, match="no classifiers"):
        loss(PartRefinement())
    with pytest.raises(ConfigError, match="part views"):
        PartRefinement().prepare(1, DIM, COUNT)


# ----------------------------------------------------------------------------- epochs and cameras


def test_agreement_smooths_after_its_epochs_also_when_resumed() -> None:
    objective = made(aals_epoch=2)
    losses = []
    for _ in range(3):
        start(objective)
        losses.append(float(loss(objective).detach()))
    assert losses[0] == losses[1] != losses[2]
    resumed = made(aals_epoch=2)
    state = objective.state_dict()
    resumed.load_state_dict(state)
    start(resumed)
    assert float(loss(resumed).detach()) == losses[2]


def test_cameras_come_in_by_weight_only() -> None:
    plain, cameras, doubled = made(), made(camera_weight=0.5), made(camera_weight=1.0)
    assert [o.uses_cameras for o in (plain, cameras, doubled)] == [False, True, True]
    assert not PartRefinement.needs_cameras({})
    assert PartRefinement.needs_cameras({"camera_weight": 0.5})
    for objective in (plain, cameras, doubled):
        start(objective)
    base, one, two = (float(loss(o).detach()) for o in (plain, cameras, doubled))
    assert one > base
    assert two - base == pytest.approx(2 * (one - base), rel=1e-4)
    with pytest.raises(HarnessError, match="each image's camera"):
        cameras.start_epoch(features(), LABELS, None)


def test_every_view_learns() -> None:
    objective = made()
    start(objective)
    x = (3 * features()[INDICES].flip(-1)).requires_grad_()
    loss(objective, x).backward()
    assert x.grad is not None
    assert (x.grad.abs().amax(dim=(0, 2)) > 0).all()


# ------------------------------------------------------------------------------------------ terms


def some_logits() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(VIEWS, 6, 4, generator=generator, dtype=torch.float64)


Y = torch.tensor([0, 1, 2, 3, 3, 0])


def test_ends_of_the_terms() -> None:
    logits, ones = some_logits(), torch.ones(2, 6, dtype=torch.float64)
    plain = torch.stack([F.cross_entropy(view, Y) for view in logits])
    torch.testing.assert_close(refined_global(logits, Y, ones.T, beta=1.0), plain[0])
    torch.testing.assert_close(smoothed_by_agreement(logits[1:], Y, ones), plain[1:])
    torch.testing.assert_close(view_cross_entropies(logits, Y, 0.0), plain)
    uniform = torch.zeros_like(logits)[1:]
    agreed = smoothed_by_agreement(uniform, Y, 0 * ones)
    torch.testing.assert_close(agreed, torch.zeros_like(agreed), rtol=0, atol=1e-12)


def test_the_part_that_agrees_more_has_more_of_a_say() -> None:
    logits = torch.zeros(3, 1, 2, dtype=torch.float64)
    logits[1, 0, 0], logits[2, 0, 1] = 50.0, 50.0  # part 1 says label 0, part 2 says label 1
    logits[0, 0, 0] = 1.0  # so does the whole: label 0
    y = torch.tensor([0])

    def of(first: float, second: float) -> float:
        agreement = torch.tensor([[first, second]], dtype=torch.float64)
        return float(refined_global(logits, y, agreement, beta=0.0))

    assert of(1.0, 0.0) < of(0.5, 0.5) < of(0.0, 1.0)

"""Agreement of parts with the whole, against sets of neighbours."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives.part_refinement import cross_agreement
from harness.core.errors import HarnessError


def drawn(count: int, views: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return F.normalize(torch.randn(count, views, 5, generator=generator), dim=-1)


@pytest.mark.parametrize(("count", "k"), [(30, 5), (12, 11), (4, 20)])
def test_scores_are_overlaps_of_neighbour_sets(count: int, k: int) -> None:
    features = drawn(count, 3)
    lists = []
    for view in features.double().unbind(dim=1):
        distances = torch.cdist(view, view).fill_diagonal_(torch.inf)
        lists.append(distances.argsort(dim=1)[:, : min(k, count - 1)].tolist())
    expected = [
        [len({*whole} & {*part[i]}) / len({*whole} | {*part[i]}) for part in lists[1:]]
        for i, whole in enumerate(lists[0])
    ]
    scores = cross_agreement(features, k)
    torch.testing.assert_close(scores, torch.tensor(expected))
    assert scores.dtype == torch.float32


def test_a_part_that_is_the_whole_agrees_and_no_part_has_no_score() -> None:
    features = drawn(20, 1)
    assert torch.equal(cross_agreement(features.expand(20, 2, 5), 4), torch.ones(20, 1))
    assert cross_agreement(features, 4).shape == (20, 0)


def test_one_image_has_no_neighbours() -> None:
    with pytest.raises(HarnessError, match="no neighbors"):
        cross_agreement(drawn(1, 2))

"""ICE's blocks: as many cameras as can be, always of K images."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness.core.errors import TrainingError
from harness.data.samplers import CameraSampler


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@st.composite
def label_sets(draw: st.DrawFn) -> tuple[list[int], list[int], int, int]:
    pairs = st.tuples(st.integers(-1, 4), st.integers(0, 3))
    images = draw(st.lists(pairs, min_size=1, max_size=40))
    labels = [3 * label if label > 0 else label for label, _ in images]
    return labels, [c for _, c in images], draw(st.integers(1, 6)), draw(st.integers(0, 2**32))


@pytest.mark.parametrize("with_cameras", [True, False])
@given(case=label_sets())
def test_make_up_of_a_pass(with_cameras: bool, case: tuple[list[int], list[int], int, int]) -> None:
    numbers, cams, k, seed = case
    labels, cameras = torch.tensor(numbers), torch.tensor(cams) if with_cameras else None
    members = {n: [i for i, m in enumerate(numbers) if m == n] for n in numbers if n >= 0}
    if not members:
        with pytest.raises(TrainingError, match="0 clusters"):
            CameraSampler(labels, cameras, 1, k, seeded(seed))
        return
    sampler = CameraSampler(labels, cameras, 1, k, seeded(seed))
    blocks = sampler.draw().view(-1, k).tolist()
    assert len(blocks) * k == sampler.images_per_pass
    assert sorted(numbers[block[0]] for block in blocks) == sorted(members)
    for block in blocks:
        own = members[numbers[block[0]]]
        assert set(block) <= set(own)
        seen = {cams[i] for i in block} if with_cameras else {0}
        has = {cams[i] for i in own} if with_cameras else {0}
        if len(own) >= k:
            assert len(set(block)) == k  # without replacement
            assert len(seen) == min(k, len(has))
        elif len(own) > len(has):
            assert seen == has  # one of each, and the rest from the others
            repeated = [i for i, count in Counter(block).items() if count > 1]
            firsts = {i: cams[i] if with_cameras else 0 for i in block}
            # what fills up is none of the firsts, so some choice of firsts has none that recurs
            assert all(any(firsts[i] == c for i in block if i not in repeated) for c in has)


# label 0: cameras 0, 0, 0, 1 · label 1: a single image · label 2: cameras 0, 1 · label 3: 0 to 4
LABELS = torch.tensor([0] * 4 + [1] + [2] * 2 + [3] * 5 + [-1] * 2)
CAMERAS = torch.tensor([0, 0, 0, 1, 0, 0, 1, 0, 1, 2, 3, 4, 0, 1])


def _shares(cameras: Tensor | None, passes: int = 2000) -> Tensor:
    """How often each image is drawn, per pass."""
    sampler = CameraSampler(LABELS, cameras, 2, 3, seeded())
    drawn = torch.cat([sampler.draw() for _ in range(passes)])
    return torch.bincount(drawn, minlength=len(LABELS)) / passes


def test_long_run() -> None:
    share = _shares(CAMERAS)
    # one of three, then one of the other two; camera 1's image always
    assert (share[:3] - 2 / 3).abs().max() < 0.05 and share[3] == 1
    assert share[4] == 3
    # two cameras of one image each: three draws from them with replacement
    assert (share[5:7] - 1.5).abs().max() < 0.1
    # three of five cameras
    assert (share[7:12] - 0.6).abs().max() < 0.05
    assert share[12:].sum() == 0


def test_without_cameras_blocks_are_uniform() -> None:
    share = _shares(None)
    assert (share[:4] - 3 / 4).abs().max() < 0.05
    assert (share[7:12] - 0.6).abs().max() < 0.05


def test_same_generator_same_passes() -> None:
    one, other = (CameraSampler(LABELS, CAMERAS, 2, 3, seeded(5)) for _ in range(2))
    first = list(one.batches(7))
    assert len(first) == 7 and all(len(batch) == 6 for batch in first)
    assert all(torch.equal(a, b) for a, b in zip(first, other.batches(7), strict=True))


def test_too_few_labels() -> None:
    with pytest.raises(TrainingError, match="4 clusters give 12 images a pass"):
        CameraSampler(LABELS, CAMERAS, 5, 3, seeded())

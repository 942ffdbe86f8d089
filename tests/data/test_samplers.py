"""The published make-up of P × K batches, block by block and in the long run."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness.core.errors import TrainingError
from harness.data.samplers import (
    SAMPLERS,
    CameraSampler,
    IdentitySampler,
    ProxySampler,
    RandomSampler,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blocks_of(sampler: IdentitySampler, labels: Tensor) -> dict[int, list[int]]:
    """One pass, cut where the label changes: each label has exactly one block."""
    blocks: dict[int, list[int]] = {}
    previous = None
    for image in sampler.draw().tolist():
        label = int(labels[image])
        if label != previous:
            assert label not in blocks, "a label has two blocks"
        blocks.setdefault(label, []).append(image)
        previous = label
    return blocks


def check_block(block: list[int], members: list[int], cams: list[int] | None, k: int) -> None:
    """The rules of one block; `cams` is None for the variant without cameras."""
    anchor, followers = block[0], block[1:]
    assert set(block) <= set(members)
    if len(members) == 1:
        assert block == members  # alone, never repeated
        return
    assert len(block) == k
    others = [i for i in members if i != anchor]
    pool = others if cams is None else [i for i in others if cams[i] != cams[anchor]] or others
    assert set(followers) <= set(pool)
    if len(pool) >= k:
        assert len(set(followers)) == k - 1


@st.composite
def label_sets(draw: st.DrawFn) -> tuple[list[int], list[int], int, int]:
    images = draw(
        st.lists(st.tuples(st.integers(-1, 5), st.integers(0, 3)), min_size=1, max_size=40)
    )
    labels, cams = (
        [7 * label if label > 0 else label for label, _ in images],
        [c for _, c in images],
    )
    return labels, cams, draw(st.integers(1, 6)), draw(st.integers(0, 2**32))


@pytest.mark.parametrize("with_cameras", [True, False])
@given(case=label_sets())
def test_make_up_of_a_pass(with_cameras: bool, case: tuple[list[int], list[int], int, int]) -> None:
    numbers, cams, k, seed = case
    labels, cameras = torch.tensor(numbers), torch.tensor(cams) if with_cameras else None
    if max(numbers) < 0:
        with pytest.raises(TrainingError, match="0 clusters"):
            IdentitySampler(labels, cameras, 1, k, seeded(seed))
        return
    members = {n: [i for i, m in enumerate(numbers) if m == n] for n in numbers if n >= 0}
    if sum(k if len(m) > 1 else 1 for m in members.values()) < k:  # single images only
        with pytest.raises(TrainingError, match="of a single image"):
            IdentitySampler(labels, cameras, 1, k, seeded(seed))
        return
    sampler = IdentitySampler(labels, cameras, 1, k, seeded(seed))
    blocks = blocks_of(sampler, labels)
    assert set(blocks) == set(members)  # every label, outliers never
    assert sum(map(len, blocks.values())) == sampler.images_per_pass
    for label, block in blocks.items():
        check_block(block, members[label], cams if with_cameras else None, k)


# label 0: 6 images in 2 cameras (4 + 2), 1: one camera, 2: single, 3: outliers below, 4: many
LABELS = torch.tensor([0] * 6 + [1] * 5 + [2] + [-1] * 3 + [4] * 12 + [-1])
CAMERAS = torch.tensor([0] * 4 + [1] * 2 + [0] * 5 + [2] + [0, 1, 2] + [0, 1, 2] * 4 + [0])


def test_long_run_with_cameras() -> None:
    sampler = IdentitySampler(LABELS, CAMERAS, 2, 4, seeded())
    anchors, followers, first_label = torch.zeros(28), torch.zeros(28, 28), torch.zeros(5)
    passes = 2000
    for _ in range(passes):
        entries = sampler.draw()
        first_label[LABELS[entries[0]]] += 1
        starts = [0] + [
            i for i in range(1, len(entries)) if LABELS[entries[i]] != LABELS[entries[i - 1]]
        ]
        for start, end in zip(starts, [*starts[1:], len(entries)], strict=True):
            anchors[entries[start]] += 1
            followers[entries[start], entries[start + 1 : end]] += 1  # counts distinct ones
    assert anchors[LABELS < 0].sum() == 0
    # anchors are uniform over the label's images (4 standard deviations)
    for label in (0, 1, 4):
        share = anchors[label == LABELS] / passes
        p = 1 / len(share)
        assert (share - p).abs().max() < 4 * (p * (1 - p) / passes) ** 0.5
    # labels come in random order
    assert (first_label[[0, 1, 2, 4]] / passes - 0.25).abs().max() < 4 * (0.1875 / passes) ** 0.5

    # anchor in camera 0 of label 0: 3 draws with replacement from the 2 images of camera 1
    seen = followers[:4, 4:6].sum() / anchors[:4].sum()
    assert seen == pytest.approx(2 * (1 - 0.5**3), abs=0.03)
    # anchor in camera 1: 3 of the 4 images of camera 0, without replacement: each with 3/4
    seen_each = followers[4:6, :4].sum(dim=0) / anchors[4:6].sum()
    assert (seen_each - 0.75).abs().max() < 0.05
    # one camera only: 3 of the 4 others, without replacement
    assert followers[6:11, 6:11].sum() == 3 * anchors[6:11].sum()
    # three cameras of 4 images: 3 of the 8 of the other two, each with 3/8
    cams = CAMERAS[15:27]
    other = cams[:, None] != cams
    block = followers[15:27, 15:27] / anchors[15:27, None]
    assert block[~other].sum() == 0
    assert block[other].mean() == pytest.approx(3 / 8, abs=1e-6)
    assert (block[other] - 3 / 8).abs().max() < 0.13


def test_long_run_without_cameras_any_other_image_follows() -> None:
    sampler = IdentitySampler(LABELS, None, 2, 4, seeded())
    followers = torch.zeros(28, 28)
    for _ in range(1500):
        entries = sampler.draw()
        (start,) = (LABELS[entries] == 0).nonzero()[0]
        followers[entries[start], entries[start + 1 : start + 4]] += 1
    counts = followers[:6, :6]
    assert counts.diagonal().sum() == 0
    shares = counts.sum(dim=0) / 1500  # 3 of the 5 others: each image in 5/6 · 3/5 of the blocks
    assert (shares - 0.5).abs().max() < 0.06


def test_exactly_k_in_the_pool_is_without_replacement_k_minus_one_is_with() -> None:
    repeated = []
    for others in (4, 3):  # K = 4
        labels = torch.zeros(1 + others, dtype=torch.int64)
        cameras = torch.arange(1 + others)
        sampler = IdentitySampler(labels, cameras, 1, 4, seeded())
        repeated.append(sum(len(set(sampler.draw().tolist())) < 4 for _ in range(300)))
    assert repeated[0] == 0
    assert repeated[1] / 300 == pytest.approx(1 - 6 / 27, abs=0.1)


def test_batches_continue_through_a_pass_and_drop_its_incomplete_end() -> None:
    labels = torch.cat([torch.arange(5).repeat_interleave(3), torch.tensor([5])])  # 5·4 + 1 a pass
    batches = list(IdentitySampler(labels, None, 2, 4, seeded(3)).batches(5))
    again = IdentitySampler(labels, None, 2, 4, seeded(3))
    passes = [again.draw() for _ in range(3)]
    assert all(len(entries) == 21 for entries in passes)
    expected = [entries[i : i + 8] for entries in passes for i in (0, 8)][:5]
    assert all(batch.dtype == torch.int64 and batch.shape == (8,) for batch in batches)
    assert torch.equal(torch.stack(batches), torch.stack(expected))


def test_without_single_images_a_batch_is_p_blocks_of_k() -> None:
    labels = torch.arange(40).repeat_interleave(5)
    for batch in IdentitySampler(labels, torch.arange(200) % 5, 8, 4, seeded()).batches(12):
        block_labels = labels[batch].view(8, 4)
        assert (block_labels == block_labels[:, :1]).all()
        assert len(block_labels[:, 0].unique()) == 8


def test_deterministic_given_the_generator() -> None:
    def drawn(seed: int) -> Tensor:
        torch.rand(seed + 1)  # the global generator must not matter
        return torch.stack(list(IdentitySampler(LABELS, CAMERAS, 2, 4, seeded(seed)).batches(9)))

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_no_iterations() -> None:
    assert list(IdentitySampler(LABELS, CAMERAS, 2, 4, seeded()).batches(0)) == []


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([-1, -1, -1], r"0 clusters \(0 of a single image\) give 0 images"),
        ([0, 0, 1, 1, -1], r"2 clusters .* 8 images .* 3 × 4 = 12"),
        ([0, 1, 2, 3, 4, 4], r"5 clusters \(4 of a single image\) give 8 images"),
    ],
)
def test_too_few_clusters_are_named_before_training(labels: list[int], message: str) -> None:
    with pytest.raises(TrainingError, match=message) as caught:
        IdentitySampler(torch.tensor(labels), None, 3, 4, seeded())
    assert "smaller batch" in caught.value.hint


def test_a_pass_is_fast() -> None:
    labels = torch.arange(700).repeat_interleave(18)
    sampler = IdentitySampler(labels, torch.arange(len(labels)) % 6, 16, 16, seeded())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # CPU time of one thread: what a busy machine does not distort
    try:
        start = time.process_time()
        for _ in range(5):
            assert len(sampler.draw()) == 700 * 16
        assert (time.process_time() - start) / 5 < 0.05
    finally:
        torch.set_num_threads(threads)


# ------------------------------------------------------------------------------- camera proxies


@given(case=label_sets())
def test_make_up_of_a_pass_over_proxies(case: tuple[list[int], list[int], int, int]) -> None:
    numbers, cams, k, seed = case
    labels, cameras = torch.tensor(numbers), torch.tensor(cams)
    if max(numbers) < 0:
        with pytest.raises(TrainingError, match="0 camera proxies"):
            ProxySampler(labels, cameras, 1, k, seeded(seed))
        return
    entries = ProxySampler(labels, cameras, 1, k, seeded(seed)).draw().view(-1, k)
    pairs = list(zip(numbers, cams, strict=True))
    drawn = []
    for block in entries.tolist():
        (pair,) = {pairs[image] for image in block}
        drawn.append(pair)
        members = [i for i, other in enumerate(pairs) if other == pair]
        if len(members) >= k:
            assert len(set(block)) == k
    assert sorted(drawn) == sorted({pair for pair in pairs if pair[0] >= 0})


def test_a_small_proxy_is_drawn_from_k_copies_of_its_images() -> None:
    labels, cameras = torch.zeros(6, dtype=torch.int64), torch.tensor([0, 0, 1, 1, 1, 1])
    sampler = ProxySampler(labels, cameras, 1, 4, seeded())
    alone, passes, first = 0, 3000, torch.zeros(2)
    for _ in range(passes):
        blocks = sampler.draw().view(2, 4)
        small = blocks[blocks.amax(dim=1) < 2][0]
        alone += len(small.unique()) == 1
        first[0 if blocks[0].max() < 2 else 1] += 1
        assert len(blocks[blocks.amax(dim=1) >= 2][0].unique()) == 4
    # 4 of the urn 0000 1111: all the same in 2 of the 70 ways
    assert alone / passes == pytest.approx(2 / 70, abs=0.012)
    assert first[0] / passes == pytest.approx(0.5, abs=0.04)


def test_proxies_fill_batches_and_without_cameras_are_the_clusters() -> None:
    sampler = ProxySampler(LABELS, CAMERAS, 2, 4, seeded())
    assert sampler.images_per_pass == (2 + 1 + 1 + 3) * 4  # of labels 0, 1, 2, 4
    assert [len(batch) for batch in sampler.batches(5)] == [8] * 5
    assert ProxySampler(LABELS, None, 2, 4, seeded()).images_per_pass == 4 * 4
    with pytest.raises(TrainingError, match=r"7 camera proxies .* 28 images .* 8 × 4 = 32"):
        ProxySampler(LABELS, CAMERAS, 8, 4, seeded())


def test_a_random_pass_takes_every_labelled_image_once() -> None:
    labels = torch.tensor([0, 1, -1, 1, 1, 2, -1, 3, 0])
    sampler = RandomSampler(labels, None, 3, 1, seeded())
    one, other = sampler.draw().tolist(), sampler.draw().tolist()
    assert sorted(one) == sorted(other) == [0, 1, 3, 4, 5, 7, 8] and one != other
    batches = [batch.tolist() for batch in sampler.batches(4)]
    assert [len(batch) for batch in batches] == [3] * 4
    assert len({*batches[0], *batches[1]}) == 6, "no image twice in a pass"
    again = RandomSampler(labels, CAMERAS[:9], 1, 3, seeded())
    assert again.draw().tolist() == one, "only the batch's size counts, and cameras do not"
    with pytest.raises(TrainingError, match="7 labeled images give 7 images a pass"):
        RandomSampler(labels, None, 2, 4, seeded())


def test_samplers_are_found_by_name() -> None:
    found = {
        "identity": IdentitySampler,
        "camera": CameraSampler,
        "proxy": ProxySampler,
        "random": RandomSampler,
    }
    assert found == SAMPLERS
    assert [name for name, kind in SAMPLERS.items() if kind.needs_cameras] == ["proxy"]

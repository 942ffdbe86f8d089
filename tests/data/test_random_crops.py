"""Random parts, resized: against Pillow, and against the draws as BUC's code makes them."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from harness.core.errors import ConfigError
from harness.core.seeds import generator
from harness.data.augment import MEAN, STD, Augment
from harness.data.augmentation_settings import describe, make_augment
from harness.data.random_crops import draw_crops, resized_crops

H, W = 64, 32
BUC = {"area": (0.64, 1.0), "aspect": (2.0, 3.0)}


def image_cache(count: int) -> torch.Tensor:
    return torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (count, H, W, 3), dtype=np.uint8)
    )


def test_equals_pillow() -> None:
    """But for the last bit, as Pillow's weights have another precision."""
    images, rows = image_cache(6), torch.tensor([5, 0, 0, 3] * 25)
    parts = draw_crops(100, (H, W), **BUC, generator=generator(0, "parts"))
    out = resized_crops(images, rows, parts)
    assert out.shape == (100, H, W, 3) and out.dtype == torch.uint8
    off = []
    for ours, row, (top, left, h, w) in zip(out, rows, parts.tolist(), strict=True):
        part = Image.fromarray(images[row].numpy()).crop((left, top, left + w, top + h))
        theirs = np.asarray(part.resize((W, H), Image.Resampling.BILINEAR))
        off.append(np.abs(ours.numpy().astype(int) - theirs.astype(int)))
    assert np.max(off) <= 1 and np.mean(off) < 0.01


def test_the_whole_image_stays() -> None:
    images = image_cache(3)
    whole = torch.tensor([[0, 0, H, W]] * 3)
    assert torch.equal(resized_crops(images, torch.arange(3), whole), images)


def published(rng: random.Random, height: int, width: int) -> tuple[int, int, int, int]:
    """A part as BUC's code draws it."""
    for _ in range(10):
        area, aspect = rng.uniform(0.64, 1.0) * height * width, rng.uniform(2, 3)
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if w <= width and h <= height:
            return rng.randint(0, height - h), rng.randint(0, width - w), h, w
    return 0, 0, height, width


@pytest.mark.parametrize("size", [(H, W), (48, 40)])
def test_draws_have_the_published_distribution(size: tuple[int, int]) -> None:
    count = 4000
    ours = draw_crops(count, size, **BUC, generator=generator(1, "parts"))
    rng = random.Random(0)
    theirs = np.array([published(rng, *size) for _ in range(count)])
    assert (ours >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= size[0]).all()
    assert (ours[:, 1] + ours[:, 3] <= size[1]).all()
    for place in range(4):
        found = stats.ks_2samp(ours[:, place].numpy(), theirs[:, place])
        assert found.pvalue > 1e-3, place


def test_crops_come_before_all_else() -> None:
    images, indices = image_cache(8).numpy(), torch.tensor([7, 1, 1, 0])
    augment = Augment((H, W), part_area=(0.64, 1.0), pad=3)
    parameters = augment.draw(4, generator(2))
    parts = resized_crops(torch.from_numpy(images), indices, parameters.random_crop)
    plain = Augment((H, W), pad=3)
    without = plain.draw(4, generator(2))
    assert torch.equal(without.corner, parameters.corner), "the other draws are what they were"
    assert without.random_crop.tolist() == [[0, 0, H, W]] * 4
    expected = plain.apply(parts, without)
    for source in (images, torch.from_numpy(images)):
        out = augment.apply(source, parameters, indices=indices)
        assert torch.equal(out, expected)
    assert not torch.equal(expected, plain.apply(images, without, indices=indices))


# ------------------------------------------------------------------------------------ settings

USUAL = {"height": 64, "width": 32, "flip": 0.5, "pad": 4, "erase": 0.5}


def test_the_section_of_the_first_version() -> None:
    augment = make_augment(USUAL)
    assert vars(augment) == vars(Augment((64, 32), pad=4))
    assert (augment.mean, augment.std) == (MEAN, STD)
    assert describe(USUAL) == "flip 0.5, pad 4 and crop, erase 0.5"


def test_settings_reach_the_augmentation_and_the_card() -> None:
    cap = USUAL | {"erase_area": [0.02, 0.2], "erase_aspect": [0.3, 3]}
    augment = make_augment(cap)
    assert (augment.erase_area, augment.erase_aspect) == ((0.02, 0.2), (0.3, 3.0))
    assert describe(cap).endswith("erase 0.5 of area 0.02-0.2 of aspect 0.3-3")
    buc = USUAL | {"part_area": [0.64, 1]}
    assert make_augment(buc).part_area == (0.64, 1.0)
    assert describe(buc).endswith(", parts of area 0.64-1 and aspect 2-3, resized")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"erase_area": None}, "images.erase_area=None must be two positive numbers"),
        ({"erase_area": [0.4, 0.02]}, "must be two positive numbers, the lower first"),
        ({"erase_aspect": [0, 1]}, "images.erase_aspect=.* must be two positive numbers"),
        ({"part_area": 0.64}, "images.part_area=0.64 must be two positive numbers"),
        ({"part_area": "01"}, "images.part_area=01 must be two"),
        ({"part_area": [0.64, 1.1]}, "images.part_area=.* is more than the whole image"),
        ({"part_aspect": [2, 3, 4]}, "images.part_aspect=.* must be two"),
    ],
)
def test_refusals(option: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_augment(USUAL | option)

"""Augmentation against torchvision's operations on one image, and against the published draws."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor
from torchvision.transforms import functional as F

from harness.core.errors import ConfigError
from harness.core.seeds import generator
from harness.data.augment import MEAN, STD, TENSORS, Augment, AugmentParameters, normalize

H, W = 40, 20


def image_cache(count: int, size: tuple[int, int] = (H, W)) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    images.flags.writeable = False  # as an image cache is
    return images


def one_by_one(images: np.ndarray, parameters: AugmentParameters, pad: int) -> Tensor:
    """The published order of torchvision's operations, image by image."""
    out = []
    height, width = images.shape[1:3]
    for pixels, flip, (top, left), (y, x, h, w) in zip(
        images,
        parameters.flip.tolist(),
        parameters.corner.tolist(),
        parameters.erase.tolist(),
        strict=True,
    ):
        image = Image.fromarray(pixels)
        image = F.hflip(image) if flip else image
        image = F.crop(F.pad(image, pad), top, left, height, width)
        tensor = F.normalize(F.to_tensor(image), MEAN, STD)
        out.append(F.erase(tensor, y, x, h, w, torch.tensor(MEAN)[:, None, None]))
    return torch.stack(out)


@pytest.fixture(params=["compiled", "torch"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With and without compiled loops."""
    if request.param == "compiled":
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr("harness.data.augment.kernels", lambda module: None)
    return str(request.param)


@pytest.mark.parametrize(("size", "pad"), [((40, 20), 10), ((64, 32), 0), ((9, 30), 12)])
def test_equals_torchvision(size: tuple[int, int], pad: int, backend: str) -> None:
    images = image_cache(64, size)
    augment = Augment(size, pad=pad)
    parameters = augment.draw(64, generator(1, "augment"))
    out = augment.apply(images, parameters)
    assert out.dtype == torch.float32 and out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(out, one_by_one(images, parameters, pad))


def test_takes_rows_of_an_image_cache(backend: str) -> None:
    images, indices = image_cache(50), torch.tensor([7, 7, 49, 0])
    augment = Augment((H, W))
    parameters = augment.draw(4, generator(2))
    expected = augment.apply(images[indices.numpy()], parameters)
    for source in (images, torch.from_numpy(images.copy())):
        out = augment.apply(source, parameters, indices=indices)
        assert torch.equal(out, expected)
        half = augment.apply(source, parameters, indices=indices, dtype=torch.bfloat16)
        assert torch.equal(half, expected.bfloat16())


def test_normalize(backend: str) -> None:
    images = image_cache(5)
    expected = [F.normalize(F.to_tensor(Image.fromarray(image)), MEAN, STD) for image in images]
    for source in (images, torch.from_numpy(images.copy()), images[:, ::-1][:, ::-1]):
        out = normalize(source)
        assert torch.equal(out, torch.stack(expected))
        assert out.is_contiguous(memory_format=torch.channels_last)
    assert normalize(images, dtype=torch.float16).dtype == torch.float16


def test_rows_have_to_be_there() -> None:
    """Compiled loops do not check bounds, so the caller has to."""
    pytest.importorskip("numba")
    augment = Augment((H, W))
    parameters = augment.draw(1, generator(0))
    for row in (4, -1):
        with pytest.raises(IndexError):
            augment.apply(image_cache(4), parameters, indices=torch.tensor([row]))


def test_draws_are_reproducible_and_independent_of_probabilities() -> None:
    first = Augment((H, W)).draw(32, generator(3, "augment"))
    again = Augment((H, W)).draw(32, generator(3, "augment"))
    assert all(torch.equal(getattr(first, name), getattr(again, name)) for name in TENSORS)
    random_numbers = generator(3, "augment"), generator(3, "augment")
    Augment((H, W)).draw(32, random_numbers[0])
    plain = Augment((H, W), erase=0).draw(32, random_numbers[1])
    assert torch.equal(plain.corner, first.corner) and not plain.erase.any()
    assert torch.equal(random_numbers[0].get_state(), random_numbers[1].get_state())


# ------------------------------------------------------------------------------------ distributions


def published_erasing(
    rng: random.Random, height: int, width: int, probability: float = 0.5
) -> tuple[int, int, int, int] | None:
    """Random erasing as published, for one image (Zhong et al., AAAI 2020, algorithm 1)."""
    if rng.random() >= probability:
        return None
    for _ in range(100):
        area = rng.uniform(0.02, 0.4) * height * width
        aspect = rng.uniform(0.3, 1 / 0.3)
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            return rng.randint(0, height - h), rng.randint(0, width - w), h, w
    return None


def same_distribution(ours: np.ndarray, theirs: np.ndarray, bins: int = 12) -> float:
    """p of a chi-square test that two samples of integers have one distribution."""
    edges = np.unique(np.quantile(theirs, np.linspace(0, 1, bins + 1)[1:-1]))
    counts = [np.bincount(np.digitize(x, edges), minlength=len(edges) + 1) for x in (ours, theirs)]
    return float(stats.chi2_contingency(np.stack(counts)).pvalue)


def test_erasing_has_the_published_distribution() -> None:
    height, width, count = 256, 128, 20_000
    ours = Augment((height, width)).draw(count, generator(4)).erase.numpy()
    rng = random.Random(5)
    drawn = [published_erasing(rng, height, width) for _ in range(count)]
    theirs = np.array([rectangle for rectangle in drawn if rectangle is not None])
    erased = ours[ours[:, 2] > 0]
    assert abs(len(erased) - count / 2) < 4 * math.sqrt(count / 4)
    p = [same_distribution(erased[:, i], theirs[:, i]) for i in range(4)]
    p.append(same_distribution(erased[:, 2] * erased[:, 3], theirs[:, 2] * theirs[:, 3]))
    p.append(
        same_distribution(100 * erased[:, 2] // erased[:, 3], 100 * theirs[:, 2] // theirs[:, 3])
    )
    p.append(same_distribution(erased[:, 0] + erased[:, 2], theirs[:, 0] + theirs[:, 2]))
    p.append(same_distribution(erased[:, 1] + erased[:, 3], theirs[:, 1] + theirs[:, 3]))
    assert min(p) > 0.001, p


def test_the_distribution_test_can_fail() -> None:
    rng = np.random.default_rng(6)
    uniform = 100 * rng.uniform(0.3, 1 / 0.3, 10_000)
    log_uniform = 100 * np.exp(rng.uniform(math.log(0.3), -math.log(0.3), 10_000))
    assert same_distribution(log_uniform, uniform) < 1e-6
    assert same_distribution(rng.integers(0, 20, 10_000), rng.integers(0, 21, 10_000)) < 1e-6


def test_flips_and_corners_are_uniform() -> None:
    count = 21_000
    parameters = Augment((H, W)).draw(count, generator(7))
    assert abs(int(parameters.flip.sum()) - count / 2) < 4 * math.sqrt(count / 4)
    for corner in parameters.corner.T:
        counts = torch.bincount(corner)
        assert len(counts) == 21 and stats.chisquare(counts.numpy()).pvalue > 0.001


def test_corners_of_erasing_reach_the_border() -> None:
    """Both ends are included: a rectangle of known size starts at 0 … H−h."""
    augment = Augment((8, 8), erase=1, erase_area=(0.25, 0.25), erase_aspect=(1, 1))
    erase = augment.draw(4000, generator(8)).erase
    assert erase[:, 2:].unique().tolist() == [4]
    for starts in erase[:, :2].T:
        counts = torch.bincount(starts)
        assert len(counts) == 5 and stats.chisquare(counts.numpy()).pvalue > 0.001


def test_rectangles_that_never_fit_erase_nothing() -> None:
    augment = Augment((8, 8), erase=1, erase_area=(4, 4), erase_aspect=(1, 1))
    parameters = augment.draw(16, generator(9))
    assert not parameters.erase.any()
    images = image_cache(16, (8, 8))
    assert torch.equal(augment.apply(images, parameters), one_by_one(images, parameters, 10))


# --------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "options",
    [
        {"flip": 1.5},
        {"erase": -1},
        {"erase_area": (0.4, 0.02)},
        {"pad": -1},
        {"blur": 2},
        {"blur_sigma": (2.0, 0.1)},
    ],
)
def test_nonsense_is_refused(options: dict) -> None:
    with pytest.raises(ConfigError, match=f"augment.{next(iter(options))}"):
        Augment((H, W), **options)


def test_shapes_have_to_fit() -> None:
    augment = Augment((H, W))
    with pytest.raises(ValueError, match="4 images"):
        augment.apply(image_cache(4), augment.draw(3, generator(0)))
    with pytest.raises(ValueError, match=r"\(20, 40, 3\)"):
        augment.apply(image_cache(4, (W, H)), augment.draw(4, generator(0)))


@pytest.mark.gpu
def test_gpu_equals_cpu() -> None:
    images, indices = image_cache(64), torch.randint(64, (32,), generator=generator(1))
    augment = Augment((H, W))
    parameters = augment.draw(32, generator(2))
    expected = augment.apply(images, parameters, indices=indices)
    there = torch.from_numpy(images.copy()).cuda()
    assert torch.equal(augment.apply(there, parameters, indices=indices).cpu(), expected)
    assert torch.equal(
        augment.apply(images, parameters, indices=indices, device="cuda").cpu(), expected
    )
    assert torch.equal(normalize(there).cpu(), normalize(images))

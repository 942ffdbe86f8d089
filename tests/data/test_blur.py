"""Gaussian blur against scipy's in float64 and against Pillow's approximation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter

from harness.core.seeds import generator
from harness.data.augment import Augment, normalize
from harness.data.blur import SCALE, _kernels, gaussian_blur

SIGMA = torch.tensor([0.1, 0.4, 0.8, 1.2, 1.6, 2.0, 5.0], dtype=torch.float64)


def noise(count: int = len(SIGMA), size: tuple[int, int] = (24, 15)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def smooth(count: int = len(SIGMA)) -> np.ndarray:
    """As photographs are: noise enlarged eight times."""
    sizes = [Image.fromarray(image).resize((32, 64), Image.Resampling.BICUBIC)
             for image in noise(count, (8, 4))]  # fmt: skip
    return np.stack([np.asarray(image) for image in sizes])


def test_is_a_gaussian() -> None:
    images = noise()
    ours = gaussian_blur(torch.from_numpy(images), SIGMA).numpy().astype(int)
    for image, blurred, sigma in zip(images, ours, SIGMA.tolist(), strict=True):
        exact = gaussian_filter(
            image.astype(float), (sigma, sigma, 0), mode="nearest", truncate=3.0
        )
        assert np.abs(blurred - exact).max() < 1.3  # each pass rounds once


def test_is_near_the_blur_of_the_published_code() -> None:
    """Pillow approximates a Gaussian by three box blurs, and rounds after each."""
    images = smooth()
    ours = gaussian_blur(torch.from_numpy(images), SIGMA).numpy().astype(int)
    for image, blurred, sigma in zip(images, ours, SIGMA.tolist(), strict=True):
        if sigma > 2:  # more than is published
            continue
        theirs = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))
        assert np.abs(blurred - theirs.astype(int)).max() <= 4


def test_kernels_keep_brightness() -> None:
    weights = _kernels(SIGMA)
    assert torch.equal(weights.sum(dim=1), torch.full_like(weights[:, 0], SCALE))
    assert torch.equal(weights, weights.flip(1)) and bool((weights >= 0).all())
    white = torch.full((len(SIGMA), 5, 4, 3), 255, dtype=torch.uint8)
    assert torch.equal(gaussian_blur(white, SIGMA), white)


def test_an_image_does_not_depend_on_the_others() -> None:
    images = torch.from_numpy(noise())
    whole = gaussian_blur(images, SIGMA)
    for i, sigma in enumerate(SIGMA):
        assert torch.equal(whole[i : i + 1], gaussian_blur(images[i : i + 1], sigma[None]))
    some = torch.where(torch.arange(len(SIGMA)) % 2 == 0, SIGMA, 0.0)
    out = gaussian_blur(images, some)
    assert torch.equal(out[1::2], images[1::2]) and torch.equal(out[::2], whole[::2])


def test_smaller_than_the_kernel() -> None:
    image = torch.from_numpy(noise(1, (2, 1)))
    assert gaussian_blur(image, torch.tensor([5.0])).shape == image.shape


def test_augmentation_blurs_before_it_normalizes() -> None:
    images = noise(6)
    augment = Augment((24, 15), flip=0, pad=0, erase=0, blur=1)
    parameters = augment.draw(6, generator(1))
    assert bool(((parameters.blur >= 0.1) & (parameters.blur <= 2)).all())
    expected = normalize(gaussian_blur(torch.from_numpy(images), parameters.blur).numpy())
    assert torch.equal(augment.apply(images, parameters), expected)


def test_draws_without_blur_are_as_they_were() -> None:
    streams = generator(3), generator(3)
    plain = Augment((24, 15)).draw(8, streams[0])
    blurred = Augment((24, 15), blur=0.5).draw(8, streams[1])
    assert not plain.blur.any()
    for name in ("flip", "corner", "erase"):
        assert torch.equal(getattr(plain, name), getattr(blurred, name))
    assert 0 < int((Augment((24, 15), blur=0.5).draw(400, streams[1]).blur > 0).sum()) < 400


@pytest.mark.gpu
def test_gpu_equals_cpu() -> None:
    images = torch.from_numpy(noise())
    assert torch.equal(gaussian_blur(images.cuda(), SIGMA).cpu(), gaussian_blur(images, SIGMA))

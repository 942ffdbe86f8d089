"""Batch augmentation: flip, pad and crop, blur, normalize, erase.

The published pipeline (horizontal flip, 10 black pixels of padding and a random crop, ImageNet
normalization, random erasing: Zhong et al., AAAI 2020), with optional blur and random resized
crops. `Augment.draw` draws all random numbers on the CPU, so they do not depend on the device;
`Augment.apply` is deterministic arithmetic on the device of the images.

On the CPU, a compiled loop crops, normalizes and erases each image in one pass
(`harness/data/kernels.py`). With blur or random crops, or without numba, torch does it in several.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from harness.core import seeds
from harness.core.errors import ConfigError
from harness.core.kernels import in_threads, kernels, row_ranges
from harness.core.preprocessing import IMAGENET, Color, Preprocessing
from harness.data.blur import gaussian_blur
from harness.data.random_crops import draw_crops, resized_crops

MEAN, STD = IMAGENET.mean, IMAGENET.std
TRIES = 100  # to draw a rectangle that fits, after which nothing is erased

Images = np.ndarray | Tensor


@dataclass(frozen=True)
class AugmentParameters:
    """Random parameters of a batch of B images, on the CPU.

    flip: (B,) bool, mirror left and right.
    corner: (B, 2) int64, top and left of the crop in the padded image, 0 … 2·pad.
    erase: (B, 4) int64, top, left, height and width of the erased rectangle; height 0: none.
    blur: (B,) float64, standard deviation of a Gaussian in pixels; 0: none.
    random_crop: (B, 4) int64, top, left, height and width of a crop that is first resized to
        the whole image; 0, 0, H and W: none.
    blurs, crops: whether any image of the whole batch is blurred, or cropped so.
    """

    flip: Tensor
    corner: Tensor
    erase: Tensor
    blur: Tensor
    random_crop: Tensor
    blurs: bool = False
    crops: bool = False

    def __len__(self) -> int:
        return len(self.flip)

    def __getitem__(self, rows: slice) -> AugmentParameters:
        """The parameters of some images of the batch."""
        return replace(self, **{name: getattr(self, name)[rows] for name in TENSORS})


TENSORS = ("flip", "corner", "erase", "blur", "random_crop")


class Augment:
    """The augmentation of published USL ReID.

    Args:
        size: (H, W) of the images and of crops.
        flip: probability of mirroring.
        pad: black pixels on each side, before the crop.
        erase: probability of erasing a rectangle.
        erase_area: range of its area ÷ H·W, uniform.
        erase_aspect: range of its height ÷ width, uniform (not log-uniform).
        mean, std: normalization of values in 0 … 1, RGB.
        erase_fill: fill color, **after** normalization. The published code fills with the ImageNet
            mean there, not with zero (the normalized mean); hence this default.
        blur: probability of a Gaussian blur, as in SimCLR (Chen et al., ICML 2020) and ICE.
        blur_sigma: range of its standard deviation in pixels, uniform.
        part_area: range of the area ÷ H·W of a random crop that is resized to the whole, uniform;
            None: no such crops.
        part_aspect: range of its height ÷ width, uniform.

    Raises ConfigError: a probability, range or padding is out of range.
    """

    def __init__(
        self,
        size: tuple[int, int],
        flip: float = 0.5,
        pad: int = 10,
        erase: float = 0.5,
        erase_area: tuple[float, float] = (0.02, 0.4),
        erase_aspect: tuple[float, float] = (0.3, 1 / 0.3),
        mean: Color = MEAN,
        std: Color = STD,
        erase_fill: Color = MEAN,
        blur: float = 0.0,
        blur_sigma: tuple[float, float] = (0.1, 2.0),
        part_area: tuple[float, float] | None = None,
        part_aspect: tuple[float, float] = (2.0, 3.0),
    ) -> None:
        for name, value in (("flip", flip), ("erase", erase), ("blur", blur)):
            if not 0 <= value <= 1:
                raise ConfigError(f"augment.{name}={value} is not a probability", "Use 0 … 1.")
        ranges = {"erase_area": erase_area, "erase_aspect": erase_aspect, "blur_sigma": blur_sigma}
        for name, (low, high) in ranges.items():
            if not 0 < low <= high:
                raise ConfigError(f"augment.{name}=({low}, {high}) is not a positive range")
        if pad < 0 or min(size) < 1:
            raise ConfigError(f"augment.pad={pad} with images of {size[0]}×{size[1]} is impossible")
        self.size = (int(size[0]), int(size[1]))
        self.flip, self.pad, self.erase = flip, pad, erase
        self.erase_area, self.erase_aspect = erase_area, erase_aspect
        self.mean, self.std, self.erase_fill = mean, std, erase_fill
        self.blur, self.blur_sigma = blur, blur_sigma
        self.part_area, self.part_aspect = part_area, part_aspect

    def draw(self, batch: int, generator: torch.Generator) -> AugmentParameters:
        """Draw the parameters of a batch of B images.

        The number of random values does not depend on the probabilities: runs that differ only in
        erasing have the same flips and crops. Blur and random crops draw none if they are off.
        """
        uniform = partial(seeds.uniform, generator)
        height, width = self.size
        flip = uniform(batch) < self.flip
        corner = (uniform(batch, 2) * (2 * self.pad + 1)).astype(np.int64)

        # all tries at once; the first that fits is used
        chosen = uniform(batch) < self.erase
        (low, high), (narrow, tall) = self.erase_area, self.erase_aspect
        area = (low + (high - low) * uniform(batch, TRIES)) * (height * width)
        aspect = narrow + (tall - narrow) * uniform(batch, TRIES)
        h, w = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
        fits = (h < height) & (w < width)
        first = np.arange(batch), fits.argmax(axis=1)
        chosen &= fits[first]
        lengths = np.stack((h[first], w[first]), axis=1)
        # (height, width) − lengths is negative only if nothing fits, and then nothing is erased
        starts = np.floor(uniform(batch, 2) * ((height, width) - lengths + 1))
        erase = np.concatenate((starts, lengths), axis=1).astype(np.int64) * chosen[:, None]

        blur = np.zeros(batch)
        if self.blur > 0:
            low, high = self.blur_sigma
            blur = (uniform(batch) < self.blur) * (low + (high - low) * uniform(batch))

        crop = torch.tensor([0, 0, height, width]).repeat(batch, 1)
        if self.part_area is not None:
            crop = draw_crops(batch, self.size, self.part_area, self.part_aspect, generator)
        flips, corners, erased, sigmas = map(torch.from_numpy, (flip, corner, erase, blur))
        return AugmentParameters(
            flips, corners, erased, sigmas, crop, bool(blur.any()), self.part_area is not None
        )

    def apply(
        self, images: Images, parameters: AugmentParameters, *,
        indices: Tensor | np.ndarray | None = None, device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:  # fmt: skip
        """Augment images (B, H, W, 3) uint8, or the rows `indices` (B,) of an image cache.

        Images are cropped where they are, so that only uint8 crops are sent from main memory to
        `device`. Arithmetic is in float32.

        Returns:
            (B, 3, H, W) of `dtype`, normalized, in channels_last memory format.
        """
        rows = torch.arange(len(images)) if indices is None else torch.as_tensor(indices)
        if tuple(images.shape[1:]) != (*self.size, 3) or len(rows) != len(parameters):
            raise ValueError(
                f"{len(rows)} images of shape {tuple(images.shape[1:])} for {len(parameters)} "
                f"parameters of shape {(*self.size, 3)}"
            )
        blurred, cropped = parameters.blurs, parameters.crops
        loops = None if blurred or cropped else _kernels(images, device)
        if loops is not None:
            out = _compiled(
                loops, images, rows.numpy(), parameters.flip.numpy(),
                (parameters.corner - self.pad).numpy(), parameters.erase.numpy(),
                (self.mean, self.std), self.erase_fill,
            )  # fmt: skip
            return out.to(dtype).permute(0, 3, 1, 2)
        if isinstance(images, np.ndarray):
            images, rows = torch.from_numpy(images[rows.numpy()]), torch.arange(len(rows))
        if cropped:
            images = resized_crops(images, rows, parameters.random_crop)
            rows = torch.arange(len(rows))
        crops = _crop(images, rows, parameters, self.pad)
        crops = crops.to(device or crops.device)
        if blurred:
            crops = gaussian_blur(crops, parameters.blur)
        out = _normalize(crops, self.mean, self.std)
        _erase(out, parameters.erase, self.erase_fill)
        return out.to(dtype).permute(0, 3, 1, 2)


def normalize(
    images: Images, preprocessing: Preprocessing = IMAGENET, *,
    device: torch.device | str | None = None, dtype: torch.dtype = torch.float32,
) -> Tensor:  # fmt: skip
    """Images (B, H, W, 3) uint8 to (B, 3, H, W), channels_last, without augmentation.

    `(x / 255 − mean) / std` in float32, in this order, as in torchvision; then `dtype`.
    """
    mean, std = preprocessing.mean, preprocessing.std
    if (loops := _kernels(images, device)) is not None:
        none = np.zeros((len(images), 4), dtype=np.int64)
        rows, flip = np.arange(len(images)), np.zeros(len(images), dtype=bool)
        out = _compiled(loops, images, rows, flip, none[:, :2], none, (mean, std), mean)
    else:
        if isinstance(images, np.ndarray):
            images = torch.from_numpy(np.array(images))  # a copy: an image cache is read-only
        out = _normalize(images.to(device or images.device), mean, std)
    return out.to(dtype).permute(0, 3, 1, 2)


def _normalize(images: Tensor, mean: Color, std: Color) -> Tensor:
    """(B, H, W, 3) uint8 → float32, bit-identical on all devices."""
    # Divide by tensors: on a GPU, torch turns division by a Python number into a multiplication.
    scale, shift, spread = (torch.tensor(x, device=images.device) for x in (255.0, mean, std))
    return images.to(torch.float32).div_(scale).sub_(shift).div_(spread)


def _kernels(images: Images, device: torch.device | str | None) -> ModuleType | None:
    """The compiled loops if images are and stay on the CPU, and numba is usable; else None."""
    on_cpu = isinstance(images, np.ndarray) or images.device.type == "cpu"
    stay = device is None or torch.device(device).type == "cpu"
    return kernels("harness.data.kernels") if on_cpu and stay else None


def _compiled(
    loops: ModuleType, images: Images, rows: np.ndarray, flip: np.ndarray, corner: np.ndarray,
    erase: np.ndarray, normalization: tuple[Color, Color], fill: Color,
) -> Tensor:  # fmt: skip
    """Flip, crop, normalize and erase in the compiled loop: (B, H, W, 3) float32."""
    array = images if isinstance(images, np.ndarray) else images.numpy()
    count, height, width, _ = array.shape
    if len(rows) and not 0 <= rows.min() <= rows.max() < count:
        raise IndexError(f"rows {rows.min()} … {rows.max()} of an image cache of {count} images")
    lines = np.asarray(array).reshape(count, height, width * 3)
    lines.flags.writeable = False  # of the view: the loop is compiled for read-only arrays only
    out = torch.empty(len(rows), height, width, 3)
    shared = (
        lines, rows, flip, corner, erase, _table(*normalization), np.array(fill, dtype=np.float32),
        out.view(len(rows), height, width * 3).numpy(),
    )  # fmt: skip
    # more ranges than threads, so that a thread delayed by other processes does not delay the batch
    ranges = row_ranges(len(rows), 4 * torch.get_num_threads(), min_rows=8)
    in_threads(loops.augmented, [(*shared, *limits) for limits in ranges])
    return out


@cache
def _table(mean: Color, std: Color) -> np.ndarray:
    """(3, 256) float32: `(x / 255 − mean) / std` of each pixel value."""
    values = np.arange(256, dtype=np.float32) / np.float32(255)
    shift, spread = (np.array(x, dtype=np.float32)[:, None] for x in (mean, std))
    return (values - shift) / spread


def _crop(images: Tensor, rows: Tensor, parameters: AugmentParameters, pad: int) -> Tensor:
    """Flip, pad and crop a batch by indexing: out[b, y, x] = images[row, y + top, ±(x + left)]."""
    device = images.device
    height, width = images.shape[1:3]
    corner = parameters.corner.to(device) - pad
    y = torch.arange(height, device=device) + corner[:, :1]  # (B, H)
    x = torch.arange(width, device=device) + corner[:, 1:]  # (B, W)
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    x = torch.where(parameters.flip.to(device)[:, None], width - 1 - x, x)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    crops = images[rows.to(device)[:, None, None], y[:, :, None], x[:, None, :]]
    return crops * inside[..., None]


def _erase(images: Tensor, erase: Tensor, fill: Color) -> None:
    """Fill each image's rectangle in place, (B, H, W, 3)."""
    top, left, h, w = erase.to(images.device).T[:, :, None]
    y = torch.arange(images.shape[1], device=images.device)
    x = torch.arange(images.shape[2], device=images.device)
    mask = ((y >= top) & (y < top + h))[:, :, None] & ((x >= left) & (x < left + w))[:, None, :]
    color = torch.tensor(fill, device=images.device)
    torch.where(mask[..., None], color, images, out=images)

"""Augmentation of whole batches: flip, pad and crop, blur, normalise, erase.

The published pipeline (horizontal flip, 10 black pixels of padding and a random crop, ImageNet
normalisation, random erasing: Zhong et al., AAAI 2020), a blur and random parts for methods that
have them, split in two. `Augment.draw` draws the random numbers, always on the CPU, so a run has
the same ones on every device; `Augment.apply` is deterministic arithmetic on the device of the
images.

On the CPU an image is taken from the image cache, cropped, normalised and erased in one compiled pass over
it (`harness/data/kernels.py`); without numba, numpy does the same, one image after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from harness.core import seeds
from harness.core.errors import ConfigError
from harness.core.kernels import in_threads, kernels, pieces
from harness.data.blur import gaussian_blur
from harness.data.random_crops import draw_parts, resized_parts

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB, of values in 0 … 1
STD = (0.229, 0.224, 0.225)
TRIES = 100  # at a rectangle that fits, after which an image is left whole

LOOPS = "harness.data.kernels"

Colour = tuple[float, float, float]
Images = np.ndarray | Tensor


@dataclass(frozen=True)
class AugmentParameters:
    """What happens to each image of a batch. On the CPU.

    Attributes:
        flip: (B,) bool, mirror left and right.
        corner: (B, 2) int64, top and left of the crop in the padded image, 0 … 2·pad.
        erase: (B, 4) int64, top, left, height and width of what is erased; height 0 for nothing.
        blur: (B,) float64, standard deviation of a Gaussian in pixels; 0 for none.
        part: (B, 4) int64, top, left, height and width of what is resized to the whole, first of
            all; 0, 0, H and W for nothing.
    """

    flip: Tensor
    corner: Tensor
    erase: Tensor
    blur: Tensor
    part: Tensor

    def __len__(self) -> int:
        return len(self.flip)

    def __getitem__(self, rows: slice) -> AugmentParameters:
        """Those of some images of the batch."""
        fields = self.flip, self.corner, self.erase, self.blur, self.part
        return AugmentParameters(*(field[rows] for field in fields))


class Augment:
    """The augmentation of published USL ReID.

    Args:
        size: (H, W) of the images; crops have the same.
        flip: probability of mirroring.
        pad: black pixels on each side, before the crop.
        erase: probability of erasing a rectangle.
        erase_area: its area as a part of H·W, drawn uniformly from this range.
        erase_aspect: its height ÷ width, drawn uniformly (not log-uniformly) from this range.
        blur: probability of a Gaussian blur, as SimCLR (Chen et al., ICML 2020) and ICE have it.
        blur_sigma: its standard deviation in pixels, drawn uniformly from this range.
        part_area: share of H·W of a random part that is resized to the whole, drawn uniformly from
            this range; None for none. part_aspect: its height ÷ width, likewise.
        mean, std: normalisation of values in 0 … 1, RGB.
        erase_fill: what is filled in **after** normalisation. The published code fills with the
            ImageNet mean there, and not with the zero that a mean becomes; hence this default.

    Raises:
        ConfigError: a probability, range or padding that makes no sense.
    """

    def __init__(
        self,
        size: tuple[int, int],
        flip: float = 0.5,
        pad: int = 10,
        erase: float = 0.5,
        erase_area: tuple[float, float] = (0.02, 0.4),
        erase_aspect: tuple[float, float] = (0.3, 1 / 0.3),
        mean: Colour = MEAN,
        std: Colour = STD,
        erase_fill: Colour = MEAN,
        blur: float = 0.0,
        blur_sigma: tuple[float, float] = (0.1, 2.0),
        part_area: tuple[float, float] | None = None,
        part_aspect: tuple[float, float] = (2.0, 3.0),
    ) -> None:
        for name, value in (("flip", flip), ("erase", erase), ("blur", blur)):
            if not 0 <= value <= 1:
                raise ConfigError(f"augment.{name}={value} is no probability", "Use 0 … 1.")
        for name, (low, high) in (
            ("erase_area", erase_area), ("erase_aspect", erase_aspect), ("blur_sigma", blur_sigma),
        ):  # fmt: skip
            if not 0 < low <= high:
                raise ConfigError(f"augment.{name}=({low}, {high}) is no range of positive numbers")
        if pad < 0 or min(size) < 1:
            raise ConfigError(f"augment.pad={pad} with images of {size[0]}×{size[1]} is impossible")
        self.size = (int(size[0]), int(size[1]))
        self.flip, self.pad, self.erase = flip, pad, erase
        self.erase_area, self.erase_aspect = erase_area, erase_aspect
        self.mean, self.std, self.erase_fill = mean, std, erase_fill
        self.blur, self.blur_sigma = blur, blur_sigma
        self.part_area, self.part_aspect = part_area, part_aspect

    def draw(self, batch: int, generator: torch.Generator) -> AugmentParameters:
        """Parameters for a batch of B images.

        Takes equally many random numbers whatever the probabilities are: runs that differ in
        erasing alone flip and crop alike. Blur takes none where its probability is 0, nor do parts
        where there are none.
        """
        uniform = partial(seeds.uniform, generator)
        height, width = self.size
        flip = uniform(batch) < self.flip
        corner = (uniform(batch, 2) * (2 * self.pad + 1)).astype(np.int64)

        # All tries at once; the first that fits is taken.
        chosen = uniform(batch) < self.erase
        (low, high), (narrow, tall) = self.erase_area, self.erase_aspect
        area = (low + (high - low) * uniform(batch, TRIES)) * (height * width)
        aspect = narrow + (tall - narrow) * uniform(batch, TRIES)
        h, w = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
        fits = (h < height) & (w < width)
        first = np.arange(batch), fits.argmax(axis=1)
        chosen &= fits[first]
        lengths = np.stack((h[first], w[first]), axis=1)
        # (height, width) − lengths is negative only where nothing fits, and nothing is erased then
        starts = np.floor(uniform(batch, 2) * ((height, width) - lengths + 1))
        erase = np.concatenate((starts, lengths), axis=1).astype(np.int64) * chosen[:, None]

        blur = np.zeros(batch)
        if self.blur > 0:
            least, most = self.blur_sigma
            blur = (uniform(batch) < self.blur) * (least + (most - least) * uniform(batch))

        part = torch.tensor([0, 0, height, width]).repeat(batch, 1)
        if self.part_area is not None:
            part = draw_parts(batch, self.size, self.part_area, self.part_aspect, generator)
        return AugmentParameters(*map(torch.from_numpy, (flip, corner, erase, blur, part.numpy())))

    def apply(
        self,
        images: Images,
        parameters: AugmentParameters,
        *,
        indices: Tensor | np.ndarray | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        gather: bool | None = None,
    ) -> Tensor:
        """Augment a batch.

        Args:
            images: (B, H, W, 3) uint8; or an image cache (N, H, W, 3), of which `indices` (B,) are taken.
                Cropping is done where they are, so an image cache in main memory sends only uint8 crops
                to `device`.
            parameters: of B images, from `draw`.
            indices: rows of the image cache.
            device: of the result; by default that of `images`.
            dtype: of the result; arithmetic is in float32.
            gather: crop and erase by indexing in one go (the default on a GPU) or image by image
                (the default on the CPU, where it is far faster). The results are equal.

        Returns:
            (B, 3, H, W), normalised, in channels_last memory format.

        Raises:
            ValueError: shapes that do not fit each other.
        """
        rows = torch.arange(len(images)) if indices is None else torch.as_tensor(indices)
        if tuple(images.shape[1:]) != (*self.size, 3) or len(rows) != len(parameters):
            raise ValueError(
                f"{len(rows)} images of shape {tuple(images.shape[1:])} for {len(parameters)} "
                f"parameters of shape {(*self.size, 3)}"
            )
        on_cpu = isinstance(images, np.ndarray) or images.device.type == "cpu"
        gather = not on_cpu if gather is None else gather
        stays = device is None or torch.device(device).type == "cpu"
        plain = not bool(parameters.blur.any()) and bool(
            (parameters.part[:, 2:] == torch.tensor(self.size)).all()
        )
        if plain and stays and not gather and (loops := kernels(LOOPS)) is not None:
            out = _one_pass(loops, images, rows, parameters, self)
            return out.to(dtype).permute(0, 3, 1, 2)
        if bool((parameters.part[:, 2:] != torch.tensor(self.size)).any()):
            if isinstance(images, np.ndarray):
                images, rows = torch.from_numpy(images[rows.numpy()]), torch.arange(len(rows))
            images, rows = resized_parts(images, rows, parameters.part), torch.arange(len(rows))
        crops = (_crop_gather if gather else _crop_slices)(images, rows, parameters, self.pad)
        crops = crops.to(device or crops.device)
        if bool(parameters.blur.any()):
            crops = gaussian_blur(crops, parameters.blur)
        out = _normalised(crops, self.mean, self.std)
        erase = _erase_mask if gather or out.device.type != "cpu" else _erase_slices
        erase(out, parameters.erase, self.erase_fill)
        return out.to(dtype).permute(0, 3, 1, 2)


def normalise(
    images: Images,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    mean: Colour = MEAN,
    std: Colour = STD,
) -> Tensor:
    """Images (B, H, W, 3) uint8 to (B, 3, H, W), channels_last, without augmentation.

    `(x / 255 − mean) / std` in float32, in that order, as torchvision computes it; then `dtype`.
    """
    if isinstance(images, np.ndarray):
        if device is None or torch.device(device).type == "cpu":
            out = torch.from_numpy(_normalised_on_cpu(images, mean, std))
            return out.to(dtype).permute(0, 3, 1, 2)
        images = torch.from_numpy(np.array(images))  # a copy, as an image cache is read-only
    return _normalised(images.to(device or images.device), mean, std).to(dtype).permute(0, 3, 1, 2)


def _normalised(images: Tensor, mean: Colour, std: Colour) -> Tensor:
    """(B, H, W, 3) uint8 → float32. Bit for bit the same on every device."""
    if images.device.type == "cpu":
        return torch.from_numpy(_normalised_on_cpu(images.numpy(), mean, std))
    # Dividing by a tensor: torch replaces division by a Python number on a GPU with a product.
    scale, shift, spread = (torch.tensor(x, device=images.device) for x in (255.0, mean, std))
    return images.to(torch.float32).div_(scale).sub_(shift).div_(spread)


def _normalised_on_cpu(images: np.ndarray, mean: Colour, std: Colour) -> np.ndarray:
    """Image by image, so that all three operations find an image in the cache."""
    batch, height, width, _ = images.shape
    if (loops := kernels(LOOPS)) is not None:
        whole = np.zeros((batch, 4), dtype=np.int64)
        rows, flip = np.arange(batch), np.zeros(batch, dtype=bool)
        return _in_loops(loops, images, rows, flip, whole[:, :2], whole, (mean, std), mean).numpy()
    shift, spread = (np.tile(np.array(x, dtype=np.float32), width) for x in (mean, std))
    out = np.empty(images.shape, dtype=np.float32)
    lines = (batch, height, width * 3)
    for image, pixels in zip(out.reshape(lines), images.reshape(lines), strict=True):
        np.divide(pixels, np.float32(255), out=image, dtype=np.float32)
        image -= shift
        image /= spread
    return out


# ----------------------------------------------------------------------- all in one, on the CPU


def _one_pass(
    loops: ModuleType, images: Images, rows: Tensor, parameters: AugmentParameters, how: Augment
) -> Tensor:
    """Crop, normalise and erase: (B, H, W, 3) float32."""
    image_cache = images if isinstance(images, np.ndarray) else images.numpy()
    corner = (parameters.corner - how.pad).numpy()
    return _in_loops(
        loops, image_cache, rows.numpy(), parameters.flip.numpy(), corner, parameters.erase.numpy(),
        (how.mean, how.std), how.erase_fill,
    )  # fmt: skip


def _in_loops(
    loops: ModuleType, image_cache: np.ndarray, rows: np.ndarray, flip: np.ndarray, corner: np.ndarray,
    erase: np.ndarray, normal: tuple[Colour, Colour], fill: Colour,
) -> Tensor:  # fmt: skip
    """Call the compiled loop, as many images at once as torch has threads."""
    count, height, width, _ = image_cache.shape
    if len(rows) and not 0 <= rows.min() <= rows.max() < count:
        raise IndexError(f"rows {rows.min()} … {rows.max()} of an image cache of {count} images")
    lines = np.asarray(image_cache).reshape(count, height, width * 3)
    lines.flags.writeable = False  # of a view; the loop is compiled once for all image_caches
    out = torch.empty(len(rows), height, width, 3)
    shared = (
        lines, rows, flip, corner, erase, _table(*normal), np.array(fill, dtype=np.float32),
        out.view(len(rows), height, width * 3).numpy(),
    )  # fmt: skip
    # more pieces than threads: one that is held up by other processes does not hold up the batch
    several = pieces(len(rows), 4 * torch.get_num_threads(), least=8)
    in_threads(loops.augmented, [(*shared, *piece) for piece in several])
    return out


@cache
def _table(mean: Colour, std: Colour) -> np.ndarray:
    """(3, 256) float32: `(x / 255 − mean) / std` of each value, computed as elsewhere."""
    values = np.arange(256, dtype=np.float32) / np.float32(255)
    shift, spread = (np.array(x, dtype=np.float32)[:, None] for x in (mean, std))
    return (values - shift) / spread


# ------------------------------------------------------------------------- cropping and erasing


def _crop_slices(images: Images, rows: Tensor, parameters: AugmentParameters, pad: int) -> Tensor:
    """Flip, pad and crop one image after the other; only the part inside the image is copied."""
    image_cache = images if isinstance(images, np.ndarray) else images.numpy()
    height, width = image_cache.shape[1:3]
    out = np.zeros((len(rows), height, width, 3), dtype=np.uint8)
    limit = torch.tensor([height, width])  # a crop that far out is black altogether
    corners = (parameters.corner - pad).clamp(-limit, limit).tolist()
    for crop, row, flip, (y, x) in zip(
        out, rows.tolist(), parameters.flip.tolist(), corners, strict=True
    ):
        target = crop[max(0, -y) : height - y, max(0, -x) : width - x]
        window = slice(max(0, y), height + y), slice(max(0, x), width + x)
        if flip:  # channel by channel: numpy copies mirrored pixels of three bytes slowly
            for channel in range(3):
                target[..., channel] = image_cache[row, :, ::-1, channel][window]
        else:
            target[...] = image_cache[row][window]
    return torch.from_numpy(out)


def _crop_gather(images: Images, rows: Tensor, parameters: AugmentParameters, pad: int) -> Tensor:
    """Flip, pad and crop a batch by indexing: out[b, y, x] = image_cache[row_b, y + top, ±(x + left)]."""
    image_cache = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
    device = image_cache.device
    height, width = image_cache.shape[1:3]
    corner = parameters.corner.to(device) - pad
    y = torch.arange(height, device=device) + corner[:, :1]  # (B, H)
    x = torch.arange(width, device=device) + corner[:, 1:]  # (B, W)
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    x = torch.where(parameters.flip.to(device)[:, None], width - 1 - x, x)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    crops = image_cache[rows.to(device)[:, None, None], y[:, :, None], x[:, None, :]]
    return crops * inside[..., None]


def _erase_slices(images: Tensor, erase: Tensor, fill: Colour) -> None:
    """Fill each image's rectangle, (B, H, W, 3) in place."""
    for image, (top, left, h, w) in zip(images.numpy(), erase.tolist(), strict=True):
        image[top : top + h, left : left + w] = fill


def _erase_mask(images: Tensor, erase: Tensor, fill: Colour) -> None:
    """The same for a batch at once."""
    top, left, h, w = erase.to(images.device).T[:, :, None]
    y = torch.arange(images.shape[1], device=images.device)
    x = torch.arange(images.shape[2], device=images.device)
    mask = ((y >= top) & (y < top + h))[:, :, None] & ((x >= left) & (x < left + w))[:, None, :]
    colour = torch.tensor(fill, device=images.device)
    torch.where(mask[..., None], colour, images, out=images)

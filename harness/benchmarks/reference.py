"""The plain pipeline that figures are compared with: DataLoader, PIL, fp32, NCHW.

It is what a careful person writes with torchvision: JPEG files are decoded, resized and augmented
in worker processes, one image after the other; the network and its loss are the same ones.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from harness.data.augment import MEAN, STD
from harness.data.image_files import ImageFiles
from harness.data.image_source import ImageSource, Subset

QUALITY = 95  # of JPEGs that are written where a data set has none
STORED = (128, 64)  # their height and width, as Market-1501's


class PlainImages(Dataset[tuple[Tensor, int]]):
    """Images decoded and transformed one by one: (3, H, W) and the index."""

    def __init__(self, source: ImageSource, size: tuple[int, int], pad: int, train: bool) -> None:
        self.source = source
        steps: list[object] = [T.Resize(size, T.InterpolationMode.BICUBIC)]
        if train:
            steps += [T.RandomHorizontalFlip(), T.Pad(pad), T.RandomCrop(size)]
        steps += [T.ToTensor(), T.Normalize(MEAN, STD)]
        if train:
            steps.append(T.RandomErasing(p=0.5, scale=(0.02, 0.4), value=MEAN))
        self.transform = T.Compose(steps)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.source.read(index)), index


def as_files(source: ImageSource, folder: Path) -> ImageSource:
    """The source itself if its images are files; else their pictures as JPEGs in a folder."""
    inner = source
    while isinstance(inner, Subset):
        inner = inner.source
    if isinstance(inner, ImageFiles):
        return source
    names = []
    for index in range(len(source)):
        names.append(f"{index:06d}.jpg")
        picture = source.read(index).resize(STORED[::-1], Image.Resampling.BICUBIC)
        picture.save(folder / names[-1], quality=QUALITY)
    return ImageFiles(folder, names)


def batches(
    images: PlainImages, drawn: Sequence[Sequence[int]], workers: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches (B, 3, H, W) and indices (B,), as a DataLoader of `workers` processes gives them."""
    loader = DataLoader(
        images,
        batch_sampler=[list(batch) for batch in drawn],
        num_workers=workers,
        pin_memory=device.type == "cuda",
    )
    for pixels, indices in loader:
        yield pixels.to(device, non_blocking=True), indices.to(device, non_blocking=True)


def loading_rate(
    images: PlainImages, drawn: Sequence[Sequence[int]], workers: int, device: torch.device
) -> float:
    """Images a second that the loader alone delivers, the first batch (start of workers) aside."""
    stream = batches(images, drawn, workers, device)
    next(stream)
    started, count = time.perf_counter(), 0
    for pixels, _ in stream:
        count += len(pixels)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return count / (time.perf_counter() - started)


def best_workers(
    images: PlainImages, drawn: Sequence[Sequence[int]], device: torch.device
) -> tuple[int, dict[int, float]]:
    """How many worker processes deliver most here, and what each number delivered."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    tried = sorted({0, 1, max(1, cores // 2), cores})
    rates = {workers: loading_rate(images, drawn, workers, device) for workers in tried}
    return max(rates, key=lambda workers: rates[workers]), rates

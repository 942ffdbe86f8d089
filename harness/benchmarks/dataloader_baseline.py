"""The DataLoader baseline: the pipeline that most code of the field has.

Worker processes decode, resize and augment JPEG files one by one with PIL and torchvision. The
network and the loss are those of the harness, in fp32 (or TF32) and NCHW, trained by Adam, with
batch norm over the whole batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from harness.benchmarks.timing import Round
from harness.benchmarks.workload import Workload
from harness.core.distributed.processes import cores
from harness.core.precision import fp32_as
from harness.core.throughput import synchronized_time
from harness.experiment.stages import build_objective, preprocessing

Step = Callable[[Tensor, Tensor], None]


class DecodedImages(Dataset[tuple[Tensor, int]]):
    """The workload's files, decoded and transformed one by one: (3, H, W) and the index."""

    def __init__(self, workload: Workload, augmented: bool) -> None:
        self.source, size = workload.files, workload.size
        how = preprocessing(workload.stage.config.backbone)
        steps: list[object] = [T.Resize(size, T.InterpolationMode(how.interpolation))]
        if augmented:
            pad = int(workload.config.images.pad)
            steps += [T.RandomHorizontalFlip(), T.Pad(pad), T.RandomCrop(size)]
        steps += [T.ToTensor(), T.Normalize(how.mean, how.std)]
        if augmented:
            steps.append(T.RandomErasing(p=0.5, scale=(0.02, 0.4), value=how.mean))
        self.transform = T.Compose(steps)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.source.read(index)), index


def best_workers(images: DecodedImages, workload: Workload, batches: int) -> int:
    """The number of worker processes with which the DataLoader alone is fastest here."""
    drawn = workload.drawn(batches)

    def seconds(workers: int) -> float:
        stream = _load(images, drawn, workers, workload.device)
        next(stream)  # the start of the workers does not count
        started = time.perf_counter()
        for _ in stream:
            pass
        return synchronized_time(workload.device) - started

    return min({0, 1, max(1, cores() // 2), cores()}, key=seconds)


def baseline(
    what: str, workload: Workload, images: DecodedImages, steps: int, workers: int, precision: str
) -> Callable[[], Round]:
    """Rounds of `train`, `extract` or `augment`, timed once the first batch has arrived."""
    step = STEPS[what](workload) if what in STEPS else None

    def once() -> Round:
        stream = _load(images, workload.drawn(steps + 1), workers, workload.device)
        done, waited = 0, 0.0
        with fp32_as(precision):
            first = len(next(stream)[0])
            started = synchronized_time(workload.device)
            while True:
                asked = time.perf_counter()  # on the host, so that the GPU is not held up
                batch = next(stream, None)
                waited += time.perf_counter() - asked
                if batch is None:
                    break
                if step is not None:
                    step(*batch)
                done += len(batch[0])
            seconds = synchronized_time(workload.device) - started
        # where there is no network, the first batch took as much CPU work as any other
        return Round(done, seconds, {"waiting": waited / seconds}, 0 if step else first)

    return once


def _train(workload: Workload) -> Step:
    device = workload.device
    backbone = workload.backbone().to(device).train()
    objective = build_objective(workload.stage)
    objective.prepare(len(backbone.views), backbone.dim, workload.count)
    objective.to(device)
    workload.start_epoch(objective, backbone)
    parameters = [*backbone.parameters(), *objective.parameters()]
    trained = [p for p in parameters if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=3.5e-4, weight_decay=5e-4)
    labels = workload.labels.to(device)

    def step(pixels: Tensor, indices: Tensor) -> None:
        loss = objective(backbone(pixels), labels[indices], indices)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.update()

    return step


def _extract(workload: Workload) -> Step:
    backbone = workload.backbone().to(workload.device).eval()

    @torch.no_grad()
    def step(pixels: Tensor, indices: Tensor) -> None:
        F.normalize(backbone(pixels), dim=-1)

    return step


STEPS: dict[str, Callable[[Workload], Step]] = {"train": _train, "extract": _extract}


def _load(
    images: DecodedImages, drawn: Sequence[Tensor], workers: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches (B, 3, H, W) and indices (B,) on the device."""
    batches = [indices.tolist() for indices in drawn]
    loader = DataLoader(
        images, batch_sampler=batches, num_workers=workers, pin_memory=device.type == "cuda"
    )
    for pixels, indices in loader:
        yield pixels.to(device, non_blocking=True), indices.to(device, non_blocking=True)

"""The batches of an epoch: images augmented on the device, with their pseudo-labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from omegaconf import DictConfig
from torch import Tensor

from harness.core.distributed.collectives import all_rows, local_rows
from harness.core.interfaces import Batch, Distiller, LabelledSet, SourceBatch, UnlabelledSet
from harness.core.preprocessing import Preprocessing
from harness.core.seeds import generator
from harness.data.augment import normalize
from harness.data.augmentation_settings import make_augment
from harness.data.prefetcher import ImageReader, Images
from harness.data.samplers import SAMPLERS

#: number of images, and what makes a slice of them → the batch of this process
Share = Callable[[int, Callable[[slice], Tensor]], Tensor]


@dataclass
class BatchMaker:
    """Makes the batches of one stage, of this `name` and `config`.

    preprocessing: what the backbone's weights expect. distiller: says how many augmentations of an
        image a batch has, and whether it has the plain image, too.
    source: the labeled source of joint training: each batch gets as many of its images.
    """

    name: str
    config: DictConfig
    data: UnlabelledSet
    source: LabelledSet | None
    preprocessing: Preprocessing
    distiller: Distiller | None
    device: torch.device

    def __post_init__(self) -> None:
        self.augment = make_augment(self.config.images, self.preprocessing)
        self.reader = ImageReader(self.data.images, self.device)
        if self.source is not None:
            self.source_reader = ImageReader(self.source.images, self.device)

    def make(
        self, epoch: int, drawn: Iterator[Tensor], labels: Tensor, iterations: int
    ) -> Iterator[Batch]:
        """Batches on the device.

        Args:
            drawn: indices (B,) of the images of each batch. labels: pseudo-labels (N,), on the
                device. iterations: the number of batches.
        """
        own = self._own(epoch, drawn, labels)
        return own if self.source is None else self._joint(epoch, own, self.source, iterations)

    def _own(self, epoch: int, drawn: Iterator[Tensor], labels: Tensor) -> Iterator[Batch]:
        distiller = self.distiller
        copies = distiller.augmentations if distiller is not None else 1
        # the first copy's draws do not depend on the number of copies
        purposes = [("augment",), *(("augment", copy) for copy in range(1, copies))]
        draws = [generator(self.config.seed, self.name, epoch, *purpose) for purpose in purposes]
        share = local_rows if distiller is None or distiller.keeps_order else all_rows
        for indices in drawn:
            read = self.reader.rows(indices)
            images = [self._augmented(read, draw, share) for draw in draws]
            plain = None
            if distiller is not None and distiller.needs_plain:
                source, rows = read
                plain = normalize(source[rows.numpy()], self.preprocessing, device=self.device)
            on_device = indices.to(self.device)
            yield Batch(images[0], labels[on_device], on_device, tuple(images[1:]), plain)

    def _joint(
        self, epoch: int, batches: Iterator[Batch], source: LabelledSet, iterations: int
    ) -> Iterator[Batch]:
        """The batches, each with as many images of the source."""
        seed, batch, purpose = self.config.seed, self.config.batch, "source"
        sampler = SAMPLERS["identity"](
            source.identities, source.cameras, int(batch.identities), int(batch.images),
            generator(seed, self.name, epoch, purpose, "sampler"),
        )  # fmt: skip
        draw = generator(seed, self.name, epoch, purpose, "augment")
        identities = source.identities.to(self.device)
        for own, indices in zip(batches, sampler.batches(iterations), strict=True):
            images = self._augmented(self.source_reader.rows(indices), draw, local_rows)
            labels = identities[indices.to(self.device)]
            yield replace(own, source=SourceBatch(images, labels))

    def _augmented(
        self, read: tuple[Images, Tensor], draw: torch.Generator, share: Share
    ) -> Tensor:
        """Images (B, 3, H, W), augmented, of which `share` makes those that this process needs.

        read: images of the image cache, and which of them the batch has (B,).
        """
        source, rows = read
        parameters = self.augment.draw(len(rows), draw)

        def make(own: slice) -> Tensor:
            return self.augment.apply(
                source, parameters[own], indices=rows[own], device=self.device
            )

        return share(len(rows), make)

"""Samplers: P × K over identities, as most methods share it, with many cameras each, or over camera
proxies; or random.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from harness.core.errors import TrainingError


class Sampler(ABC):
    """Batches of image indices from passes through all labels."""

    #: whether it means anything without cameras
    needs_cameras = False

    def __init__(
        self,
        labels: Tensor,
        cameras: Tensor | None,
        identities_per_batch: int,
        images_per_identity: int,
        generator: torch.Generator,
    ) -> None:
        if labels.dim() != 1 or (cameras is not None and cameras.shape != labels.shape):
            shape = None if cameras is None else tuple(cameras.shape)
            raise ValueError(f"labels are {tuple(labels.shape)}, cameras {shape}")
        if identities_per_batch < 1 or images_per_identity < 1:
            raise ValueError(
                f"P = {identities_per_batch} and K = {images_per_identity} must be ≥ 1"
            )
        self.batch_size = identities_per_batch * images_per_identity
        self.images_per_identity = images_per_identity
        self.generator = generator

    @abstractmethod
    def draw(self) -> Tensor:
        """One pass through all labels, block after block: image indices, int64."""

    def batches(self, iterations: int) -> Iterator[Tensor]:
        """Yield `iterations` batches of image indices, each (P·K,) int64.

        The incomplete last one of a pass is dropped; passes are drawn as they run out.
        """
        left = iterations
        while left > 0:
            entries = self.draw()
            for batch in entries.split(self.batch_size)[
                : min(left, len(entries) // self.batch_size)
            ]:
                left -= 1
                yield batch


class IdentitySampler(Sampler):
    """P identities × K images, from as many cameras as there are.

    The make-up of a pass is the published one (SpCL, MMT, Cluster Contrast, HHCL, PPLR, MSKD): all
    labels in random order, for each of them a block of K images. A block is an anchor, uniform
    among the label's images, and K − 1 more

    - from the label's images of *other cameras* than the anchor's, if there are any,
    - else from its other images (always so if `cameras` is None),

    without replacement if there are at least K to draw from, otherwise with. A label of one image
    gives a block of that image *alone*, so that later blocks are out of step with the batch
    borders. A batch is the next P·K entries; the incomplete last one is dropped, and a new pass is
    drawn whenever the list runs out. Outliers (label < 0) are never drawn.

    Args:
        labels: (N,) int64, negative for outliers.
        cameras: (N,) int64, or None where they are unknown or must not be used.
        identities_per_batch: P.
        images_per_identity: K.
        generator: CPU generator, the only source of randomness; advanced by each pass.

    Raises:
        TrainingError: the labels cannot fill one batch.
        ValueError: shapes that do not match, P or K below 1.
    """

    def __init__(
        self,
        labels: Tensor,
        cameras: Tensor | None,
        identities_per_batch: int,
        images_per_identity: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__(labels, cameras, identities_per_batch, images_per_identity, generator)
        labels = labels.cpu()
        images = (labels >= 0).nonzero().flatten()
        order = torch.argsort(labels[images], stable=True)
        self._images = images[order]  # grouped by label; below, positions in this list
        _, self._label, self._size = torch.unique_consecutive(
            labels[self._images], return_inverse=True, return_counts=True
        )
        self._start = self._size.cumsum(0) - self._size
        # without cameras, each image counts as a camera of its own: the others are all the others
        self._camera = torch.arange(len(images)) if cameras is None else cameras.cpu()[self._images]

        clusters, singles = len(self._size), int((self._size == 1).sum())
        self.images_per_pass = clusters * images_per_identity - singles * (images_per_identity - 1)
        if self.images_per_pass < self.batch_size:
            raise TrainingError(
                f"{clusters} clusters ({singles} of a single image) give {self.images_per_pass} "
                f"images a pass, but a batch needs P × K = {identities_per_batch} × "
                f"{images_per_identity} = {self.batch_size}",
                "Use a larger eps (or smaller min_samples) for more clusters, or a smaller P.",
            )

    def draw(self) -> Tensor:
        """One pass through all labels, block after block: (images_per_pass,) int64 indices."""
        clusters, draws = len(self._size), self.images_per_identity - 1
        anchor = self._start + self._below(self._size)

        # who may not follow the anchor: its camera, or only itself where there is no other camera
        barred = self._camera == self._camera[anchor][self._label]
        pool = self._size - torch.bincount(self._label[barred], minlength=clusters)
        barred &= (pool > 0)[self._label]
        barred[anchor] = True
        pool = torch.where(pool > 0, pool, self._size - 1)

        # shuffle within each label, barred images last: its pool is then the first `pool` entries
        shuffle = torch.rand(len(self._label), dtype=torch.float64, generator=self.generator)
        shuffled = torch.argsort(self._label + (shuffle + barred) / 2)
        first = torch.arange(draws).expand(clusters, draws)
        slots = torch.where(
            (pool > draws)[:, None], first, self._below(pool[:, None].expand(clusters, draws))
        )
        followers = shuffled[self._start[:, None] + slots]

        blocks = torch.cat([anchor[:, None], followers], dim=1)
        emitted = (self._size > 1)[:, None].repeat(1, draws + 1)
        emitted[:, 0] = True  # a single image is its whole block
        turn = torch.randperm(clusters, generator=self.generator)
        return self._images[blocks[turn][emitted[turn]]]

    def _below(self, bounds: Tensor) -> Tensor:
        """Uniform integers, 0 … bound − 1 (0 where the bound is 0)."""
        uniform = torch.rand(bounds.shape, dtype=torch.float64, generator=self.generator)
        return (uniform * bounds).to(torch.int64)


class CameraSampler(Sampler):
    """P identities × K images, each block of as many cameras as can be.

    The make-up of a pass is ICE's (Chen et al., ICCV 2021): all labels in random order, for each of
    them one random image of each of its cameras; of more than K a random K; fewer are filled up
    from the label's other images, without replacement if these suffice, with otherwise. Where
    every camera has one image, and these are too few, all K are drawn from them with replacement.
    So every block has K images, that of a single image too. Without cameras (None) a block is K
    random images of the label.

    Args: as for `IdentitySampler`.

    Raises:
        TrainingError: the labels cannot fill one batch.
        ValueError: shapes that do not match, P or K below 1.
    """

    def __init__(
        self,
        labels: Tensor,
        cameras: Tensor | None,
        identities_per_batch: int,
        images_per_identity: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__(labels, cameras, identities_per_batch, images_per_identity, generator)
        labels = labels.cpu()
        cameras = torch.zeros_like(labels) if cameras is None else cameras.cpu()
        self._images = (labels >= 0).nonzero().flatten()
        _, self._label, self._size = torch.unique(
            labels[self._images], return_inverse=True, return_counts=True
        )
        self._start = self._size.cumsum(0) - self._size
        pairs = self._label * (int(cameras.max()) + 1) + cameras[self._images]
        pair_numbers, self._pair = torch.unique(pairs, return_inverse=True)
        owners = torch.div(pair_numbers, int(cameras.max()) + 1, rounding_mode="floor")
        self._cameras = torch.bincount(owners, minlength=len(self._size))

        self.images_per_pass = len(self._size) * images_per_identity
        if self.images_per_pass < self.batch_size:
            raise TrainingError(
                f"{len(self._size)} clusters give {self.images_per_pass} images a pass, but a "
                f"batch needs P × K = {identities_per_batch} × {images_per_identity} = "
                f"{self.batch_size}",
                "Use a larger eps (or smaller min_samples) for more clusters, or a smaller P.",
            )

    def draw(self) -> Tensor:
        """One pass through all labels, block after block: (images_per_pass,) int64 indices."""
        wanted = self.images_per_identity
        # within each label the first image of each camera, shuffled, then the others, shuffled
        shuffle = torch.rand(len(self._label), dtype=torch.float64, generator=self.generator)
        within_pairs = torch.argsort(self._pair + shuffle)
        later = torch.ones(len(self._label), dtype=torch.bool)
        later[within_pairs[self._pair[within_pairs].diff(prepend=torch.tensor([-1])) > 0]] = False
        again = torch.rand(len(self._label), dtype=torch.float64, generator=self.generator)
        shuffled = torch.argsort(self._label + (again + later) / 2)

        slots = torch.arange(wanted).expand(len(self._size), wanted)
        cameras, size = self._cameras[:, None], self._size[:, None]
        uniform = torch.rand(slots.shape, dtype=torch.float64, generator=self.generator)
        of_others = cameras + (uniform * (size - cameras)).to(torch.int64)
        slots = torch.where((size < wanted) & (slots >= cameras), of_others, slots)
        of_firsts = (uniform * cameras).to(torch.int64)
        slots = torch.where((size < wanted) & (size == cameras), of_firsts, slots)
        blocks = shuffled[self._start[:, None] + slots]
        turn = torch.randperm(len(self._size), generator=self.generator)
        return self._images[blocks[turn].flatten()]


class ProxySampler(Sampler):
    """P camera proxies × K images: each cluster is in a pass once for every camera that it has.

    The make-up of a pass is CAP's (Wang et al., AAAI 2021): all (label, camera) pairs in random
    order, for each of them K of its images without replacement; one of fewer than K images has
    each of them K times in the urn that its block is drawn from. Batches as `IdentitySampler`'s.
    Without cameras each label is one proxy.

    Args:
        identities_per_batch: P, proxies here. The others as for `IdentitySampler`.

    Raises:
        TrainingError: the labels cannot fill one batch.
        ValueError: shapes that do not match, P or K below 1.
    """

    needs_cameras = True

    def __init__(
        self,
        labels: Tensor,
        cameras: Tensor | None,
        identities_per_batch: int,
        images_per_identity: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__(labels, cameras, identities_per_batch, images_per_identity, generator)
        labels = labels.cpu()
        cameras = torch.zeros_like(labels) if cameras is None else cameras.cpu()
        images = (labels >= 0).nonzero().flatten()
        pairs = labels[images] * (int(cameras.max()) + 1) + cameras[images]
        _, proxy, size = torch.unique(pairs, return_inverse=True, return_counts=True)
        copies = torch.where(size < images_per_identity, images_per_identity, 1)
        entries = torch.arange(len(images)).repeat_interleave(copies[proxy])
        self._images, self._proxy = images[entries], proxy[entries]
        urn = size * copies
        self._start = urn.cumsum(0) - urn

        self.images_per_pass = len(size) * images_per_identity
        if self.images_per_pass < self.batch_size:
            raise TrainingError(
                f"{len(size)} camera proxies give {self.images_per_pass} images a pass, but a "
                f"batch needs P × K = {identities_per_batch} × {images_per_identity} = "
                f"{self.batch_size}",
                "Use a larger eps (or smaller min_samples) for more clusters, or a smaller P.",
            )

    def draw(self) -> Tensor:
        """One pass through all proxies, block after block: (images_per_pass,) int64 indices."""
        shuffle = torch.rand(len(self._proxy), dtype=torch.float64, generator=self.generator)
        shuffled = torch.argsort(self._proxy + shuffle)  # within each proxy
        blocks = shuffled[self._start[:, None] + torch.arange(self.images_per_identity)]
        turn = torch.randperm(len(self._start), generator=self.generator)
        return self._images[blocks[turn].flatten()]


class RandomSampler(Sampler):
    """Every labelled image once a pass, in random order, whatever its label: BUC's plain shuffle.

    Args:
        identities_per_batch, images_per_identity: only their product counts, the batch size. The
            others as for `IdentitySampler`; cameras are not looked at.

    Raises:
        TrainingError: the labelled images cannot fill one batch.
        ValueError: shapes that do not match, P or K below 1.
    """

    def __init__(
        self,
        labels: Tensor,
        cameras: Tensor | None,
        identities_per_batch: int,
        images_per_identity: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__(labels, cameras, identities_per_batch, images_per_identity, generator)
        self._images = (labels.cpu() >= 0).nonzero().flatten()
        self.images_per_pass = len(self._images)
        if self.images_per_pass < self.batch_size:
            raise TrainingError(
                f"{self.images_per_pass} labelled images are less than a batch of "
                f"{self.batch_size}",
                "Use a larger eps (or smaller min_samples) for more clusters, or a smaller batch.",
            )

    def draw(self) -> Tensor:
        """One pass: (images_per_pass,) int64 indices."""
        return self._images[torch.randperm(self.images_per_pass, generator=self.generator)]


#: `batch.sampler` → its class
SAMPLERS: dict[str, type[Sampler]] = {
    "identity": IdentitySampler,
    "camera": CameraSampler,
    "proxy": ProxySampler,
    "random": RandomSampler,
}

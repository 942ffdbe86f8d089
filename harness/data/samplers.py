"""Batch samplers: P × K over identities, with many cameras each, or over camera proxies; random."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from harness.core.errors import TrainingError


class Sampler(ABC):
    """Draws batches of P·K image indices in passes over all labels.

    Outliers (label < 0) are never drawn. A batch is the next P·K entries of a pass, whose length is
    `images_per_pass`; the incomplete last batch of a pass is dropped.

    Args:
        labels: (N,) int64, negative for outliers.
        cameras: (N,) int64, or None if unknown or not to be used.
        identities_per_batch, images_per_identity: P and K.
        generator: CPU generator, the only source of randomness; advanced by each pass.

    Raises TrainingError: the labels cannot fill one batch.
    """

    #: whether it is meaningless without cameras
    needs_cameras = False

    def __init__(
        self, labels: Tensor, cameras: Tensor | None, identities_per_batch: int,
        images_per_identity: int, generator: torch.Generator,
    ) -> None:  # fmt: skip
        self.batch_size = identities_per_batch * images_per_identity
        self.images_per_identity = images_per_identity
        self.generator = generator
        on_cpu = None if cameras is None else cameras.cpu()
        self.images_per_pass, groups = self._group(labels.cpu(), on_cpu)
        if self.images_per_pass < self.batch_size:
            raise TrainingError(
                f"{groups} give {self.images_per_pass} images a pass, but a batch needs P × K = "
                f"{identities_per_batch} × {images_per_identity} = {self.batch_size}",
                "Use labels with more clusters, or a smaller batch.",
            )

    @abstractmethod
    def _group(self, labels: Tensor, cameras: Tensor | None) -> tuple[int, str]:
        """Prepare `draw`; returns `images_per_pass` and a description of the groups."""

    @abstractmethod
    def draw(self) -> Tensor:
        """One pass: (images_per_pass,) int64 image indices, block after block."""

    def batches(self, iterations: int) -> Iterator[Tensor]:
        """Yield `iterations` batches of image indices, (P·K,) int64, from successive passes."""
        left = iterations
        while left > 0:
            entries = self.draw()
            full = min(left, len(entries) // self.batch_size)
            yield from entries.split(self.batch_size)[:full]
            left -= full

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, dtype=torch.float64, generator=self.generator)


class IdentitySampler(Sampler):
    """P identities × K images, from different cameras if possible.

    A pass is the published one (SpCL, MMT, Cluster Contrast, HHCL, PPLR, MSKD): all labels in
    random order, with a block of K images each. A block is an anchor, uniform among the label's
    images, and K − 1 more

    - from the label's images of *other cameras* than the anchor's, if there are any,
    - else from its other images (always if `cameras` is None),

    without replacement if at least K are available, otherwise with replacement. The block of a
    label with one image is that image *alone*, so later blocks are not aligned with batches.
    """

    def _group(self, labels: Tensor, cameras: Tensor | None) -> tuple[int, str]:
        images = (labels >= 0).nonzero().flatten()
        order = torch.argsort(labels[images], stable=True)
        self._images = images[order]  # grouped by label; below, positions in this list
        _, self._label, self._size = torch.unique_consecutive(
            labels[self._images], return_inverse=True, return_counts=True
        )
        self._start = self._size.cumsum(0) - self._size
        # without cameras, each image gets its own: all others are then from other cameras
        self._camera = torch.arange(len(images)) if cameras is None else cameras[self._images]

        clusters, singles = len(self._size), int((self._size == 1).sum())
        k = self.images_per_identity
        description = f"{clusters} clusters ({singles} of a single image)"
        return clusters * k - singles * (k - 1), description

    def draw(self) -> Tensor:
        clusters, draws = len(self._size), self.images_per_identity - 1
        anchor = self._start + self._integers_below(self._size)

        # excluded after the anchor: its camera; only the anchor itself if there is no other camera
        excluded = self._camera == self._camera[anchor][self._label]
        pool = self._size - torch.bincount(self._label[excluded], minlength=clusters)
        excluded &= (pool > 0)[self._label]
        excluded[anchor] = True
        pool = torch.where(pool > 0, pool, self._size - 1)

        # shuffle within each label, excluded images last: its pool is the first `pool` entries
        shuffle = self._uniform(len(self._label))
        shuffled = torch.argsort(self._label + (shuffle + excluded) / 2)
        first = torch.arange(draws).expand(clusters, draws)
        with_replacement = self._integers_below(pool[:, None].expand(clusters, draws))
        slots = torch.where((pool > draws)[:, None], first, with_replacement)
        followers = shuffled[self._start[:, None] + slots]

        blocks = torch.cat([anchor[:, None], followers], dim=1)
        used = (self._size > 1)[:, None].repeat(1, draws + 1)
        used[:, 0] = True  # a single image is its whole block
        turn = torch.randperm(clusters, generator=self.generator)
        return self._images[blocks[turn][used[turn]]]

    def _integers_below(self, bounds: Tensor) -> Tensor:
        """Uniform integers, 0 … bound − 1 (0 if the bound is 0)."""
        return (self._uniform(*bounds.shape) * bounds).to(torch.int64)


class CameraSampler(Sampler):
    """P identities × K images, each block from as many cameras as possible.

    A pass is ICE's (Chen et al., ICCV 2021): all labels in random order, with one random image of
    each of the label's cameras. Of more than K, a random K are used. Fewer are filled up from the
    label's other images, without replacement if these suffice. If every camera has one image and
    these are too few, all K are drawn from them with replacement. So every block has K images, even
    that of a single image. Without cameras, a block is K random images of the label.
    """

    def _group(self, labels: Tensor, cameras: Tensor | None) -> tuple[int, str]:
        self._images = (labels >= 0).nonzero().flatten()
        _, self._label, self._size = torch.unique(
            labels[self._images], return_inverse=True, return_counts=True
        )
        self._start = self._size.cumsum(0) - self._size
        camera = torch.zeros_like(self._label) if cameras is None else cameras[self._images]
        label_of_pair, self._pair = _unique_pairs(self._label, camera)
        self._cameras = torch.bincount(label_of_pair, minlength=len(self._size))
        return len(self._size) * self.images_per_identity, f"{len(self._size)} clusters"

    def draw(self) -> Tensor:
        wanted = self.images_per_identity
        # within each label the first image of each camera, shuffled, then the others, shuffled
        within_pairs = torch.argsort(self._pair + self._uniform(len(self._label)))
        later = torch.ones(len(self._label), dtype=torch.bool)
        later[within_pairs[self._pair[within_pairs].diff(prepend=torch.tensor([-1])) > 0]] = False
        shuffled = torch.argsort(self._label + (self._uniform(len(self._label)) + later) / 2)

        slots = torch.arange(wanted).expand(len(self._size), wanted)
        cameras, size = self._cameras[:, None], self._size[:, None]
        uniform = self._uniform(*slots.shape)
        of_others = cameras + (uniform * (size - cameras)).to(torch.int64)
        slots = torch.where((size < wanted) & (slots >= cameras), of_others, slots)
        of_firsts = (uniform * cameras).to(torch.int64)
        slots = torch.where((size < wanted) & (size == cameras), of_firsts, slots)
        blocks = shuffled[self._start[:, None] + slots]
        turn = torch.randperm(len(self._size), generator=self.generator)
        return self._images[blocks[turn].flatten()]


class ProxySampler(Sampler):
    """P camera proxies × K images: a pass has one block for each camera of each cluster.

    A pass is CAP's (Wang et al., AAAI 2021): all (label, camera) pairs in random order, with K
    images each, without replacement. A pair of fewer than K images is drawn from a pool with K
    copies of each image. Without cameras, each label is one proxy.
    """

    needs_cameras = True

    def _group(self, labels: Tensor, cameras: Tensor | None) -> tuple[int, str]:
        images = (labels >= 0).nonzero().flatten()
        camera = torch.zeros_like(images) if cameras is None else cameras[images]
        _, proxy = _unique_pairs(labels[images], camera)
        size = torch.bincount(proxy)
        copies = torch.where(size < self.images_per_identity, self.images_per_identity, 1)
        entries = torch.arange(len(images)).repeat_interleave(copies[proxy])
        self._images, self._proxy = images[entries], proxy[entries]
        pool = size * copies
        self._start = pool.cumsum(0) - pool
        return len(size) * self.images_per_identity, f"{len(size)} camera proxies"

    def draw(self) -> Tensor:
        # shuffled within each proxy
        shuffled = torch.argsort(self._proxy + self._uniform(len(self._proxy)))
        blocks = shuffled[self._start[:, None] + torch.arange(self.images_per_identity)]
        turn = torch.randperm(len(self._start), generator=self.generator)
        return self._images[blocks[turn].flatten()]


class RandomSampler(Sampler):
    """All labeled images in random order, whatever their labels or cameras (BUC's shuffle)."""

    def _group(self, labels: Tensor, cameras: Tensor | None) -> tuple[int, str]:
        self._images = (labels >= 0).nonzero().flatten()
        return len(self._images), f"{len(self._images)} labeled images"

    def draw(self) -> Tensor:
        return self._images[torch.randperm(self.images_per_pass, generator=self.generator)]


def _unique_pairs(labels: Tensor, cameras: Tensor) -> tuple[Tensor, Tensor]:
    """The label of each existing (label, camera) pair, (P,), and the pair of each image, (N,)."""
    base = int(cameras.max()) + 1 if len(cameras) else 1
    pairs, inverse = torch.unique(labels * base + cameras, return_inverse=True)
    return torch.div(pairs, base, rounding_mode="floor"), inverse


#: `batch.sampler` → its class
SAMPLERS: dict[str, type[Sampler]] = {
    "identity": IdentitySampler, "camera": CameraSampler, "proxy": ProxySampler,
    "random": RandomSampler,
}  # fmt: skip

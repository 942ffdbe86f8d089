"""The plugs, and the values that pass between them.

A method is made of a `Backbone`, a `PseudoLabeler`, an `Objective` and a `Distiller`; images come
from a `Dataset`. What a method may see and what it may not is a matter of type: `UnlabelledSet`
(images, and cameras if the method declared them) goes in, `Split` (with identities) stays outside.

Shapes: N images of a set, B of a batch, V views, D features per view. View 0 is the global one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# ----------------------------------------------------------------- what a method sees of images


@dataclass(frozen=True)
class UnlabelledSet:
    """All that a method ever sees of the training set: pixels, and cameras if it declared them.

    images: (N, H, W, 3) uint8, decoded and resized once; on the GPU, in pinned memory, or
        mapped from their file (`data.cache_location`).
    cameras: (N,) int64, or None if the data set has none or the method does not use them.
    """

    images: np.ndarray | Tensor
    cameras: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)


# ------------------------------------------------------------------------------- parts of a method


class Backbone(nn.Module, ABC):
    """Images to embeddings.

    Attributes:
        views: names of the V views; the first is the global one.
        dim: D, the size of each view's embedding.
    """

    views: tuple[str, ...]
    dim: int

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalised, to embeddings (B, V, D), not yet L2-normalised."""

    def trunk_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that initial weights are loaded into, for `optimizer.backbone_lr_mult`; all of them
        unless a backbone tells them from its heads.
        """
        return self.parameters()


@dataclass(frozen=True)
class PseudoLabels:
    """Labels for all training images.

    labels: (N,) int64 on the CPU, 0 … K−1 with every number in use, -1 for outliers.
    stats: plain numbers for the record and the progress line (at least clusters, outliers).
        A labeler may count otherwise than the labels do, and says how: SpCL's gives outliers labels
        of their own, yet they are outliers here, and labels of one image are no clusters.
    """

    labels: Tensor
    stats: Mapping[str, float] = field(default_factory=dict)

    @property
    def clusters(self) -> int:
        """K, the number of labels."""
        return int(self.labels.max()) + 1 if self.labels.numel() else 0

    @property
    def outliers(self) -> int:
        """How many images have no label."""
        return int((self.labels < 0).sum())


class PseudoLabeler(ABC):
    """Features to labels, before each epoch or as often as `train.label_every` says.

    Equal features and an equal state give equal labels. A labeler without memory of earlier epochs
    has no state; one that has keeps it in `state_dict`, so that a killed run goes on as if nothing
    had been.
    """

    #: whether `label` looks at cameras; if so, the method has to declare `uses_cameras`
    uses_cameras: bool = False
    #: the fewest images N that it can label with its settings
    min_images: int = 1
    #: what to change where too few clusters are found, for error messages
    hint: str = "Raise labeler.eps, lower labeler.min_samples"
    #: how often `label` is called at least before its labels say anything
    min_calls: int = 1

    @classmethod
    def needs_cameras(cls, options: Mapping[str, Any]) -> bool:
        """What `uses_cameras` will be of one built with these options; asked before it is built."""
        return cls.uses_cameras

    @classmethod
    def looks_at_parts(cls, options: Mapping[str, Any]) -> bool:
        """Whether one built with these options looks at other views than the global one."""
        return bool(options.get("part_weight"))

    def max_clusters(self, images: int) -> int | None:
        """The most labels K that N images may get; None where there is no telling."""
        return None

    @abstractmethod
    def label(self, features: Tensor, cameras: Tensor | None = None) -> PseudoLabels:
        """Features (N, V, D) float32, L2-normalised per view, to labels.

        Raises:
            HarnessError: features that are not finite, or too few of them.
        """

    def describe(self) -> str:
        """The settings that a person would change first, for error messages ("eps 0.6, …")."""
        return type(self).__name__

    def state_dict(self) -> dict[str, Any]:
        """What the next `label` depends on besides its arguments: tensors and plain numbers."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Go on from a `state_dict`."""


class Objective(nn.Module, ABC):
    """Labels to a loss. Owns its memory, which is rebuilt or kept at each epoch's start.

    A step is `loss = objective(...)`; `loss.backward()`; `objective.update()`. Memories change in
    `update`, after the gradient was taken with the old ones.
    """

    #: whether it looks at cameras; if so, the method has to declare `uses_cameras`
    uses_cameras: bool = False
    #: the fewest views V that it can do with
    min_views: int = 1
    #: whether `start_epoch` looks at features; if not, it gets none (0, V, D) where labels stay
    reads_features: bool = True
    #: whether it scores labels by a trained classifier, see `logits`
    has_classifier: bool = False
    #: the most labels K that it has room for; None: any number
    max_clusters: int | None = None

    @classmethod
    def needs_cameras(cls, options: Mapping[str, Any]) -> bool:
        """What `uses_cameras` will be of one built with these options; asked before it is built."""
        return cls.uses_cameras

    @classmethod
    def takes_pooled(cls, options: Mapping[str, Any]) -> bool:
        """Whether one built with these options needs the backbone's last view to be `pooled`, the
        global one before its neck, which is no part; asked before it is built.
        """
        return False

    def prepare(self, views: int, dim: int, images: int) -> None:
        """Called once, before the optimiser is made and a checkpoint is loaded: the moment for
        parameters and buffers whose size depends on the network or on the training set.

        Args:
            views, dim: V and D of the backbone. images: N.
        """

    def features(self) -> Tensor | None:
        """Features (N, V, D), L2-normalised per view, that the next epoch is labelled from instead
        of freshly extracted ones; None (the default) to extract. Warm-up epochs always extract.
        """
        return None

    @abstractmethod
    def start_epoch(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        """Set up for the epoch's labels, which may be those of the epoch before.

        Args:
            features: (N, V, D) float32, L2-normalised per view, of all training images, as the
                network gives them now.
            labels: (N,) int64, -1 for outliers.
            cameras: (N,) int64 if the method uses them.
        """

    @abstractmethod
    def forward(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """Embeddings (B, V, D) as the backbone gives them, labels and indices (B,) → loss."""

    def logits(self, embeddings: Tensor) -> Tensor:
        """Scores of the epoch's K labels, of objectives with a classifier: (B, V, D) → (V, B, K).

        The classifier is among the parameters, so that a teacher may average it.
        """
        raise NotImplementedError(f"{type(self).__name__} has no classifier")

    def metric_view(self, embeddings: Tensor) -> Tensor:
        """The view whose distances its loss compares, or a distiller's may: (B, V, D) → (B, D)."""
        return embeddings[:, 0]

    def update(self, frozen: bool = False) -> None:
        """Let the memory take in the last batch. `frozen`: leave it as it is (warm-up epochs)."""


def embed(network: Backbone, images: Tensor) -> Tensor:
    """Embeddings (B, V, D) that one process computes of a whole batch (B, 3, H, W) at once."""
    return network(images)


@dataclass(frozen=True)
class Batch:
    """What a training step sees of B images.

    images: (B, 3, H, W), augmented and normalised: what the student sees.
    labels: (B,) int64 from 0. indices: (B,) int64 into the training set.
    others: the same images augmented by other draws, `Distiller.copies` − 1 of them.
    plain: the same images without augmentation, if `Distiller.wants_plain`.
    embed: the network and images (B, 3, H, W) → embeddings (B, V, D) of the whole batch. Distillers
        call networks through it, so that the batch can be shared by processes and split.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    others: tuple[Tensor, ...] = ()
    plain: Tensor | None = None
    embed: Callable[[Backbone, Tensor], Tensor] = embed


class Distiller(nn.Module, ABC):
    """A teacher, and the loss that it adds.

    Its parameters that take a gradient are trained along with the student, and all of its state is
    in checkpoints.

    Attributes:
        copies_student: whether its `teacher` argument is a copy of the stage's untrained network,
            made when the stage begins, in place of a finished network.
        peers: how many more students it trains: networks of the same backbone, with random weights
            of their own where weights are random. They are its argument `peers`.
        copies: how many differently augmented copies of each batch it needs, the student's
            included. wants_plain: whether it needs each batch without augmentation, too.
        needs_classifier: whether the objective has to score labels (`Objective.logits`).
        keeps_order: whether it gives networks whole batches as they are, never picked or in another
            order. Each of several processes then makes its own share of the images alone.
    """

    copies_student: bool = False
    peers: int = 0
    copies: int = 1
    wants_plain: bool = False
    needs_classifier: bool = False
    keeps_order: bool = False

    @property
    def teacher(self) -> Backbone | None:
        """The network that labels the warm-up epochs, or None."""
        return None

    @property
    def labelled_by(self) -> tuple[Backbone, ...]:
        """The networks whose mean features label the other epochs; () for the student."""
        return ()

    @property
    def tested(self) -> tuple[str, Backbone] | None:
        """The network that stands for the method in tests, and how records call it; None for the
        student. It has to be of the stage's backbone, so that it can be loaded as one.
        """
        return None

    def prepare(self, objective: Objective) -> None:
        """Called once, after the objective's own `prepare`, before the optimiser is made: the
        moment for classifiers of one's own.
        """

    def relabel(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        """Called with what the objective's `start_epoch` got, after it."""

    @abstractmethod
    def forward(self, student: Tensor, batch: Batch, objective: Objective) -> Tensor:
        """The extra loss.

        Called in the precision that networks run in; losses that multiply matrices have to leave
        it: `with torch.autocast(student.device.type, enabled=False)`.

        Args:
            student: embeddings (B, V, D) that the student makes of `batch.images`.
            batch: the images. objective: the student's.
        """

    def start_epoch(self, epoch: int) -> None:
        """Called before each epoch's iterations (−1 is a warm-up epoch)."""

    def step(self, student: nn.Module, objective: Objective) -> None:
        """Called after each optimiser step, for teachers that follow the student."""


def check_features(features: Tensor, minimum: int = 1) -> None:
    """Refuse features that would lead to silent wrong labels.

    Raises:
        HarnessError: not (N, V, D), fewer than `minimum` images, not finite, or rows of zero norm.
    """
    from harness.core.errors import HarnessError

    if features.dim() != 3:
        raise HarnessError(f"features must be (N, V, D), not {tuple(features.shape)}")
    if len(features) < minimum:
        raise HarnessError(
            f"{len(features)} images are too few: this labeler looks at {minimum} neighbours",
            "Use more images or a smaller k1.",
        )
    norms = torch.linalg.vector_norm(features, dim=-1)  # one pass finds both faults
    if bad := int((~torch.isfinite(norms)).sum()):
        raise HarnessError(
            f"{bad} of {norms.numel()} feature vectors are not finite, or their norms are not",
            "Training has diverged: lower the learning rate or use precision=fp32.",
        )
    zero = int((norms < 1e-6).sum())
    if zero:
        raise HarnessError(
            f"{zero} of {norms.numel()} feature vectors are zero",
            "The backbone collapsed or its weights do not fit.",
        )
    if bad := int(((norms - 1).abs() > 1e-2).sum()):
        raise HarnessError(
            f"{bad} of {norms.numel()} feature vectors are not L2-normalised",
            "Divide each by its norm, view by view.",
        )


def as_cameras(cameras: Sequence[int] | np.ndarray | None) -> Tensor | None:
    """Camera ids as an int64 tensor, or None."""
    return None if cameras is None else torch.as_tensor(np.asarray(cameras), dtype=torch.int64)

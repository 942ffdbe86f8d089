"""The interfaces of a method's parts, and the values that pass between them.

A method consists of a `Backbone`, a `PseudoLabeler`, an `Objective` and a `Distiller`. It is given
an `UnlabelledSet`: images, and cameras if it declares that it uses them. No type here holds
identities; those that do are in `harness.data.types`, which methods do not import.

Shapes: N images of a set, B of a batch, V views, D features per view. View 0 is the global one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.core.errors import HarnessError
from harness.core.preprocessing import IMAGENET, Preprocessing


@dataclass(frozen=True)
class UnlabelledSet:
    """The training set as methods see it.

    images: (N, H, W, 3) uint8, decoded and resized; on the GPU, in pinned memory, or mapped from
        their file (`data.cache_location`).
    cameras: (N,) int64, or None if the data set has none or the method does not use them.
    """

    images: np.ndarray | Tensor
    cameras: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, kw_only=True)
class LabelledSet(UnlabelledSet):
    """A labeled source to train on: images, cameras, and identities.

    identities: (N,) int64, 0 … C−1 with every number in use.
    """

    identities: Tensor


class Backbone(nn.Module, ABC):
    """Images to embeddings of V `views`, the first of them global, with `dim` = D features each.

    A backbone that does not want ImageNet's `preprocessing` sets its own in the constructor, and
    the class or function that builds it has an attribute `preprocessing`: the same value, or a
    function of the backbone's options that returns it. Images are resized before any network is
    built.
    """

    views: tuple[str, ...]
    dim: int
    preprocessing: Preprocessing = IMAGENET

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Normalized images (B, 3, H, W) to embeddings (B, V, D), which are not L2-normalized."""

    def layers(self) -> list[list[nn.Parameter]]:
        """The pretrained parameters by depth, those nearest to the input first.

        `optimizer.backbone_lr_mult` applies to all of them, `optimizer.layer_decay` by depth. By
        default all parameters are one layer.
        """
        return [list(self.parameters())]


@dataclass(frozen=True)
class PseudoLabels:
    """Labels for all training images.

    labels: (N,) int64 on the CPU, 0 … K−1 with every number in use, -1 for outliers.
    stats: numbers for the record and the progress line. A labeler may define its `clusters` and
        `outliers` differently: SpCL's gives each outlier its own label and counts neither these
        nor single images as clusters.
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

    @property
    def scattered(self) -> float:
        """The share of images that have no label, or a label to themselves."""
        sizes = torch.bincount(self.labels[self.labels >= 0])
        alone = self.outliers + int((sizes == 1).sum())
        return alone / max(1, len(self.labels))


class PseudoLabeler(ABC):
    """Features to labels, before each epoch or at the interval `train.label_every`.

    Equal features and an equal state give equal labels. State that carries over from call to call
    belongs in `state_dict`, so that a killed run resumes with the same labels.
    """

    #: whether `label` uses cameras; if so, the method has to declare `uses_cameras`
    uses_cameras: bool = False
    #: whether it is built with the `identities` (N,) of a `LabelledSet`, on which its stage trains
    reads_identities: bool = False
    #: the fewest images N that it can label with its settings
    min_images: int = 1
    #: the number of calls after which labels are meaningful
    min_calls: int = 1

    @classmethod
    def needs_cameras(cls, options: Mapping[str, Any]) -> bool:
        """Whether a labeler with these options uses cameras."""
        return cls.uses_cameras

    @classmethod
    def uses_parts(cls, options: Mapping[str, Any]) -> bool:
        """Whether a labeler with these options uses other views than the global one."""
        return bool(options.get("part_weight"))

    def max_clusters(self, images: int) -> int | None:
        """The most labels K that N images may get; None if that is unknown."""
        return None

    @abstractmethod
    def label(self, features: Tensor, cameras: Tensor | None = None) -> PseudoLabels:
        """Features (N, V, D) float32, L2-normalized per view, to labels.

        Raises HarnessError if features are not finite, or if there are too few images.
        """

    def describe(self) -> str:
        """The most important settings, for error messages ("eps 0.6, …")."""
        return type(self).__name__

    def hint(self, labels: PseudoLabels) -> str:
        """What to change if these labels have too few clusters, in a sentence."""
        return "Change the settings of the labeler so that it finds more clusters."

    def state_dict(self) -> dict[str, Any]:
        """What the next `label` depends on besides its arguments: tensors and plain numbers."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Restore a `state_dict`."""


class Objective(nn.Module, ABC):
    """Embeddings and labels to a loss. Owns its memory, which each epoch rebuilds or keeps.

    A step is `loss = objective(...)`; `loss.backward()`; `objective.update()`. Memories change in
    `update`, after the gradient was computed with the old ones.
    """

    #: whether it uses cameras; if so, the method has to declare `uses_cameras`
    uses_cameras: bool = False
    #: the fewest views V that it works with
    min_views: int = 1
    #: whether `start_epoch` reads features; if not, it gets none (0, V, D) where labels stay
    reads_features: bool = True
    #: whether it scores labels by a trained classifier, see `logits`
    has_classifier: bool = False
    #: the most labels K that it has room for; None: any number
    max_clusters: int | None = None
    #: share of the stage's iterations done, in [0, 1); the trainer sets it before each step
    progress: float = 0.0
    #: whether batches may begin with images of a labeled source, see `start_source`
    accepts_source: bool = False
    #: C, the identities of the source; the trainer sets it before `prepare`, 0 without a source
    source_classes: int = 0

    @classmethod
    def needs_cameras(cls, options: Mapping[str, Any]) -> bool:
        """Whether an objective with these options uses cameras."""
        return cls.uses_cameras

    @classmethod
    def needs_pooled(cls, options: Mapping[str, Any]) -> bool:
        """Whether an objective with these options needs `pooled` as the backbone's last view."""
        return False

    def prepare(self, views: int, dim: int, images: int) -> None:
        """Create parameters and buffers whose size depends on V, D or N.

        Called once, before the optimizer is made and a checkpoint is loaded.
        """

    def features(self) -> Tensor | None:
        """Features (N, V, D), L2-normalized per view, to label the next epoch from.

        None: extract them. Warm-up epochs always do. Other epochs use these features even if
        `Distiller.labeled_by` names a network.
        """
        return None

    @abstractmethod
    def start_epoch(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        """Set up for the epoch's labels (N,), which may be those of the epoch before.

        Features (N, V, D) float32, L2-normalized per view, are the current network's. Cameras (N,)
        are given if the method uses them.
        """

    def start_source(self, features: Tensor, identities: Tensor) -> None:
        """Called once, before the first epoch, with features (N, V, D) of a labeled source.

        In joint training identities are the labels 0 … C−1, and the target's labels k become C + k.
        """
        raise NotImplementedError(f"{type(self).__name__} does not accept a labeled source")

    @abstractmethod
    def forward(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """Embeddings (B, V, D) of the backbone, labels (B,) and indices (B,) to the loss.

        Images of a labeled source come first; their indices are -1.
        """

    def logits(self, embeddings: Tensor) -> Tensor:
        """Scores of the epoch's K labels by a trained classifier: (B, V, D) → (V, B, K)."""
        raise NotImplementedError(f"{type(self).__name__} has no classifier")

    def metric_view(self, embeddings: Tensor) -> Tensor:
        """The view for losses on distances, a distiller's included: (B, V, D) → (B, D)."""
        return embeddings[:, 0]

    def update(self, frozen: bool = False) -> None:
        """Update the memory with the last batch. `frozen`: do not (warm-up epochs)."""


def embed(network: Backbone, images: Tensor) -> Tensor:
    """Embeddings (B, V, D) that one process computes of a whole batch (B, 3, H, W) at once."""
    return network(images)


@dataclass(frozen=True)
class SourceBatch:
    """Images (B, 3, H, W) of a labeled source, and their identities (B,)."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Batch:
    """A batch of B training images.

    images: (B, 3, H, W), augmented and normalized, for the student.
    labels: (B,) int64 from 0. indices: (B,) int64 into the training set.
    others: further augmentations of the same images, `Distiller.augmentations` − 1 of them.
    plain: the same images without augmentation, if `Distiller.needs_plain`.
    embed: network, images (B, 3, H, W) → embeddings (B, V, D) of the whole batch. Distillers call
        networks through it, so that processes can share the batch and micro-batches split it.
    source: as many images of a labeled source, in joint training.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    others: tuple[Tensor, ...] = ()
    plain: Tensor | None = None
    embed: Callable[[Backbone, Tensor], Tensor] = embed
    source: SourceBatch | None = None


class Distiller(nn.Module, ABC):
    """A teacher, and the loss that it adds.

    Its parameters that need a gradient are trained with the student; checkpoints hold all its
    state.
    """

    #: whether its argument `teacher` is a copy of the stage's untrained network, made when the
    #: stage begins, in place of a finished network
    copies_student: bool = False
    #: the number of extra students that it trains. They are its argument `peers`, have the
    #: student's architecture, and their own random weights where weights are random
    peers: int = 0
    #: the number of augmentations of each batch, the student's included
    augmentations: int = 1
    #: whether it needs each batch without augmentation, too
    needs_plain: bool = False
    #: whether the objective has to score labels (`Objective.logits`)
    needs_classifier: bool = False
    #: whether it calls networks with whole batches in their order; each of several processes then
    #: needs its own share of the images only
    keeps_order: bool = False

    @property
    def teacher(self) -> Backbone | None:
        """The network that labels the warm-up epochs, or None."""
        return None

    @property
    def labeled_by(self) -> tuple[Backbone, ...]:
        """The networks whose mean features label the other epochs; () for the student.

        An objective that keeps features (`Objective.features`) labels the epochs itself.
        """
        return ()

    @property
    def relabeled_by(self) -> Backbone | None:
        """The network whose features `relabel` gets; None: those that the objective gets."""
        return None

    @property
    def tested(self) -> tuple[str, Backbone] | None:
        """The tested network, like the stage's backbone, and its name; None for the student."""
        return None

    def prepare(self, objective: Objective) -> None:
        """Create classifiers. Called once, between `Objective.prepare` and making the optimizer."""

    def relabel(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        """Called after `Objective.start_epoch`, with the same arguments, but see `relabeled_by`."""

    @abstractmethod
    def forward(self, student: Tensor, batch: Batch, objective: Objective) -> Tensor:
        """The extra loss, given the student's embeddings (B, V, D) of `batch.images`.

        Networks are called through `batch.embed`: of several processes, each may have only its
        share of the images. Called under the networks' autocast; losses that multiply matrices
        have to disable it: `with torch.autocast(student.device.type, enabled=False)`.
        """

    def start_epoch(self, epoch: int) -> None:
        """Called before each epoch's iterations (−1 is a warm-up epoch)."""

    def step(self, student: nn.Module, objective: Objective) -> None:
        """Called after each optimizer step, for teachers that follow the student."""


def check_features(features: Tensor, minimum: int = 1) -> None:
    """Refuse features that would silently lead to wrong labels.

    Raises HarnessError unless they are `minimum` or more, (N, V, D), finite and of norm 1.
    """
    if features.dim() != 3:
        raise HarnessError(f"features must be (N, V, D), not {tuple(features.shape)}")
    if len(features) < minimum:
        raise HarnessError(
            f"{len(features)} images are too few: this labeler uses {minimum} neighbors",
            "Use more images or a smaller k1.",
        )
    norms = torch.linalg.vector_norm(features, dim=-1)  # one pass finds all faults
    for wrong, problem, hint in (
        (~torch.isfinite(norms), "are not finite, or their norms are not",
         "Training has diverged: lower the learning rate or use precision=fp32."),
        (norms < 1e-6, "are zero", "The backbone has collapsed, or its weights do not fit."),
        ((norms - 1).abs() > 1e-2, "are not L2-normalized",
         "Divide each by its norm, view by view."),
    ):  # fmt: skip
        if bad := int(wrong.sum()):
            raise HarnessError(f"{bad} of {norms.numel()} feature vectors {problem}", hint)


def as_cameras(cameras: Sequence[int] | np.ndarray | None) -> Tensor | None:
    """Camera ids as an int64 tensor, or None."""
    return None if cameras is None else torch.as_tensor(np.asarray(cameras), dtype=torch.int64)

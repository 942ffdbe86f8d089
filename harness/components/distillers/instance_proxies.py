"""DCMIP: each image against several instances of each cluster, at first a mean teacher's."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from harness.components.distillers.teacher import Alpha, AveragedTeacher, BatchNorm, Ramp
from harness.components.objectives.memory import shuffled_by_label
from harness.components.objectives.options import PartWeight, Temperature
from harness.components.objectives.views import view_cross_entropies, view_logits, weigh_views
from harness.core.interfaces import Backbone, Batch, Objective

#: with as many samples of a label in a batch, or more, its instances are drawn without replacement
ALL_DIFFERENT = 16


class InstanceProxies(AveragedTeacher):
    """L = CE(z, y), z_c = x·v / τ, v the instance of c most similar to x, of y the least similar.

    The instance term of Zou et al., *Discrepant and Multi-Instance Proxies for Unsupervised Person
    Re-identification* (DCMIP), ICCV 2023, for x = norm(embedding of the student). Each cluster has
    m instances. When an epoch starts, they are features that the mean teacher extracts, of images
    of the cluster drawn with replacement. After each step, samples of the student drawn from the
    batch replace all m instances of their label: with replacement, but without if the batch holds
    16 samples of the label or more. (As published, m > 16 stops with an error then; here they are
    drawn with replacement unless there are m.) Several views are weighted as in ClusterMemory.

    The student labels the epochs, and the mean teacher is tested; the published code tests both and
    reports the better one. With batch_norm=train the teacher also embeds each batch, as published:
    nothing reads these embeddings, but they set its running statistics.
    """

    keeps_order = True

    def __init__(
        self,
        teacher: Backbone,
        instances: Annotated[PositiveInt, Field(description="m, instances per cluster")] = 16,
        temperature: Temperature = 0.05,
        part_weight: PartWeight = 0.0,
        alpha: Alpha = 0.999,
        ramp: Ramp = False,
        batch_norm: BatchNorm = "train",
    ) -> None:
        super().__init__(teacher, alpha, ramp, batch_norm)
        self.instances = instances
        self.temperature = temperature
        self.part_weight = part_weight
        #: (V, m, K, D), rows of unit length
        self.proxies = torch.empty(0)
        #: (V,) cross-entropies of the last batch, before weighting
        self.terms = torch.empty(0)
        self._batch: tuple[Tensor, Tensor] | None = None
        self._frozen = False

    @property
    def tested(self) -> tuple[str, Backbone]:
        return "mean teacher", self._teacher

    @property
    def relabeled_by(self) -> Backbone:
        return self._teacher

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        self._frozen = epoch < 0

    def relabel(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        (members,) = torch.nonzero(labels >= 0, as_tuple=True)
        drawn = draw_members(labels[members], int(labels.max()) + 1, self.instances)
        self.start_from(features, members[drawn])

    def start_from(self, features: Tensor, chosen: Tensor) -> None:
        """Set the instances to features (N, V, D), L2-normalized, of images (m, K)."""
        self.proxies = features[chosen].permute(2, 0, 1, 3).contiguous()

    def forward(self, student: Tensor, batch: Batch, objective: Objective) -> Tensor:
        if self.batch_norm == "train":
            with torch.no_grad():
                batch.embed(self._teacher, batch.images)
        with torch.autocast(student.device.type, enabled=False):
            return self.contrast(F.normalize(student, dim=-1), batch.labels)

    def contrast(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of features (B, V, D) of unit length, as they are."""
        scores = view_logits(features, self.proxies.flatten(1, 2)) / self.temperature
        scores = scores.unflatten(-1, self.proxies.shape[1:3])  # (V, B, m, K)
        own = labels[:, None, None].expand(*scores.shape[:-1], 1)
        least = scores.gather(-1, own).amin(dim=2)
        logits = scores.amax(dim=2).scatter(-1, own[:, :, 0], least)
        terms = view_cross_entropies(logits, labels)
        self.terms = terms.detach()
        self._batch = (features.detach(), labels)
        return weigh_views(terms, self.part_weight)

    def step(self, student: nn.Module, objective: Objective | None = None) -> None:
        super().step(student)
        batch, self._batch = self._batch, None
        if batch is not None and not self._frozen:
            features, labels = batch
            count, clusters = self.proxies.shape[1:3]
            drawn = draw_members(labels, clusters, count, ALL_DIFFERENT)
            self.replace(features, labels, drawn[:, labels])

    def replace(self, features: Tensor, labels: Tensor, drawn: Tensor) -> None:
        """Replace the instances of the labels (B,) of a batch by its features (B, V, D).

        Args:
            drawn: (m, B) positions in the batch, the same for all samples of a label.
        """
        self.proxies[:, :, labels] = features[drawn].permute(2, 0, 1, 3)


def draw_members(
    labels: Tensor, clusters: int, count: int, all_different: int | None = None
) -> Tensor:
    """`count` members of each label, drawn at random: (N,) in 0 … K−1 → indices (count, K).

    Drawn with replacement; without it for labels of `all_different` members or more that have as
    many as `count`. Columns of labels without members are arbitrary. The same numbers on the CPU
    and on GPUs, which need not be waited for.
    """
    device = labels.device
    ones = torch.ones_like(labels)
    sizes = torch.zeros(clusters, dtype=labels.dtype, device=device).index_add_(0, labels, ones)
    starts = torch.cumsum(sizes, 0) - sizes
    shuffled = shuffled_by_label(labels)
    places = torch.randint(1 << 31, (count, clusters)).to(device) % sizes.clamp(min=1)
    if all_different is not None:
        ordered = torch.arange(count, device=device)[:, None]
        places = torch.where(sizes >= max(all_different, count), ordered, places)
    return shuffled[(starts + places).clamp(max=len(labels) - 1)]

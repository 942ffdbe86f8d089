"""The identities of a labeled source, in place of pseudo-labels."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.core.interfaces import PseudoLabeler, PseudoLabels


class Identities(PseudoLabeler):
    """Labels are the identities of the labeled set that the stage trains on, `source=DATASET`.

    A stage with this labeler sees no image of the unlabeled target. Set `train.label_every` to the
    number of epochs: the labels never change.
    """

    reads_identities = True

    def __init__(self, identities: Tensor | None = None) -> None:
        self.identities = torch.empty(0, dtype=torch.int64) if identities is None else identities

    def label(self, features: Tensor, cameras: Tensor | None = None) -> PseudoLabels:
        """The identities (N,), whatever the features."""
        labels = self.identities.cpu()
        return PseudoLabels(labels, {"clusters": len(labels.unique()), "outliers": 0})

    def describe(self) -> str:
        return "identities of the source"

    def hint(self, labels: PseudoLabels) -> str:
        return "Use a source with more identities."

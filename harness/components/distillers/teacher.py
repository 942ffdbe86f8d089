"""What teachers share: a network without gradient, in a mode of its own."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from harness.core.errors import ConfigError
from harness.core.interfaces import Backbone, Distiller

Self = TypeVar("Self", bound="Teacher")


def exact(embeddings: Tensor) -> Tensor:
    """Embeddings in fp32, whatever precision the network ran in; fp64 stays."""
    return embeddings if embeddings.dtype == torch.float64 else embeddings.float()


class Teacher(Distiller):
    """A network that teaches without learning by gradient, in a mode of its own.

    Args:
        teacher: the network; it also labels the warm-up epochs.
        batch_norm: `train` normalises the teacher's features by the batch's own statistics; `eval`
            takes the running ones.
    """

    def __init__(self, teacher: Backbone, batch_norm: str = "train") -> None:
        super().__init__()
        if batch_norm not in ("train", "eval"):
            raise ConfigError(f"distiller.batch_norm='{batch_norm}' is unknown: train or eval.")
        self._teacher = teacher.requires_grad_(False).eval()
        self.batch_norm = batch_norm

    @property
    def teacher(self) -> Backbone:
        return self._teacher

    def start_epoch(self, epoch: int) -> None:
        self._teacher.train(self.batch_norm == "train")

    def train(self: Self, mode: bool = True) -> Self:
        """The teacher's mode is its own (`batch_norm`), not the student's."""
        self.training = mode
        return self

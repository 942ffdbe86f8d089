"""Base classes of distillers with a teacher: a frozen network, or the average of its student."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from harness.core.interfaces import Backbone, Distiller, Objective

Self = TypeVar("Self", bound="Teacher")

BatchNorm = Annotated[
    Literal["train", "eval"],
    Field(
        description="the teacher's statistics: the batch's (train, as published) or running ones"
    ),
]
Alpha = Annotated[
    float, Field(ge=0, le=1, description="α, the share of the old average that a step keeps")
]
Ramp = Annotated[
    bool, Field(description="start from the student and raise the share to α, as MMT does")
]


def exact(embeddings: Tensor) -> Tensor:
    """Embeddings in fp32, whatever precision the network ran in; fp64 stays."""
    return embeddings if embeddings.dtype == torch.float64 else embeddings.float()


def set_mode(teacher: Backbone, batch_norm: BatchNorm) -> None:
    """Let a teacher normalize with the statistics of the batch (`train`) or with its own (`eval`).

    Dropout and stochastic depth stay off: what the student learns from is not noisy.
    """
    teacher.train(batch_norm == "train")
    for module in teacher.modules():
        if isinstance(module, nn.Dropout) or hasattr(module, "drop_prob"):
            module.eval()


class Teacher(Distiller):
    """A network that teaches without being trained by gradient; it also labels warm-up epochs."""

    def __init__(self, teacher: Backbone, batch_norm: BatchNorm = "train") -> None:
        super().__init__()
        self._teacher = teacher.requires_grad_(False).eval()
        self.batch_norm = batch_norm

    @property
    def teacher(self) -> Backbone:
        return self._teacher

    def start_epoch(self, epoch: int) -> None:
        set_mode(self._teacher, self.batch_norm)

    def train(self: Self, mode: bool = True) -> Self:
        """Leave the teacher's mode, which `batch_norm` sets, as it is."""
        self.training = mode
        return self


class AveragedTeacher(Teacher):
    """A network that follows its student, θ′ ← a θ′ + (1 − a) θ after every optimizer step.

    Tarvainen and Valpola, *Mean teachers are better role models*, NeurIPS 2017; so updated in MMT
    (Ge et al., ICLR 2020: a = min(1 − 1/(g+1), α) in step g = 0, 1, …, so the first step copies)
    and ICE (Chen et al., ICCV 2021: a = α). Only parameters are averaged. With batch_norm=train the
    running statistics follow the teacher's own features; with eval each step copies the student's.
    """

    copies_student = True

    def __init__(
        self, teacher: Backbone, alpha: Alpha = 0.999, ramp: Ramp = True,
        batch_norm: BatchNorm = "train",
    ) -> None:  # fmt: skip
        super().__init__(teacher, batch_norm)
        self.alpha = alpha
        self.ramp = ramp
        #: g, the number of steps so far
        self.steps = 0

    @property
    def momentum(self) -> float:
        """a of the next step."""
        return min(1.0 - 1.0 / (self.steps + 1), self.alpha) if self.ramp else self.alpha

    def step(self, student: nn.Module, objective: Objective | None = None) -> None:
        self.follow(self._teacher, student)
        self.steps += 1

    @torch.no_grad()
    def follow(self, teacher: nn.Module, student: nn.Module) -> None:
        """One update of one average."""
        average = get_ema_multi_avg_fn(self.momentum)
        average(list(teacher.parameters()), list(student.parameters()), None)
        if self.batch_norm == "eval":
            for own, new in zip(teacher.buffers(), student.buffers(), strict=True):
                own.copy_(new)

    def get_extra_state(self) -> dict[str, Any]:
        """g, for checkpoints; a buffer on a GPU would force a synchronization every step."""
        return {"steps": self.steps}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.steps = int(state["steps"])

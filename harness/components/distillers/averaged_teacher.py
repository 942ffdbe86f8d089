"""Teachers that are the moving average of their students, as MMT and ICE have them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from harness.components.distillers.teacher import Teacher
from harness.core.errors import ConfigError
from harness.core.interfaces import Backbone, Objective


class AveragedTeacher(Teacher):
    """A network that follows its student, θ′ ← a θ′ + (1 − a) θ after every optimiser step.

    Tarvainen and Valpola, *Mean teachers are better role models*, NeurIPS 2017; so updated in MMT
    (Ge et al., ICLR 2020: a = min(1 − 1/(g+1), α) in step g = 0, 1, …, so the first step copies)
    and ICE (Chen et al., ICCV 2021: a = α). The parameters alone are averaged.

    Args:
        teacher: a copy of the student as it begins, made by the run. It labels warm-up epochs.
        alpha: α, the share of the old average that is kept.
        ramp: begin with the student itself and let a rise to α, as MMT does.
        batch_norm: `train`, as published: the teacher's features are normalised by the batch's own
            statistics, and its running ones follow its own features. `eval`: by running statistics,
            which are then the student's, copied in every step.
    """

    copies_student = True

    def __init__(
        self, teacher: Backbone, alpha: float = 0.999, ramp: bool = True, batch_norm: str = "train"
    ) -> None:
        super().__init__(teacher, batch_norm)
        if not 0 <= alpha <= 1:
            raise ConfigError(f"distiller.alpha={alpha} must lie in [0, 1].")
        self.alpha = alpha
        self.ramp = ramp
        #: g, how often the teacher has followed
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
        """g, for checkpoints: as a buffer on a GPU every step would wait for it."""
        return {"steps": self.steps}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's g."""
        self.steps = int(state["steps"])

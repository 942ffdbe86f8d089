"""TensorBoard: event files in the run's folder; `tensorboard --logdir results/runs` shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from harness.results.tracking import Row, final, scalars


class TensorBoard:
    """Writes to TensorBoard. What an event file holds of epochs that a killed run did not keep is
    struck out (`purge_step`) by the file that goes on.
    """

    def __init__(self, folder: Path, history: Sequence[Row]) -> None:
        begun = any(folder.glob("events.out.tfevents.*"))
        self.writer = SummaryWriter(str(folder), purge_step=len(history) if begun else None)
        self.steps = len(history)
        if not begun:  # what came before logging was asked for
            for step, row in enumerate(history):
                self.log(row, step)

    def log(self, row: Row, step: int) -> None:
        for tag, value in scalars(row).items():
            self.writer.add_scalar(tag, value, step)
        self.writer.flush()
        self.steps = step + 1

    def close(self, metrics: Mapping[str, float] | None) -> None:
        for tag, value in final(metrics or {}).items():
            self.writer.add_scalar(tag, value, self.steps)
        self.writer.close()


def make(folder: Path, name: str, config: Mapping[str, Any], history: Sequence[Row]) -> TensorBoard:
    """The writer of a run's folder."""
    return TensorBoard(folder, history)

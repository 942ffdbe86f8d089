"""TensorBoard: event files in the run's folder, for `tensorboard --logdir results/runs`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from harness.results.tracking import Row, Tracker, final, scalars


class Client(Tracker):
    """Logs to TensorBoard.

    After a kill, `purge_step` discards logged epochs that are not in the history.
    """

    def __init__(
        self, folder: Path, name: str, config: Mapping[str, Any], history: Sequence[Row]
    ) -> None:
        begun = any(folder.glob("events.out.tfevents.*"))
        self.writer = SummaryWriter(str(folder), purge_step=len(history) if begun else None)
        self.steps = len(history)
        if not begun:  # epochs before logging was enabled
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

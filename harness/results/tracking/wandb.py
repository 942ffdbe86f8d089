"""Weights & Biases. `WANDB_PROJECT`, `WANDB_MODE=offline` and its other variables apply."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from harness.results.tracking import Row, Tracker, final, read_note, scalars, update_note


class Client(Tracker):
    """Logs to Weights & Biases.

    A resumed run keeps its id and does not send its steps again: the service rejects duplicates.
    """

    def __init__(
        self, folder: Path, name: str, config: Mapping[str, Any], history: Sequence[Row]
    ) -> None:
        self.folder, known = folder, read_note(folder)
        slug = re.sub(r"[^\w.-]+", "-", name)[:100]
        self.id = known.get("wandb") or f"{slug}-{uuid.uuid4().hex[:8]}"
        self.sent = int(known.get("sent", -1))
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "usl-reid-harness"), dir=str(folder),
            id=self.id, name=name, config=dict(config), resume="allow", save_code=False,
            settings=wandb.Settings(console="off", silent=True),
        )  # fmt: skip
        update_note(folder, wandb=self.id, sent=self.sent)
        for step, row in enumerate(history):
            self.log(row, step)

    def log(self, row: Row, step: int) -> None:
        if step > self.sent:
            self.run.log(scalars(row), step=step)
            self.sent = step
            update_note(self.folder, sent=step)

    def close(self, metrics: Mapping[str, float] | None) -> None:
        for key, value in final(metrics or {}).items():
            self.run.summary[key] = value
        self.run.finish(exit_code=0 if metrics is not None else 1)

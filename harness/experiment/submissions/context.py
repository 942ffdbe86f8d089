"""What checks look at: a run of a submission as it was read, and what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from harness.core.arrays import read_queries
from harness.experiment.plan import Plan
from harness.experiment.rerun import completed
from harness.experiment.submissions.installed import Installed, installed
from harness.experiment.submissions.layout import QUERIES, Submitted


@dataclass(frozen=True)
class ReadRun:
    """A run whose files are whole, bounded, and of the right schema. Its values may still lie.

    entry: its entry in submission.json. queries: (Q,) arrays.
    """

    folder: Path
    entry: Submitted
    record: Mapping[str, Any]
    config: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def queries(self) -> dict[str, np.ndarray]:
        return read_queries(self.folder / QUERIES)

    @cached_property
    def composed(self) -> DictConfig:
        """Its configuration as the harness runs it; only after `configuration` was checked."""
        made = OmegaConf.create(completed(self.config, "data"))
        assert isinstance(made, DictConfig)
        return made

    @property
    def trained(self) -> bool:
        """Whether any stage trained a network."""
        return any(stage.get("epoch") is not None for stage in self.record["stages"].values())


@dataclass
class Context:
    """runs: all that could be read. leaderboard: the store of known results, if there is one.

    data_root: where images are, if the submission is to be compared with them. passed: names of
    checks that each run has passed so far.
    """

    leaderboard: Path | None
    data_root: Path | None = None
    runs: list[ReadRun] = field(default_factory=list)
    plans: dict[tuple[str, ...], Plan] = field(default_factory=dict)
    outcomes: dict[tuple[str, str], str] = field(default_factory=dict)

    @cached_property
    def known(self) -> Installed:
        return installed()

    def passed(self, run: ReadRun, check: str) -> bool:
        return self.outcomes.get((run.name, check)) == "ok"

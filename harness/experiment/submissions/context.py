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
from harness.core.paths import CHECKOUT
from harness.experiment.plan import Plan
from harness.experiment.rerun import completed
from harness.experiment.submissions.installed import Installed, installed
from harness.experiment.submissions.layout import QUERIES, Submitted

LEADERBOARD = CHECKOUT / "results" / "leaderboard"


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
class Reference:
    """What submissions are compared with; one for all of a command, since composing takes time.

    leaderboard: a store of known results, if there is one. data_root: where images are, if they are
    to be compared. plans: what protocols compose, once composed.
    """

    leaderboard: Path | None = LEADERBOARD
    data_root: Path | None = None
    plans: dict[tuple[str, ...], Plan] = field(default_factory=dict)

    @cached_property
    def known(self) -> Installed:
        return installed()


@dataclass
class Context:
    """runs: all of the submission that could be read. outcomes: of checks made so far, by run and
    check.
    """

    reference: Reference
    runs: list[ReadRun] = field(default_factory=list)
    outcomes: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def known(self) -> Installed:
        return self.reference.known

    @property
    def data_root(self) -> Path | None:
        return self.reference.data_root

    def passed(self, run: ReadRun, check: str) -> bool:
        return self.outcomes.get((run.name, check)) == "ok"

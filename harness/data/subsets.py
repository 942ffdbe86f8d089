"""Fixed subsets of data sets for quick runs, identical on all machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from harness.core.errors import ConfigError, DataError, did_you_mean
from harness.core.seeds import derive
from harness.data.types import DISTRACTOR, JUNK, Split


@dataclass(frozen=True)
class SubsetRule:
    """Some identities of a data set, with all their images.

    Identities are ranked by a hash of (seed, part, identity) and the first ones are chosen, so that
    a larger subset contains every smaller one of the same seed. Junk and distractors are dropped
    unless `distractors` is set, which keeps all of them.
    """

    train_identities: int
    test_identities: int
    seed: int = 0
    distractors: bool = False

    @classmethod
    def parse(cls, options: Mapping[str, int | bool]) -> SubsetRule:
        """Build a rule from `dataset.subset`.

        Raises ConfigError: options are unknown, missing or out of range.
        """
        known = [field.name for field in fields(cls)]
        for key in options:
            if key not in known:
                hint = did_you_mean(str(key), known)
                raise ConfigError(f"dataset.subset has no option '{key}'", hint)
        values: dict[str, Any] = {"train_identities": 0, "test_identities": 0, **options}
        rule = cls(**values)
        if min(rule.train_identities, rule.test_identities) < 1:
            hint = "Give train_identities and test_identities, both at least 1."
            raise ConfigError(f"dataset.subset={dict(options)} leaves no identities", hint)
        return rule

    def choose(self, identities: np.ndarray, part: str, count: int) -> np.ndarray:
        """Choose `count` identities, without junk and distractors.

        Raises DataError: there are fewer.
        """
        known = [int(i) for i in np.unique(identities) if i not in (JUNK, DISTRACTOR)]
        if count > len(known):
            problem = f"dataset.subset needs {count} {part} identities; there are {len(known)}"
            hint = f"Use dataset.subset.{part}_identities={len(known)} or fewer."
            raise DataError(problem, hint)
        ranked = sorted(known, key=lambda identity: derive(self.seed, "subset", part, identity))
        return np.array(ranked[:count], dtype=np.int64)

    def apply(self, train: Split, query: Split, gallery: Split) -> tuple[Split, Split, Split]:
        """The subset of each split."""
        trained = self.choose(train.identities, "train", self.train_identities)
        tested = self.choose(query.identities, "test", self.test_identities)
        in_gallery = [*tested, JUNK, DISTRACTOR] if self.distractors else tested

        def kept(split: Split, identities: Sequence[int] | np.ndarray) -> Split:
            return split.subset(np.flatnonzero(np.isin(split.identities, identities)))

        return kept(train, trained), kept(query, tested), kept(gallery, in_gallery)

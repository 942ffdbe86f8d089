"""People held out from a training set, to be found again: validation without the test set.

This uses identities of the training set, for the choice of hyper-parameters and nothing else: no
method sees them, and the people held out are not trained on. The test part is dropped before
anything of it is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from harness.core.errors import ConfigError, DataError
from harness.core.seeds import derive
from harness.data.image_source import ImageSource
from harness.data.types import Dataset, ReIDData, Split
from harness.experiment.stages import build


class Nothing(ImageSource):
    """No images."""

    def __len__(self) -> int:
        return 0

    def name(self, index: int) -> str:
        raise IndexError(index)

    def read(self, index: int) -> Any:
        raise IndexError(index)

    def fingerprint(self) -> str:
        return "nothing"


class HeldOut(Dataset):
    """The training part of another data set alone; some of its people as query and gallery.

    Args:
        of: the other data set's options (`_target_`, …), without its root.
        called: its name. root: where it lies, if it lies anywhere.
        share: of the people are held out, by a hash of (seed, person), so that a smaller share is
            contained in a larger one. 0: nobody, and no test part is left.
        seed: of the split.

    Raises:
        ConfigError: a share that is none.
    """

    def __init__(
        self,
        *,
        of: Mapping[str, Any],
        called: str,
        share: float,
        seed: int,
        root: str | None = None,
    ) -> None:
        if not 0 <= share < 1:
            raise ConfigError(f"search.held_out={share} must be at least 0 and below 1.")
        self.of = dict(of) | ({} if root is None else {"root": root})
        self.name, self.share, self.seed = called, float(share), int(seed)

    def load(self) -> ReIDData:
        """Split the training part by people.

        Raises:
            DataError: the other data set is missing, knows no identities, or has too few people.
        """
        whole: ReIDData = build(OmegaConf.create(self.of), f"dataset {self.name}").load()
        train = whole.train
        nobody = Split(Nothing(), np.empty(0, dtype=np.int64))
        if not self.share:
            return ReIDData(f"{self.name}_training", train, nobody, nobody, whole.notes)
        people = np.unique(train.identities[train.identities > 0])
        count = round(self.share * len(people))
        if count < 2 or len(people) - count < 2:
            raise DataError(
                f"{len(people)} people of known identity in the training set of {self.name}: "
                f"search.held_out={self.share:g} leaves too few on one side.",
                "Set another share, or search.criterion=label_free, which needs no identities.",
            )
        ranked = sorted(people, key=lambda who: derive(self.seed, "held out", int(who)))
        held = np.isin(train.identities, ranked[:count])
        asked = self._queries(train, np.flatnonzero(held))
        rest = np.setdiff1d(np.flatnonzero(held), asked)
        notes = {"held_out_identities": count, "held_out_seed": self.seed}
        return ReIDData(
            f"{self.name}_held_out",
            train.subset(np.flatnonzero(~held)),
            train.subset(asked),
            train.subset(rest),
            dict(whole.notes) | notes,
        )

    def _queries(self, train: Split, held: np.ndarray) -> np.ndarray:
        """One image of each person and camera, as the test sets of the field have it; without
        cameras one of each person. Never the last image of either: somebody has to be found.
        """
        chosen = []
        cameras = np.zeros(len(train.identities)) if train.cameras is None else train.cameras
        for who in np.unique(train.identities[held]):
            images = held[train.identities[held] == who]
            for camera in np.unique(cameras[images]):
                there = images[cameras[images] == camera]
                if len(there) > 1:
                    draw = derive(self.seed, "query", int(who), int(camera))
                    chosen.append(int(there[draw % len(there)]))
        return np.array(sorted(chosen), dtype=np.int64)


def hold_out(config: DictConfig, share: float, seed: int) -> DictConfig:
    """A configuration whose data set is the training part of its data set, see `HeldOut`."""
    node = OmegaConf.to_container(config.dataset, resolve=True)
    assert isinstance(node, dict)
    root, name = node.pop("root", None), node.pop("name")
    config = config.copy()
    OmegaConf.set_struct(config, False)
    config.dataset = {
        "_target_": "harness.experiment.search.held_out.HeldOut",
        "_recursive_": False,  # `of` is built by us, once its root is known
        "name": name,
        "called": name,
        "on_bad_image": node.pop("on_bad_image", "error"),
        "share": share,
        "seed": seed,
        "of": node,
    } | ({} if root is None else {"root": root})
    return config

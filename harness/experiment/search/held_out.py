"""Validation without the test set: identities held out of the training set.

Identities of the training set only choose hyper-parameters: no method sees them. The test part is
dropped before anything of it is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from harness.core.errors import ConfigError, DataError
from harness.core.files import expanded
from harness.core.seeds import derive
from harness.data.types import Dataset, ReIDData, Split
from harness.experiment.joint_datasets import plugin_names, sections
from harness.experiment.plan import Plan
from harness.experiment.stages import build
from harness.results.store import Run


@dataclass(kw_only=True)
class HeldOut(Dataset):
    """The training part of another data set, some of its identities as query and gallery.

    Attributes:
        called: name of the other data set. root: its folder, if it has one; of joint data sets, the
            folder of each by its name. of: its other options.
        share: of the identities are held out, by a hash of (seed, identity), so that a smaller
            share is contained in a larger one. 0: none, and there is no test part.
    """

    of: Mapping[str, Any]
    called: str
    share: float
    seed: int
    root: str | Mapping[str, str] | None = None

    def load(self) -> ReIDData:
        """Split the training part by identity.

        Raises:
            DataError: the other data set is missing, knows no identities, or has too few.
        """
        whole: ReIDData = build(self._options(), f"dataset {self.called}").load()
        train = whole.train
        if not self.share:
            empty = train.subset(np.empty(0, dtype=np.int64))
            return ReIDData(f"{self.called}_training", train, empty, empty, whole.notes)
        known = np.unique(train.identities[train.identities > 0])
        count = round(self.share * len(known))
        if count < 2 or len(known) - count < 2:
            raise DataError(
                f"search.held_out={self.share:g} leaves too few of the {len(known)} known training "
                f"identities of {self.called} on one side.",
                "Set another share, or search.criterion=label_free, which needs no identities.",
            )
        ranked = sorted(known, key=lambda identity: derive(self.seed, "held out", int(identity)))
        is_held_out = np.isin(train.identities, ranked[:count])
        held_out = np.flatnonzero(is_held_out)
        queries = self._queries(train, held_out)
        kept, gallery = np.flatnonzero(~is_held_out), np.setdiff1d(held_out, queries)
        splits = (train.subset(kept), train.subset(queries), train.subset(gallery))
        notes = dict(whole.notes) | {"held_out_identities": count, "held_out_seed": self.seed}
        return ReIDData(f"{self.called}_held_out", *splits, notes)

    def _options(self) -> DictConfig:
        """The section of the other data set, with its folders."""
        options = OmegaConf.create(dict(self.of))
        if isinstance(self.root, Mapping):
            for name, root in self.root.items():
                options.sets[name].root = root
        elif self.root is not None:
            options.root = self.root
        return options

    def _queries(self, train: Split, held_out: np.ndarray) -> np.ndarray:
        """One image of each identity and camera (or identity), unless it is the only one."""
        chosen = []
        cameras = np.zeros(len(train.identities)) if train.cameras is None else train.cameras
        for identity in np.unique(train.identities[held_out]):
            images = held_out[train.identities[held_out] == identity]
            for camera in np.unique(cameras[images]):
                seen = images[cameras[images] == camera]
                if len(seen) > 1:
                    draw = derive(self.seed, "query", int(identity), int(camera))
                    chosen.append(int(seen[draw % len(seen)]))
        return np.array(sorted(chosen), dtype=np.int64)


def check_unseen(plan: Plan) -> None:
    """Refuse networks and sources that know the held-out identities: trained on the same data set,
    or the data set itself.

    Raises:
        ConfigError: with the option that names one.
    """
    config: Any = OmegaConf.to_container(plan.config, resolve=True)
    own = _persons(config["dataset"])
    hint = "Choose another one, or search.criterion=label_free, which holds no identities out."
    follows = OmegaConf.is_interpolation(plan.config, "source")  # source=target: what is kept
    if not follows and own & _persons(config.get("source")):
        raise ConfigError(
            f"source={config['source']['name']} has the identities that the search holds out.", hint
        )
    for option, run in _runs(plan):
        record, made = run.record, run.complete_config()
        before = re.split(r" → |\+", str((record.get("init") or {}).get("trained_on")))
        seen = {data for data in own if data[0] in before}
        if any(result.get("epoch") is not None for result in record["stages"].values()):
            seen |= own & (_persons(made["dataset"]) | _persons(made.get("source")))
        if seen:
            raise ConfigError(
                f"{option}={run.name} was trained on {min(seen)[0]}, so it knows images of the "
                "identities that the search holds out.",
                hint,
            )


def _persons(dataset: Mapping[str, Any] | None) -> set[tuple[str, str]]:
    """Of each data set in a section its name and, if its persons are rendered, their seed."""
    if dataset is None:
        return set()
    parts = zip(plugin_names(dataset), sections(dataset), strict=True)
    return {(name, str(part.get("seed"))) for name, part in parts}


def _runs(plan: Plan) -> Iterator[tuple[str, Run]]:
    """The finished runs that a plan begins or learns from, each after the option that names it."""
    if plan.init is not None:
        yield "init", plan.init.run
    for network in plan.teachers.values():
        yield "distiller.teacher", network.run
    for key in ("backbone.weights", *(f"stages.{s}.backbone.weights" for s in plan.config.stages)):
        path = expanded(str(OmegaConf.select(plan.config, key)))
        run = Run(path if path.is_dir() else path.parent)
        if path.exists() and run.finished:
            yield key, run


def hold_out(config: DictConfig, share: float, seed: int) -> DictConfig:
    """The configuration with the training part of its data set as its data set, see `HeldOut`."""
    other: Any = OmegaConf.to_container(config.dataset, resolve=True)
    moved = {key: other.pop(key) for key in ("name", "root", "on_bad_image") if key in other}
    if roots := {k: own.pop("root") for k, own in other.get("sets", {}).items() if "root" in own}:
        moved["root"] = roots  # not a part of the settings, as that of a single data set
    config = config.copy()
    OmegaConf.set_struct(config, False)
    config.dataset = {
        "_target_": "harness.experiment.search.held_out.HeldOut",
        "_recursive_": False,  # HeldOut builds `of` once its root is known
        "on_bad_image": "error",
        **moved,
        "called": moved["name"],
        "share": share,
        "seed": seed,
        "of": other,
    }
    return config

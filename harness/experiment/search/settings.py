"""What `search.…` says, checked."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from harness.core.errors import ConfigError, did_you_mean
from harness.evaluation.label_free import CRITERIA as LABEL_FREE

CRITERIA = ("last_val", "label_free", "oracle")
Direction = Literal["maximize", "minimize"]
AGAINST: dict[str, Direction] = {"images_per_second": "maximize", "hours": "minimize"}
SAMPLERS = ("tpe", "cmaes", "gp", "random", "grid")
PRUNERS = ("none", "median", "hyperband", "halving")
#: key → the least whole number
WHOLE = {"trials": 1, "seeds": 1, "failures": 1, "every": 1, "heartbeat": 1, "retries": 0,
         "reproduce": 0, "seed": 0, "split_seed": 0}  # fmt: skip
TRUTHS = ("warm_start", "plots", "keep_networks")


@dataclass(frozen=True)
class Settings:
    """See harness/conf/search.yaml."""

    name: str
    folder: Path
    criterion: str
    held_out: float
    label_free: str
    split_seed: int
    against: str | None
    every: int
    seeds: int
    trials: int
    hours: float | None
    failures: int
    sampler: str
    pruner: str
    seed: int
    warm_start: bool
    storage: str
    heartbeat: int
    retries: int
    reproduce: int
    plots: bool
    keep_networks: bool

    @property
    def place(self) -> Path:
        """The study's folder."""
        return self.folder / self.name

    @property
    def optimised(self) -> str:
        """What is optimised, in words that stand in records and tables."""
        words = {
            "last_val": f"mAP on {self.held_out:.0%} of the training people, held out, after the "
            "last epoch",
            "label_free": f"{self.label_free} of the training features, without labels, after the "
            "last epoch",
            "oracle": "test mAP (oracle)",
        }[self.criterion]
        words += f", mean of {self.seeds} seeds" if self.seeds > 1 else ""
        return words if self.against is None else f"{words}, and {self.against}"

    @property
    def column(self) -> str:
        """The criterion's key in a row of a history."""
        return f"label_free_{self.label_free}" if self.criterion == "label_free" else "mAP"

    @property
    def directions(self) -> list[Direction]:
        """Of each objective, as Optuna has them."""
        return ["maximize", *([] if self.against is None else [AGAINST[self.against]])]


def read_settings(config: DictConfig) -> Settings:
    """From a configuration composed by `harness search`.

    Raises:
        ConfigError: an option that does not exist, or a value out of range.
    """
    node = OmegaConf.to_container(config.search, resolve=True)
    assert isinstance(node, dict)
    given: dict[str, Any] = {str(key): value for key, value in node.items()}
    given.pop("space")
    known = [f.name for f in fields(Settings)]
    for key in given:
        if key not in known:
            raise ConfigError(
                f"There is no option 'search.{key}'.", did_you_mean(key, [*known, "space"])
            )
    _check(given)
    if given["pruner"] == "auto":
        given["pruner"] = "none" if given["against"] else "median"
    elif given["against"] and given["pruner"] != "none":
        raise ConfigError(
            f"search.pruner={given['pruner']} and search.against={given['against']} exclude each "
            "other: with two objectives no trial can be told to be hopeless.",
            "Leave search.pruner out.",
        )
    if given["against"] and given["sampler"] == "cmaes":
        raise ConfigError("search.sampler=cmaes has one objective.", "Use tpe, gp or random.")
    name = given["name"] or _name(config, given)
    if not re.fullmatch(r"\w[\w.+-]*", str(name)):
        raise ConfigError(
            f"search.name={name} is no name of a folder.",
            "Use letters, digits, '.', '_', '+' and '-'.",
        )
    given["name"] = str(name)
    given["folder"] = Path(str(given["folder"])).expanduser()
    given["hours"] = None if given["hours"] is None else float(given["hours"])
    return Settings(**given)


def _name(config: DictConfig, given: dict[str, Any]) -> str:
    return f"{config.method.name}-{config.dataset.name}-{given['criterion']}"


def _check(given: dict[str, Any]) -> None:
    options: dict[str, tuple[Any, ...]] = {
        "criterion": CRITERIA, "label_free": LABEL_FREE, "sampler": SAMPLERS,
        "pruner": ("auto", *PRUNERS), "against": (None, *AGAINST),
    }  # fmt: skip
    for key, known in options.items():
        if given[key] not in known:
            raise ConfigError(
                f"search.{key}={given[key]} is unknown.",
                did_you_mean(str(given[key]), [k for k in known if k]),
            )
    for key, least in WHOLE.items():
        value = given[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(f"search.{key}={value} must be a whole number, {least} or more.")
    for key in TRUTHS:
        if not isinstance(given[key], bool):
            raise ConfigError(f"search.{key}={given[key]} must be true or false.")
    hours, share = given["hours"], given["held_out"]
    if hours is not None and not (_number(hours) and hours > 0):
        raise ConfigError(f"search.hours={hours} must be a number above 0, or null.")
    if not (_number(share) and 0 < share < 1):
        raise ConfigError(f"search.held_out={share} must be above 0 and below 1.")
    storage = given["storage"]
    if storage not in ("sqlite", "journal") and "://" not in str(storage):
        raise ConfigError(
            f"search.storage={storage} is unknown.", "sqlite, journal, or a URL: postgresql://…"
        )


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

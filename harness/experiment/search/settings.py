"""The options `search.*`: their kinds, ranges and meanings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, Field

from harness.core.errors import ConfigError
from harness.core.files import expanded
from harness.core.options import check_options

Direction = Literal["maximize", "minimize"]


class Settings(BaseModel):
    """The options of a search; docs/search.md explains them, conf/search.yaml has the defaults."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="of the study and its folder")
    folder: Path = Field(description="folder of all searches")
    criterion: Literal["last_val", "label_free", "oracle"] = Field(description="what is optimized")
    held_out: float = Field(gt=0, lt=1, description="last_val: share of the training identities")
    label_free: Literal["cross_camera", "neighbours", "stability", "silhouette"] = Field(
        description="label_free: which criterion without labels"
    )
    split_seed: int = Field(ge=0, description="of the held-out split")
    against: Literal["images_per_second", "hours"] | None = Field(
        description="a second objective, for a Pareto front"
    )
    every: int = Field(ge=1, description="epochs between two evaluations of the criterion")
    seeds: int = Field(ge=1, description="runs per trial, each with another seed")
    trials: int = Field(ge=1, description="trials of all workers together")
    hours: float | None = Field(gt=0, description="device-hours of all workers together, or null")
    failures: int = Field(ge=1, description="failures in a row after which the search stops")
    sampler: Literal["tpe", "cmaes", "gp", "random", "grid"] = Field(description="Optuna's sampler")
    pruner: Literal["none", "median", "hyperband", "halving"] = Field(description="Optuna's pruner")
    seed: int = Field(ge=0, description="of the sampler")
    warm_start: bool = Field(description="whether the first trial is the method's defaults")
    storage: str = Field(description="sqlite, journal, or a URL: postgresql://USER@HOST/DB")
    heartbeat: int = Field(ge=1, description="seconds between two signs of life of a worker")
    retries: int = Field(ge=0, description="how often a trial is resumed after its worker died")
    reproduce: int = Field(ge=0, description="fresh seeds for the best settings and the defaults")
    plots: bool = Field(description="whether the study's page has plots")
    keep_networks: bool = Field(description="whether trials keep their weights")

    @property
    def place(self) -> Path:
        """The study's folder."""
        return self.folder / self.name

    @property
    def optimized(self) -> str:
        """The objectives in words, as records, protocol cards and tables show them."""
        # not rounded: a study is told from another by these words
        share = f"{100 * self.held_out:.10g}%"
        held_out = f"mAP on {share} of the training people, held out"
        label_free = f"{self.label_free} of the training features, without labels"
        words = {
            "last_val": f"{held_out}, after the last epoch",
            "label_free": f"{label_free}, after the last epoch",
            "oracle": "test mAP (oracle)",
        }[self.criterion]
        words += f", mean of {self.seeds} seeds" if self.seeds > 1 else ""
        return words if self.against is None else f"{words}, and {self.against}"

    @property
    def column(self) -> str:
        """The criterion's key in a run's history."""
        return f"label_free_{self.label_free}" if self.criterion == "label_free" else "mAP"

    @property
    def directions(self) -> list[Direction]:
        """Direction of each objective, for Optuna."""
        second: dict[str | None, list[Direction]] = {
            None: [], "images_per_second": ["maximize"], "hours": ["minimize"]
        }  # fmt: skip
        return ["maximize", *second[self.against]]

    def out_of_time(self, seconds: float) -> bool:
        """Whether this device time uses up `search.hours`."""
        return self.hours is not None and seconds >= self.hours * 3600


def read_settings(config: DictConfig) -> Settings:
    """Read and check `search.*` of a configuration composed by `harness search`.

    Raises:
        ConfigError: an unknown option, a value out of range, or options that exclude each other.
    """
    given: Any = OmegaConf.to_container(config.search, resolve=True)
    given.pop("space")
    if given["name"] is None:
        given["name"] = f"{config.method.name}-{config.dataset.name}-{given['criterion']}"
    if given["pruner"] == "auto":
        given["pruner"] = "none" if given["against"] else "median"
    given["folder"] = expanded(str(given["folder"]))
    check_options(Settings, given, "search")
    settings = Settings(**given)
    if not re.fullmatch(r"\w[\w.+-]*", settings.name):
        raise ConfigError(f"search.name={settings.name} is not a valid folder name.",
                          "Use letters, digits, '.', '_', '+' and '-'.")  # fmt: skip
    if settings.storage not in ("sqlite", "journal") and "://" not in settings.storage:
        raise ConfigError(f"search.storage={settings.storage} is unknown.",
                          "Use sqlite, journal, or postgresql://USER@HOST/DB.")  # fmt: skip
    if settings.against is not None and settings.pruner != "none":
        raise ConfigError("search.pruner cannot be combined with search.against: Optuna does not "
                          "prune with two objectives.", "Leave search.pruner out.")  # fmt: skip
    if settings.against is not None and settings.sampler == "cmaes":
        raise ConfigError("search.sampler=cmaes has only one objective.", "Use tpe, gp or random.")
    return settings

"""The options `search.*`: their kinds, ranges and meanings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self, get_args

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.core.errors import ConfigError, did_you_mean

Direction = Literal["maximize", "minimize"]
#: second objective → its direction
AGAINST: dict[str, Direction] = {"images_per_second": "maximize", "hours": "minimize"}


class Settings(BaseModel):
    """The options of a search; docs/search.md explains them, conf/search.yaml has the defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: str = Field(
        pattern=r"^\w[\w.+-]*$",
        description="study and its folder: letters, digits, '.', '_', '+', '-'",
    )
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
    storage: str = Field(
        pattern=r"^(sqlite|journal|.+://.*)$",
        description="sqlite, journal, or a URL: postgresql://USER@HOST/DB",
    )
    heartbeat: int = Field(ge=1, description="seconds between two signs of life of a worker")
    retries: int = Field(ge=0, description="how often a trial is resumed after its worker died")
    reproduce: int = Field(ge=0, description="fresh seeds for the best settings and the defaults")
    plots: bool = Field(description="whether the study's page has plots")
    keep_networks: bool = Field(description="whether trials keep their weights")

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.against is not None and self.pruner != "none":
            raise ConfigError(
                f"search.pruner={self.pruner} cannot be combined with "
                f"search.against={self.against}: Optuna does not prune with two objectives.",
                "Leave search.pruner out.",
            )
        if self.against is not None and self.sampler == "cmaes":
            raise ConfigError(
                "search.sampler=cmaes supports only one objective.", "Use tpe, gp or random."
            )
        return self

    @property
    def place(self) -> Path:
        """The study's folder."""
        return self.folder / self.name

    @property
    def optimized(self) -> str:
        """The objectives in words, as records, protocol cards and tables show them."""
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
        """The criterion's key in a run's history."""
        return f"label_free_{self.label_free}" if self.criterion == "label_free" else "mAP"

    @property
    def directions(self) -> list[Direction]:
        """Direction of each objective, for Optuna."""
        return ["maximize", *([] if self.against is None else [AGAINST[self.against]])]


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
    given["folder"] = Path(str(given["folder"])).expanduser()
    try:
        return Settings(**given)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
    key, fields = str(problem["loc"][0]), Settings.model_fields
    if problem["type"] == "extra_forbidden":
        raise ConfigError(f"There is no option 'search.{key}'.", did_you_mean(key, fields))
    if problem["type"] == "literal_error":
        kind = fields[key].annotation
        known = [name for part in (kind, *get_args(kind)) for name in get_args(part) if name]
        raise ConfigError(
            f"search.{key}={given[key]} is unknown.", did_you_mean(str(given[key]), known)
        )
    cause = problem["msg"].replace("Input should", "must").replace("String should", "must")
    raise ConfigError(f"search.{key}={given[key]} {cause}.", f"{fields[key].description}.")

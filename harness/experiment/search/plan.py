"""From a command line to a search: its settings, its space and its configurations, all checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from harness.core.errors import ConfigError, DataError
from harness.core.paths import CONF
from harness.evaluation.label_free import Reference, no_cameras, read_label_free
from harness.experiment.compose import compose
from harness.experiment.data_loading import load_data
from harness.experiment.model_loading import check_parts, find_teachers
from harness.experiment.naming import settings_hash
from harness.experiment.recipe import Recipe, make_recipe
from harness.experiment.search.check import defaults, settle
from harness.experiment.search.config_location import locator
from harness.experiment.search.settings import Settings, read_settings
from harness.experiment.search.space import Space, Values, parse
from harness.experiment.search.trial import epochs_of, trial_config

#: groups whose options may be searched
PARTS = ("backbone", "labeler", "objective", "distiller")


@dataclass(frozen=True)
class Plan:
    """A search as it was asked for.

    Attributes:
        overrides: of the command line. base: the default configuration, what `harness run` would
            run. defaults: its values of what is searched.
    """

    overrides: tuple[str, ...]
    settings: Settings
    space: Space
    base: DictConfig
    defaults: Values | None

    def compose(self, values: Values) -> DictConfig:
        """The configuration with some values of the space."""
        return Composer(self.base, self.overrides)(values)

    @cached_property
    def recipe(self) -> Recipe:
        """Of the default configuration."""
        return make_recipe(self.base)

    @cached_property
    def reference(self) -> Reference:
        """What label-free criteria are measured by, in all trials."""
        config = self.base.copy()
        OmegaConf.set_struct(config, False)
        config.evaluation.label_free = [self.settings.label_free]
        return read_label_free(config)[1]

    @property
    def steps(self) -> int:
        """Epochs of a trial, warm-up included, of all its cells."""
        return self.settings.seeds * epochs_of(self.recipe)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a study may not change while it lasts."""
        _, teachers = find_teachers(self.base, self.recipe)
        return {
            "method": self.recipe.method,
            "dataset": str(self.base.dataset.name),
            "protocol": str(self.base.protocol.name),
            "optimised": self.settings.optimised,
            "split_seed": self.settings.split_seed,
            "every": self.settings.every,
            "sampler": self.settings.sampler,
            "pruner": self.settings.pruner,
            "sampler_seed": self.settings.seed,
            "space": self.space.describe(),
            "seed": int(self.base.seed),
            "other settings": settings_hash(self.base, str(self.base.train.precision), teachers),
        }

    @property
    def trials(self) -> int:
        """How many there will be: of a grid, no more than it has."""
        if self.settings.sampler != "grid":
            return self.settings.trials
        return min(self.settings.trials, len(self.space.combinations()))


def make_plan(overrides: Sequence[str]) -> Plan:
    """Compose and check a search; nothing is trained and no image decoded.

    Raises:
        ConfigError: whatever is wrong with the configuration, the settings or the space.
        DataError: the data are missing, or have not what the criterion needs.
    """
    overrides = tuple(overrides)
    whole = compose(overrides, "search", with_hydra=True)
    OmegaConf.set_struct(whole, False)
    chosen: Mapping[str, Any] = OmegaConf.to_container(whole.pop("hydra").runtime.choices)  # type: ignore[assignment]
    settings = read_settings(whole)
    tree = OmegaConf.to_container(whole.search.space, resolve=True)
    whole.pop("search")
    if whole.get("tuned") is not None:
        raise ConfigError(
            f"+search={whole.tuned.search} is the end of a search, not the beginning of one.",
            "Give single values instead: labeler.eps=… and the like.",
        )
    assert isinstance(tree, dict)
    recipe = make_recipe(whole)
    if not recipe.stages:
        raise ConfigError(
            f"{recipe.method} does not train: there is nothing to search.",
            "Choose a method that trains (harness list methods).",
        )
    space = parse({str(key): node for key, node in tree.items()}, locator(overrides))
    space = settle(space, Composer(whole, overrides), part_options())
    first = defaults(space, whole, chosen) if settings.warm_start else None
    plan = Plan(overrides, settings, space, whole, first)
    if settings.sampler == "grid":
        space.combinations()  # refuses what has no end
    if settings.sampler == "cmaes" and all(param.choices is not None for param in space):
        raise ConfigError("search.sampler=cmaes needs ranges, and the space has only choices.",
                          "Use search.sampler=tpe.")  # fmt: skip
    check_parts(whole, find_teachers(whole, recipe)[0])
    _check_data(plan)
    return plan


def part_options() -> dict[str, list[str]]:
    return {part: sorted(path.stem for path in (CONF / part).glob("*.yaml")) for part in PARTS}


def _check_data(plan: Plan) -> None:
    """Whether the criterion can be had from the data."""
    data = load_data(trial_config(plan.base, plan.settings, plan.reference))
    wanted = (plan.settings.criterion, plan.settings.label_free)
    if wanted == ("label_free", "cross_camera") and data.train.cameras is None:
        raise no_cameras()
    if plan.settings.criterion == "oracle" and not len(data.query.images):
        raise DataError(
            f"{data.name} has no test part, and search.criterion=oracle looks at it.",
            "Use search.criterion=last_val or label_free.",
        )


class Composer:
    """Values → a configuration: by Hydra where they choose a part, else by setting them."""

    def __init__(self, base: DictConfig, overrides: Sequence[str]) -> None:
        self.base, self.overrides = base, overrides

    def __call__(self, values: Values) -> DictConfig:
        groups = {key: value for key, value in values.items() if key in PARTS}
        config = self._with(groups) if groups else self.base.copy()
        OmegaConf.set_struct(config, False)
        for key, value in values.items():
            if key not in groups:
                OmegaConf.update(config, key, value, force_add=True)
        return config

    def _with(self, groups: Values) -> DictConfig:
        parser = OverridesParser.create()
        kept = [
            text
            for text in self.overrides
            if parser.parse_override(text).key_or_group not in groups
        ]
        config = compose([*kept, *(f"{g}={option}" for g, option in groups.items())], "search")
        OmegaConf.set_struct(config, False)
        config.pop("search")
        return config

"""A search as the command line describes it: settings, space and configurations, all checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import pandas as pd
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from harness.core.environment import cpu_name, device_name
from harness.core.errors import ConfigError, DataError, HarnessError, did_you_mean
from harness.core.plugins import PART_GROUPS
from harness.core.precision import resolve_device
from harness.evaluation.label_free import no_cameras, read_label_free
from harness.experiment.compose import compose
from harness.experiment.part_checks import check_parts
from harness.experiment.plan import Plan as ExperimentPlan
from harness.experiment.plan import make_plan as plan_experiment
from harness.experiment.recipe import Recipe, make_recipe
from harness.experiment.search.held_out import check_unseen, hold_out
from harness.experiment.search.settings import Settings, read_settings
from harness.experiment.search.space import Param, Space, SpaceError, Values, is_number, parse
from harness.experiment.stages import build_labeler, build_objective, load_data

#: not hyper-parameters: they define the experiment
NOT_SEARCHED = (
    "seed", "dataset", "data", "store", "name", "overwrite", "log", "device", "threads",
    "evaluation", "selection", "method", "protocol", "search", "tuned",
)  # fmt: skip
#: values → the configuration with them
Compose = Callable[[Values], DictConfig]
_MISSING = object()


@dataclass(frozen=True)
class Plan:
    """A checked search.

    Attributes:
        overrides: from the command line. base: the default configuration, which `harness run` with
            the same overrides would run. defaults: its values of the searched keys, None if they
            are not the first trial.
    """

    overrides: tuple[str, ...]
    settings: Settings
    space: Space
    base: DictConfig
    defaults: Values | None

    def compose(self, values: Values) -> DictConfig:
        """The configuration with some values of the space."""
        return _configure(self.base, self.overrides, values)

    def trial_config(self, values: Values) -> DictConfig:
        """The configuration of a trial: data as the criterion needs them, in the study's store.

        Raises:
            ConfigError: a network that it begins or learns from may know the held-out identities.
        """
        settings = self.settings
        config = self.compose(values)
        plan = plan_experiment(config, str(config.train.precision))
        if settings.criterion == "last_val":
            check_unseen(plan)
        _name_runs_by_folder(config, plan)  # they are not in the study's store
        config.store = str(settings.place / "trials")
        config.overwrite, config.selection = "skip", "last"
        config.evaluation.every = settings.every
        config.evaluation.label_free = None
        if settings.criterion == "last_val":
            return hold_out(config, settings.held_out, settings.split_seed)
        if settings.criterion == "label_free":
            config = hold_out(config, 0, settings.split_seed)
            default = self.compose({})  # all trials are measured with the default's neighbours
            for each in (config, default):
                each.evaluation.label_free = [settings.label_free]
            config.evaluation.reference = vars(read_label_free(default)[1])
        return config

    @cached_property
    def experiment(self) -> ExperimentPlan:
        """The default experiment; its precision is as given, so that workers may differ."""
        return plan_experiment(self.base, str(self.base.train.precision))

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.experiment.recipe.method

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What must stay the same as long as a study exists."""
        settings, base = self.settings, self.base
        return {
            "method": self.method,
            "dataset": str(base.dataset.name),
            "protocol": str(base.protocol.name),
            "optimized": settings.optimized,
            **settings.model_dump(include={"split_seed", "every", "sampler", "pruner"}),
            "sampler_seed": settings.seed,
            "seed": int(base.seed),
            "other settings": self.experiment.hash,
            **self._machine,
            **{f"space of {key}": leaf for key, leaf in self.space.describe().items()},
        }

    @property
    def _machine(self) -> dict[str, str]:
        """With a second objective, which is a matter of speed, the device and the processor."""
        if self.settings.against is None:
            return {}
        device = device_name(resolve_device(str(self.base.device)))
        return {"machine (search.against needs workers on equal ones)": f"{device}, {cpu_name()}"}

    @cached_property
    def trials(self) -> int:
        """Number of trials; a grid has at most as many as it has combinations."""
        if self.settings.sampler != "grid":
            return self.settings.trials
        return min(self.settings.trials, len(self.space.combinations()))


def epochs_of(recipe: Recipe) -> list[tuple[str, int]]:
    """(stage, epoch) of all epochs of a run in order; those of a warm-up are negative."""
    return [
        (stage.name, epoch)
        for stage in recipe.stages
        for epoch in range(-int(stage.config.train.warmup_epochs), int(stage.config.train.epochs))
    ]


def make_plan(overrides: Sequence[str]) -> Plan:
    """Compose and check a search. Nothing is trained and no image is decoded.

    Raises:
        ConfigError: the configuration, the settings or the space are invalid.
        DataError: the data are missing, or lack what the criterion needs.
    """
    overrides = tuple(overrides)
    base = compose(overrides, "search", with_hydra=True)
    OmegaConf.set_struct(base, False)
    chosen: Any = OmegaConf.to_container(base.pop("hydra").runtime.choices)
    settings = read_settings(base)
    tree: Any = OmegaConf.to_container(base.pop("search").space, resolve=True)
    if base.get("tuned") is not None:
        raise ConfigError(f"+search={base.tuned.search} is the result of a search.",
                          "Give single values instead, such as labeler.eps=….")  # fmt: skip
    if base.selection != "last":  # of the runs on fresh seeds; trials end with their last epoch
        raise ConfigError(f"selection={base.selection} has no effect on the trials of a search: "
                          "they are compared after their last epoch.",
                          "Leave it out; search.criterion says what is optimized.")  # fmt: skip
    if base.name is not None:  # of all runs on fresh seeds
        raise ConfigError(f"name={base.name} names one run, and a search has many.",
                          "Name the search instead: search.name=NAME.")  # fmt: skip
    if not base.stages:
        raise ConfigError(f"{base.method.name} does not train: there is nothing to search.",
                          "Choose a method that trains (harness list methods).")  # fmt: skip
    try:
        space = check_space(parse(tree), partial(_configure, base, overrides))
        if settings.sampler == "grid":
            space.combinations()
        first = defaults(space, base, chosen) if settings.warm_start else None
    except SpaceError as error:
        origin = _origin(error.key, overrides, str(chosen["method"]))
        raise ConfigError(error.cause, f"{error.hint} {origin}".strip()) from error
    if settings.sampler == "cmaes" and all(param.choices is not None for param in space):
        raise ConfigError("search.sampler=cmaes needs ranges, and the space has only choices.",
                          "Use search.sampler=tpe.")  # fmt: skip
    plan = Plan(overrides, settings, space, base, first)
    check_parts(plan.experiment)
    _check_data(plan)
    return plan


def _origin(key: str, overrides: Sequence[str], method: str) -> str:
    """Where a searched key was written: in an override, or else in the method's file."""
    full = f"search.space.{key}."
    parser = OverridesParser.create()
    for text in reversed(overrides):
        name = f"{parser.parse_override(text).key_or_group}."
        if name.startswith("search.space.") and (full.startswith(name) or name.startswith(full)):
            return f"It is set by '{text}'."
    return f"It is set in the search block of the method {method}."


def _configure(base: DictConfig, overrides: Sequence[str], values: Values) -> DictConfig:
    """A configuration with some values of the space; where they choose a part, Hydra composes."""
    groups = {key: value for key, value in values.items() if key in PART_GROUPS}
    config = base.copy()
    if groups:
        parser = OverridesParser.create()
        kept = [text for text in overrides
                if parser.parse_override(text).key_or_group not in groups]  # fmt: skip
        config = compose([*kept, *(f"{g}={option}" for g, option in groups.items())], "search")
    OmegaConf.set_struct(config, False)
    config.pop("search", None)
    for key, value in values.items():
        if key not in groups:
            OmegaConf.update(config, key, value, force_add=True)
    return config


def _name_runs_by_folder(config: DictConfig, plan: ExperimentPlan) -> None:
    """Replace the names of runs, which hold in one store alone; `plan` is of this configuration."""
    if plan.init is not None:
        config.init = str(plan.init.run.folder)
    teachers = {s.teacher_run: plan.teachers[s.name] for s in plan.recipe.stages if s.teacher_run}
    for node in ("", *(f"stages.{stage}." for stage in config.stages)):
        network = teachers.get(OmegaConf.select(config, f"{node}distiller.teacher"))
        if network is not None:
            OmegaConf.update(config, f"{node}distiller.teacher", str(network.run.folder))


def _check_data(plan: Plan) -> None:
    """Check that the data have what the criterion needs."""
    data = load_data(plan.trial_config({}))
    wanted = (plan.settings.criterion, plan.settings.label_free)
    if wanted == ("label_free", "cross_camera") and data.train.cameras is None:
        raise no_cameras()
    if plan.settings.criterion == "oracle" and not len(data.query.images):
        raise DataError(f"{data.name} has no test part, which search.criterion=oracle needs.",
                        "Use search.criterion=last_val or label_free.")  # fmt: skip


def check_space(space: Space, compose: Compose) -> Space:
    """Check that every searched key exists and that its values can be run.

    Returns:
        The space, in which ranges have whole numbers where the configuration has them.

    Raises:
        ConfigError: an unknown key, a wrong kind of range, or a value that a part refuses.
    """
    checked = Space(tuple(_typed(param, space, compose) for param in space))
    for param in checked:
        for value in param.choices or (param.low, param.high):
            _try(param, value, checked, compose)
    return checked


def defaults(space: Space, base: DictConfig, chosen: Mapping[str, Any]) -> Values:
    """The configuration's own value of each key that is searched under these values.

    Args:
        chosen: config group → option.

    Raises:
        ConfigError: the space does not contain a default.
    """
    values: Values = {}
    for param in space:
        if not param.applies(values):
            continue
        value = chosen[param.key] if param.key in chosen else _value(base, param.key)
        if not param.contains(value):
            raise SpaceError(param.key, f"the default, {value!r}, is not in the range.",
                             "Widen the range, or set search.warm_start=false.")  # fmt: skip
        is_real = param.choices is None and not param.whole
        values[param.key] = float(value) if is_real else value
    return values


def _value(config: DictConfig, key: str) -> Any:
    """A key's value as plain Python, `_MISSING` if neither its stage nor the whole has it."""
    value = OmegaConf.select(config, key, default=_MISSING)
    section, stage, inherited = [*key.split(".", 2), "", ""][:3]
    if value is _MISSING and section == "stages" and stage in (config.stages or {}):
        value = OmegaConf.select(config, inherited, default=_MISSING)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _conditions(param: Param, space: Space) -> Values:
    """Values under which a key is searched."""
    by_key = {p.key: p for p in space}
    needed: Values = {}
    for key, wanted in param.when.items():
        needed |= _conditions(by_key[key], space)
        needed[key] = next(value for value in wanted if by_key[key].contains(value))
    return needed


def _typed(param: Param, space: Space, compose: Compose) -> Param:
    top = param.key.split(".")[0]
    if top in NOT_SEARCHED:
        raise SpaceError(param.key, f"{top} cannot be searched: it defines the experiment.")
    if param.key in PART_GROUPS:
        if param.choices is None:
            raise SpaceError(param.key, "a part has choices, not a range.")
        return param
    config = compose(_conditions(param, space))
    default = _value(config, param.key)
    if default is _MISSING:
        under = " under its conditions." if param.when else "."
        plain: Any = OmegaConf.to_container(config)
        raise SpaceError(param.key, f"there is no such option{under}",
                         did_you_mean(param.key, map(str, pd.json_normalize(plain))))  # fmt: skip
    if isinstance(default, dict):
        raise SpaceError(param.key, "this is a section, not a value.", "Name one of its keys.")
    if param.choices is not None:
        return param
    if default is not None and not is_number(default):
        raise SpaceError(param.key, f"the default, {default!r}, is not a number.",
                         "Give choices, not a range.")  # fmt: skip
    whole = all(isinstance(v, int) for v in (param.low, param.high, param.step or 1))
    if isinstance(default, int) and not whole:
        raise SpaceError(param.key, f"the default, {default}, is a whole number; low, high and "
                         "step must be whole numbers, too.")  # fmt: skip
    return param.model_copy(update={"whole": whole and not isinstance(default, float)})


def _try(param: Param, value: Any, space: Space, compose: Compose) -> None:
    """Build what a value changes, all other values at their defaults."""
    try:
        config = compose({**_conditions(param, space), param.key: value})
        recipe = make_recipe(config)
        for stage in recipe.stages:
            build_labeler(stage)
            build_objective(stage)
        if param.key.startswith(("distiller", "backbone", "stages")):
            if config.backbone.get("weights") is not None:
                config.backbone.weights = "none"  # do not load weights for a check
            check_parts(plan_experiment(config, str(config.train.precision)))
    except HarnessError as error:
        raise SpaceError(param.key, f"{value!r} is refused: {error.cause}", error.hint) from error

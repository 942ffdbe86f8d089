"""`harness run`: all of Hydra (overrides, multirun, `--cfg job`, launchers, completion), and what
was meant when something is misspelt.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from harness.core import plugins
from harness.core.errors import ConfigError, HarnessError, did_you_mean, first_line
from harness.experiment import (
    joint_datasets,
    resolvers,  # noqa: F401 (configurations refer to them)
    sweeps,
)


@hydra.main(version_base="1.3", config_path="pkg://harness.conf", config_name="config")
def _task(config: DictConfig) -> dict[str, Any]:
    from harness.core.distributed import job
    from harness.experiment.run import run_experiment

    plugins.register()  # a launcher may have started a new process
    sweeps_on = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        _check_stages(HydraConfig.get().overrides.task)
        with sweeps.as_one_job():
            return dict(run_experiment(config).record["metrics"])
    except Exception as error:
        problem = job.lost_process_error(error) or error
        if sweeps_on and job.all_failed(int(HydraConfig.get().job.num)):
            return sweeps.failure(problem)
        if not isinstance(problem, HarnessError):
            raise
        _failed.append(problem)  # past Hydra, which would print a traceback's worth of its own
        return {}


_failed: list[HarnessError] = []


def run(arguments: Sequence[str]) -> None:
    """Hand the arguments to Hydra.

    Raises:
        HarnessError: anything that a person can mend.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come back as exceptions; we print them ourselves
    arguments = _ordered([_normal(argument) for argument in arguments])
    joint_datasets.register(arguments)
    _check_flags(arguments)
    many = bool({"-m", "--multirun"} & set(arguments))
    sweeps.check_launcher(arguments, many)
    sys.argv = ["harness", *arguments]
    _failed.clear()
    try:
        with sweeps.watched() as outcomes:
            _task()
        if _failed:
            raise _failed[0]
        sweeps.summarize(outcomes)
    except HarnessError:
        raise
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise _explained(error, arguments) from error
    except OSError as error:
        if not many:
            raise  # else Hydra's folder for its notes of a multirun
        raise ConfigError(
            f"The store cannot be written: {error.strerror or error}.", "Choose another: store=DIR."
        ) from error
    except ValueError as error:  # Hydra's own for method=null
        if "Config group override" not in str(error):
            raise
        raise _explained(error, arguments) from error


def _normal(argument: str) -> str:
    """`experiment=…` is `+experiment=…`, `dataset=[a,b]` is `dataset=a+b`, and a stage takes
    changes that it does not name yet.
    """
    if argument.startswith("experiment="):
        return f"+{argument}"
    if argument.startswith("dataset="):
        return joint_datasets.normal(argument)
    return f"++{argument}" if argument.startswith("stages.") else argument


def _ordered(arguments: Sequence[str]) -> list[str]:
    """Flags first: `method=mskd -m seed=0,1` is more than argparse can read."""

    def is_override(argument: str) -> bool:
        return argument.startswith("~") or ("=" in argument and not argument.startswith("-"))

    return sorted(arguments, key=is_override)  # sorting is stable


def _check_flags(arguments: Sequence[str]) -> None:
    flags = [flag for action in get_args_parser()._actions for flag in action.option_strings]
    for argument in arguments:
        flag = argument.split("=")[0]
        if flag.startswith("--") and not any(known.startswith(flag) for known in flags):
            raise ConfigError(f"There is no option '{flag}'.", did_you_mean(flag, flags))


def _check_stages(overrides: Sequence[str], name: str = "config") -> None:
    """Refuse a change to a stage that the method does not have; Hydra would add the stage.

    Raises:
        ConfigError: there is no such stage.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    named = [item for item in parsed if item.key_or_group.startswith("stages.")]
    if not named:
        return
    others = [str(item.input_line) for item in parsed if item not in named]
    stages = list(hydra.compose(name, others).stages or {})
    for item in named:
        stage = item.key_or_group.split(".")[1]
        if stage not in stages:
            raise ConfigError(
                f"This method has no stage '{stage}'.",
                did_you_mean(stage, stages) or "It does not train.",
            )


def compose(overrides: Sequence[str], name: str = "config", with_hydra: bool = False) -> DictConfig:
    """The configuration that `harness run OVERRIDES` would run, in a library's or test's hands.

    Args:
        name: of the primary configuration; `search` is that of `harness search`.
        with_hydra: keep the section `hydra`, which knows the choices.

    Raises:
        HarnessError: something is misspelt or cannot be combined.
    """
    plugins.register()
    overrides = [_normal(override) for override in overrides]
    joint_datasets.register(overrides)
    GlobalHydra.instance().clear()
    with hydra.initialize_config_module("harness.conf", version_base="1.3"):
        try:
            config = hydra.compose(name, list(overrides), return_hydra_config=with_hydra)
            _check_stages(overrides, name)
            return config
        except (HydraException, OmegaConfBaseException, YAMLError) as error:
            problem = error
    raise _explained(problem, overrides, name) from problem


# --------------------------------------------------------------------------- what was meant


def _explained(error: Exception, arguments: Sequence[str], primary: str = "config") -> HarnessError:
    """The same error in words that name the nearest thing that exists."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HarnessError):
            return cause
        chain.append(cause)
        cause = cause.__cause__
    overrides = [a for a in arguments if "=" in a and not a.startswith("-")]
    GlobalHydra.instance().clear()
    with hydra.initialize_config_module("harness.conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        # the loader copies its whole repository for every question: ask that itself
        options = getattr(loader, "repository", loader).get_group_options
        groups = {g: options(g, ObjectType.CONFIG) for g in loader.list_groups("")}
        groups.pop("hydra", None)
        for name in loader.list_groups("method"):
            variants = options(f"method/{name}", ObjectType.CONFIG)
            groups["method"] += [f"{name}/{v}" for v in variants]
        parsed = []
        for override in overrides:
            try:
                parsed += OverridesParser.create().parse_overrides([override])
            except HydraException as wrong:
                text = " ".join(str(wrong).split())
                return ConfigError(
                    f"'{override}' cannot be read: {text}",
                    "Write KEY=VALUE; quote what has brackets, commas or blanks: 'KEY=\"a, b\"'.",
                )
        for word in arguments:
            if "=" not in word and not word.startswith(("-", "~")) and word in str(error):
                fitting = [group for group, names in groups.items() if word in names]
                known = f"Did you mean {fitting[0]}={word}?" if fitting else "Write KEY=VALUE."
                return ConfigError(f"'{word}' is no setting.", known)
        if not any(item.key_or_group == "method" for item in parsed):
            for item in parsed:
                if item.key_or_group not in groups and _near(item.key_or_group, {"method"}):
                    return ConfigError(
                        f"There is no option '{item.key_or_group}'.", "Did you mean 'method'?"
                    )
            return ConfigError(
                "No method was given.",
                f"Known: {', '.join(groups['method'])}. Example: harness run method=mskd.",
            )
        for item in parsed:
            if item.key_or_group == "search" and not groups.get("search"):
                return ConfigError(
                    f"There is no search '{item.value()}', nor any other.",
                    "They lie in results/searches, or where HARNESS_SEARCHES says.",
                )
            options = groups.get(item.key_or_group, [])
            for value in getattr(item.value(), "list", [item.value()]):  # a sweep has several
                value = "null" if value is None else value
                if options and isinstance(value, str) and value not in options:
                    return ConfigError(
                        f"There is no {item.key_or_group} '{value}'.",
                        did_you_mean(value, options),
                    )
        composed = set(_composed_keys(parsed, groups, primary))
    keys = composed | set(groups)
    for item in parsed if composed else ():
        key = item.key_or_group
        if not item.is_add() and key not in keys and not key.startswith("hydra"):
            return ConfigError(
                f"There is no option '{key}'.",
                did_you_mean(key, keys) if _near(key, keys) else "See harness run … --cfg job.",
            )
    text = re.sub(r"\s+", " ", first_line(chain[-1]))
    missing = re.match(r"Key '(.*)' is not in struct", text)
    if missing and any(i.key_or_group == "method" and i.is_sweep_override() for i in parsed):
        named = [i for i in parsed if i.key_or_group.endswith(f".{missing.group(1)}")]
        key = str(named[0].input_line if named else missing.group(1))
        return ConfigError(
            f"'{key}' is no option of the parts that methods have unless they choose others.",
            f"In a sweep over methods, add it to each: ++{key.lstrip('+')}.",
        )
    return ConfigError(text, "See harness run … --cfg job.")


def _near(key: str, keys: set[str]) -> bool:
    return did_you_mean(key, keys).startswith("Did")


def _composed_keys(
    parsed: Sequence[Any], groups: dict[str, list[str]], primary: str
) -> Iterator[str]:
    """All dotted keys of the configuration that the group choices alone give."""
    choices = []
    for item in parsed:
        if item.key_or_group in groups:
            several = getattr(item.value(), "list", None)  # a sweep's first stands for all
            chosen = f"{item.key_or_group}={several[0]}" if several else item.input_line
            choices.append(f"+{chosen}" if several and item.is_add() else chosen)
    try:
        config = hydra.compose(primary, choices)
    except (HydraException, OmegaConfBaseException):
        return
    plain = OmegaConf.to_container(config, resolve=False)

    def walk(node: object, prefix: str) -> Iterator[str]:
        if isinstance(node, dict):
            for key, value in node.items():
                yield f"{prefix}{key}"
                yield from walk(value, f"{prefix}{key}.")

    yield from walk(plain, "")

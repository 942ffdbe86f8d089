"""From a command line to a configuration: Hydra composes it, and errors name what was meant.

`run` is `harness run`: all of Hydra, with multirun, launchers, `--cfg job` and shell completion.
`compose` returns the configuration that the same overrides give.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from harness.core import plugins
from harness.core.errors import ConfigError, HarnessError, did_you_mean, first_line
from harness.core.paths import CONF
from harness.experiment import joint_datasets, sweeps
from harness.experiment.registration import options, register

#: flags of Hydra that do without a method, or that add groups that are unknown here
UNCHECKED = {"-sc", "-cp", "-cn", "-cd", "--hydra-help", "--version", "--shell-completion", "-i",
             "--info", "--config-path", "--config-name", "--config-dir"}  # fmt: skip
SEE = "See harness run … --cfg job."
#: a character that Hydra reads in quotes only
_SPECIAL = re.compile(r"[^\w\s/+.$%*@?|:\\-]", re.ASCII)
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, YAMLError)


@hydra.main(version_base="1.3", config_path="pkg://harness.conf", config_name="config")
def _task(config: DictConfig) -> dict[str, Any]:
    """One run, alone or in a sweep. It returns its error: Hydra would print a report of its own."""
    from harness.core.distributed import job
    from harness.experiment.run import run_experiment

    register()  # a launcher may have started a new process
    _begun.append(True)
    try:
        _check_stages(_parsed(HydraConfig.get().overrides.task))
        with sweeps.as_one_job():
            return dict(run_experiment(config).record["metrics"])
    except Exception as error:
        problem = job.lost_process_error(error) or error
        in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        if in_sweep and job.all_failed(int(HydraConfig.get().job.num)):
            return sweeps.failure(problem)
        # the system refused a file, which the command line answers like an error of the harness
        refused = isinstance(problem, OSError) and problem.filename is not None
        if not refused and not isinstance(problem, HarnessError):
            raise
        _failed.append(problem)
        return {}


#: of the command that runs: errors of its runs, and whether one has begun
_failed: list[Exception] = []
_begun: list[bool] = []


def run(arguments: Sequence[str]) -> None:
    """Run a command line; a HarnessError if its configuration is wrong, or a run failed."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them
    register()
    # flags first: argparse does not read `method=mskd -m seed=0,1`
    words = sorted(map(_normal, arguments), key=_is_override)
    multirun = not {"-m", "--multirun", "hydra.mode=MULTIRUN"}.isdisjoint(words)
    _check_words(words)
    overrides = [word for word in words if _is_override(word)]
    if UNCHECKED.isdisjoint(words):
        _check_overrides(_parsed(overrides), multirun)
    joint_datasets.register(words)
    sweeps.check_launcher(words, multirun)
    sys.argv = ["harness", *words]
    _failed.clear()
    _begun.clear()
    sweeps.forget()
    try:
        _task()
    except HarnessError:
        raise
    except COMPOSITION_ERRORS as error:
        raise _translated(error, overrides) from error
    except Exception as error:
        if isinstance(error, ValueError) and not _begun:  # raised by OmegaConf
            raise _translated(error, overrides) from error
        if str(error).startswith("Only one of --run"):
            raise ConfigError(f"{first_line(error)}.", "Leave one of them out.") from error
        if multirun:
            raise sweeps.stopped(error) from error
        raise
    if _failed:
        raise _failed[0]
    sweeps.summarize()


def compose(overrides: Sequence[str], name: str = "config", with_hydra: bool = False) -> DictConfig:
    """The configuration that `harness run OVERRIDES` would run.

    Args:
        name: the primary configuration: config, or that of `harness search` or `harness label`.
        with_hydra: keep the section `hydra`, with the choices of groups.

    Raises:
        HarnessError: an override is misspelt or has a value that cannot be.
    """
    register()
    overrides = [_normal(override) for override in overrides]
    parsed = _parsed(overrides)
    _check_overrides(parsed, multirun=False, needs_method=name != "label")
    joint_datasets.register(overrides)
    try:
        with _initialized():
            config = hydra.compose(name, list(overrides), return_hydra_config=with_hydra)
            _check_stages(parsed, name)
            return config
    except (*COMPOSITION_ERRORS, ValueError) as error:  # a key of a list is a ValueError
        raise _translated(error, overrides, name) from error


def _initialized() -> Any:
    GlobalHydra.instance().clear()
    return hydra.initialize_config_module("harness.conf", version_base="1.3")


def _normal(word: str) -> str:
    """A short form as Hydra reads it: `experiment=…` is `+experiment=…`, `dataset=[a,b]` is
    `dataset=a+b`, and a stage accepts keys that it does not name yet.
    """
    if word.startswith("experiment="):
        return f"+{word}"
    if word.startswith("dataset="):
        return joint_datasets.normal(word)
    return f"++{word}" if word.startswith("stages.") else word


def _is_override(word: str) -> bool:
    return word.startswith("~") or ("=" in word and not word.startswith("-"))


def _check_words(words: Sequence[str]) -> None:
    """Refuse words that are neither flags nor overrides; Hydra refuses unknown flags."""
    for before, word in itertools.pairwise(["", *words]):
        takes_value = before.startswith("-") and before not in ("-m", "--multirun", "--resolve")
        if not (_is_override(word) or word.startswith("-") or takes_value):
            groups = [group for group, names in options().items() if word in names]
            hint = f"Did you mean {groups[0]}={word}?" if groups else "Write KEY=VALUE."
            raise ConfigError(f"'{word}' is not a setting.", hint)
    if "--resolve" in words and not any(w.startswith(("--cfg", "-c")) for w in words):
        raise ConfigError("--resolve needs --cfg.", "Add --cfg job.")


def _parsed(overrides: Sequence[str]) -> list[Override]:
    """Overrides as Hydra reads them."""
    parser = OverridesParser.create()
    parsed = []
    for override in overrides:
        try:
            parsed += parser.parse_overrides([override])
        except HydraException as error:
            key, _, value = override.partition("=")
            special = sorted(set(re.findall(_SPECIAL, value)))
            reason = f"{first_line(error)}."
            if special and not value.startswith(("'", '"')):
                reason = f"a value with {' '.join(special)} needs quotes."
            raise ConfigError(
                f"'{override}' cannot be read: {reason}",
                "Write KEY=VALUE. Quote a value with blanks, letters like é, or one of "
                f"= , # ~ [ ] {{ }} twice, also for the shell: {_with_quotes(key, value)}.",
            ) from error
    return parsed


def quoted(value: str) -> str:
    """A value as Hydra reads it literally: in quotes where these are needed."""
    if re.fullmatch(r"[\w/.-]+", value, re.ASCII):
        return value
    inner = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + found[2].replace('"', r"\""), value)
    return f'"{inner}"'


def _with_quotes(key: str, value: str) -> str:
    """What to type instead: Hydra's quotes inside the shell's."""
    whole = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return shlex.quote(f"{key}={quoted(value[1:-1] if whole else value)}")


def _check_overrides(parsed: Sequence[Override], multirun: bool, needs_method: bool = True) -> None:
    """Refuse a missing method, options that a group does not have, and sweeps without -m."""
    known = options()
    if needs_method and not any(item.key_or_group == "method" for item in parsed):
        for item in parsed:
            key = item.key_or_group
            if key not in known and (hint := _near(key, ["method"])):
                raise ConfigError(f"There is no option '{key}'.", hint)
        methods = ", ".join(name for name in known["method"] if "/" not in name)
        raise ConfigError(
            "No method was given.", f"Known: {methods}. Example: harness run method=mskd."
        )
    for item in parsed:
        if item.is_delete() and "." not in item.key_or_group and "@" not in item.key_or_group:
            _refuse_removal(item.key_or_group, known)
    for item in parsed:
        group, text = item.key_or_group, str(item.input_line).partition("=")[2]
        if item.is_sweep_override() and not multirun:
            raise ConfigError(
                f"'{item.input_line}' gives more than one value.",
                "Add -m to run each of them: harness run -m …. Quote a value with a comma twice: "
                f"{_with_quotes(str(item.input_line).partition('=')[0], text)}.",
            )
        if group not in known or item.is_delete():
            continue
        names = known[group]
        if group == "search" and not names:
            raise ConfigError(
                "There is no finished search.",
                "Searches are read from results/searches, or from HARNESS_SEARCHES.",
            )
        value = item.value()
        if item.is_sweep_override() and not isinstance(value, ChoiceSweep):
            continue  # glob(…)
        for choice in value.list if isinstance(value, ChoiceSweep) else [value]:
            name = choice if isinstance(choice, str) else text
            joined = group == "dataset" and joint_datasets.BETWEEN in name
            if not (name in names or joined):
                raise ConfigError(f"There is no {group} '{name}'.", did_you_mean(name, names))


def _refuse_removal(section: str, groups: Iterable[str]) -> None:
    example = f"{section}=NAME" if section in groups else f"{section}.KEY=VALUE"
    defaults = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))
    if isinstance(defaults, dict) and not isinstance(defaults.get(section, {}), dict):
        example = f"{section}=VALUE"
    raise ConfigError(
        f"~{section} removes something that every run has.", f"Change it instead: {example}."
    )


def _check_stages(parsed: Sequence[Override], primary: str = "config") -> None:
    """Refuse a change to a stage that the method does not have; Hydra would add the stage."""
    named = [item for item in parsed if item.key_or_group.startswith("stages.")]
    others = [str(item.input_line) for item in parsed if item not in named]
    stages = list(hydra.compose(primary, others).stages or {}) if named else []
    for item in named:
        stage = item.key_or_group.split(".")[1]
        if stage not in stages:
            hint = did_you_mean(stage, stages) or "It does not train."
            raise ConfigError(f"This method has no stage '{stage}'.", hint)


def _translated(
    error: Exception, overrides: Sequence[str], primary: str = "config"
) -> HarnessError:
    """An error of Hydra or OmegaConf as one that names the nearest key that exists."""
    root: BaseException = error
    while not isinstance(root, HarnessError) and root.__cause__ is not None:
        root = root.__cause__
    if isinstance(root, HarnessError):  # raised by a resolver
        return root
    if isinstance(error, MissingConfigException):  # a plug-in's defaults list
        group, _, missing = str(error.missing_cfg_file).rpartition("/")
        hint = did_you_mean(missing, options().get(group, ()))
        return ConfigError(f"{first_line(error).rstrip('.')}.", hint)
    parsed = _parsed(overrides)
    keys = _composed_keys(parsed, primary)
    for item in parsed if keys else ():
        key = item.key_or_group
        if not (item.is_add() or key in keys or key.startswith("hydra")):
            hint = _option_with(key) or _near(key, keys) or SEE
            return ConfigError(f"There is no option '{key}'.", hint)
    unknown = getattr(root, "key", None)
    methods = any(item.key_or_group == "method" and item.is_sweep_override() for item in parsed)
    named = [item for item in parsed if item.key_or_group.endswith(f".{unknown}")]
    if methods and named:  # Hydra composes a sweep over methods once without any of them
        return ConfigError(
            f"Not every method of this sweep has the option '{named[0].key_or_group}'.",
            f"Add it to each: ++{str(named[0].input_line).lstrip('+')}.",
        )
    if "Cannot merge DictConfig" in str(root):
        for item in parsed:
            if isinstance(item.value(), list):
                return ConfigError(
                    f"{item.input_line} must hold keys and values.",
                    f"Change one of them: {item.key_or_group}.KEY=…",
                )
    return ConfigError(" ".join(first_line(root).split()), SEE)


def _composed_keys(parsed: Sequence[Override], primary: str) -> set[str]:
    """All dotted keys of the configuration that the chosen groups give; none if they do not fit."""
    known = options()
    choices = []
    for item in parsed:
        if item.key_or_group in known:
            first = next(iter(item.sweep_string_iterator())) if item.is_sweep_override() else None
            sign = "+" if item.is_add() else ""
            choices.append(f"{sign}{item.key_or_group}={first}" if first else str(item.input_line))
    try:
        with _initialized():
            config = hydra.compose(primary, choices)
    except COMPOSITION_ERRORS:
        return set()
    return {*_dotted(OmegaConf.to_container(config, resolve=False)), *known}


def _option_with(key: str) -> str:
    """The hint that names the options of a group that have this key; '' if none has it."""
    group, _, last = key.partition(".")
    if group not in plugins.PART_GROUPS:
        return ""
    files = plugins.options(group).items()
    names = [f"{group}={name}" for name, path in files if last in plugins.load_config(path)]
    return f"It is an option of {' and '.join(names)}: add {names[0]}." if names else ""


def _dotted(node: object, prefix: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _dotted(value, f"{prefix}{key}.")


def _near(key: str, keys: Iterable[str]) -> str:
    """The hint that names the nearest key; '' if none is near."""
    hint = did_you_mean(key, [known for known in keys if not known.endswith("_target_")])
    return hint if hint.startswith("Did") else ""

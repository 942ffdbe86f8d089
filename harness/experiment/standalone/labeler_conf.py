"""A labeler by name and options, as `harness run` would build it, but without Hydra.

Hydra and what it brings take longer to import than labelling a few thousand images takes.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from harness.core import plugins
from harness.core.errors import ConfigError, HarnessError, did_you_mean, first_line
from harness.core.interfaces import PseudoLabeler
from harness.core.options import check_options
from harness.core.paths import CONF


def make_labeler(changes: Sequence[str] = ()) -> tuple[str, PseudoLabeler]:
    """The labeler that `changes` choose, and its name.

    Args:
        changes: `labeler=NAME`, `labeler.KEY=VALUE` and `neighbours.KEY=VALUE`. Names are files of
            harness/conf/labeler and of DIR/conf/labeler for each plug-in folder DIR of the user,
            which go first.

    Raises:
        ConfigError: there is no such labeler or option, or a value that it cannot have.
    """
    config = OmegaConf.load(CONF / "config.yaml")
    assert isinstance(config, DictConfig)
    usual = next(item["labeler"] for item in config.defaults if "labeler" in item)
    pairs = [_pair(change) for change in changes]
    name = next((value for key, value in reversed(pairs) if key == "labeler"), usual)
    files = _files()
    if name == "none" or name not in files:
        raise ConfigError(
            "labeler=none labels nothing." if name == "none" else f"There is no labeler '{name}'.",
            did_you_mean(name, files.keys() - {"none"}),
        )
    config.labeler = _load(name, files)
    known = [f"{part}.{key}" for part in ("labeler", "neighbours") for key in config[part]]
    known = [key for key in known if "._" not in key]
    for key, text in ((key, value) for key, value in pairs if key != "labeler"):
        if key not in known:
            raise ConfigError(f"There is no option '{key}'.", did_you_mean(key, known))
        OmegaConf.update(config, key, _value(key, text))
    return name, _build(name, config)


def _pair(change: str) -> tuple[str, str]:
    key, equals, value = change.partition("=")
    if not equals:
        raise ConfigError(
            f"'{change}' is no option.", "Write labeler=NAME or labeler.KEY=VALUE, without blanks."
        )
    return key, value


def _files() -> dict[str, Path]:
    """Name → file of all labelers."""
    folders = [CONF / "labeler"]
    folders += [root / "conf" / "labeler" for root in reversed(plugins.user_roots())]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def _load(name: str, files: dict[str, Path]) -> DictConfig:
    """A labeler's config, on top of those that its defaults list names."""
    try:
        node = OmegaConf.load(files[name])
    except (YAMLError, OmegaConfBaseException, OSError) as error:
        raise ConfigError(f"{files[name]} is not valid YAML: {first_line(error)}") from error
    if not isinstance(node, DictConfig):
        raise ConfigError(f"{files[name]} must hold keys and values.")
    defaults = [base for base in node.pop("defaults", []) if base != "_self_"]
    for base in defaults:
        if base == name or base not in files:
            raise ConfigError(
                f"{files[name]} builds on '{base}', which is no other labeler.",
                did_you_mean(str(base), files.keys() - {name}),
            )
    merged = OmegaConf.merge(*(_load(base, files) for base in defaults), node)
    assert isinstance(merged, DictConfig)
    return merged


def _value(key: str, text: str) -> Any:
    """A value as YAML has it, as on Hydra's command line."""
    try:
        node = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{key}={text} cannot be read: {first_line(error)}.") from error
    assert isinstance(node, dict)
    return node["value"]


def _resolved(config: DictConfig, key: str) -> Any:
    try:
        return OmegaConf.select(config, key, throw_on_missing=True)
    except OmegaConfBaseException as error:  # ${…} of what is not there, or ???
        raise ConfigError(f"{key} has no value: {first_line(error)}.", f"Give {key}=….") from error


def _build(name: str, config: DictConfig) -> PseudoLabeler:
    options = {str(key): _resolved(config, f"labeler.{key}") for key in config.labeler}
    target = str(options.pop("_target_", None))
    if target.startswith(f"{plugins.ALIAS}."):
        plugins.make_importable(plugins.find())
    module, _, attribute = target.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise ConfigError(
            f"labeler {name}: _target_={target} cannot be imported: {first_line(error)}."
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, PseudoLabeler)):
        raise ConfigError(f"labeler {name}: _target_={target} is no PseudoLabeler.")
    plain = OmegaConf.to_container(OmegaConf.create(options), resolve=True)
    assert isinstance(plain, dict)
    check_options(kind, {str(key): value for key, value in plain.items()}, "labeler")
    try:
        return kind(**{str(key): value for key, value in plain.items()})
    except HarnessError:
        raise
    except Exception as error:
        raise ConfigError(f"labeler {name} cannot be built: {first_line(error)}.") from error

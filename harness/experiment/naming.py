"""A cell: method × data set × protocol × seed, and the name of its folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from harness.core.errors import ConfigError
from harness.data.augmentation_settings import DEFAULTS as IMAGES
from harness.experiment.init_from import find_init
from harness.experiment.joint_datasets import sections
from harness.experiment.protocol import LATER as BACKBONE
from harness.experiment.protocol import protocol_card

#: settings that change where or whether a cell runs, not what comes out
ELSEWHERE = ("store", "name", "force", "overwrite", "log", "device", "threads", "data")
#: options that came after the first records, with what held before: they are hashed only where they
#: say something else, so that finished cells keep their names
LATER: dict[str, dict[str, Any]] = {
    "optimizer": {
        "name": "adam", "momentum": 0.9, "nesterov": False, "warmup": 0, "warmup_start": 0.1,
        "steps": None, "reset_with_labels": False, "backbone_lr_mult": 1.0,
    },
    "train": {"label_every": 1, "compile": "off"},
    "images": IMAGES,
    "batch": {"sampler": "identity"},
    "dataset": {"total_images": None},
    "backbone": BACKBONE,
    "evaluation": {"label_free": None, "reference": None},
}


def portable_config(
    config: DictConfig, precision: str, teachers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The resolved configuration without anything of this machine: no paths, no device.

    Args:
        precision: resolved (never `auto`).
        teachers: stage → description of the finished network that it takes as its teacher.
    """
    return _portable(config, precision, teachers or {}, lambda path: path.name)


def _portable(
    config: DictConfig,
    precision: str,
    teachers: Mapping[str, str],
    written: Callable[[Path], str],
) -> dict[str, Any]:
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    for key in ELSEWHERE:
        plain.pop(key, None)
    for section in sections(plain["dataset"]):
        section.pop("root", None)
    plain["evaluation"].pop("keep_features", None)  # what is kept, not what comes out
    plain["train"]["precision"] = precision
    init = find_init(config)
    if init is not None:
        plain["init"] = f"{init.run.name} {init.stage} {init.digest}"  # however it was named
    for node in (plain, *(stage or {} for stage in plain["stages"].values())):
        train = node.get("train") or {}
        if train.pop("micro_batch", None) and not train:  # it changes what fits, not what comes out
            del node["train"]
    weights = protocol_card(config, precision)["weights"]
    if weights != "none" and not weights.startswith("imagenet"):
        plain["backbone"]["weights"] = weights
    if teachers:
        plain["teachers"] = dict(teachers)  # instead of however their runs were named
        for node in (plain, *(stage or {} for stage in plain["stages"].values())):
            if (node.get("distiller") or {}).get("teacher") is not None:
                node["distiller"]["teacher"] = "a finished run"
    return {str(key): _without_paths(value, written) for key, value in plain.items()}


def _without_paths(value: Any, written: Callable[[Path], str]) -> Any:
    """Absolute paths as `written` has them, however deep they stand."""
    if isinstance(value, dict):
        return {key: _without_paths(inner, written) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_paths(inner, written) for inner in value]
    if isinstance(value, str):
        path = Path(os.path.expanduser(value))  # noqa: PTH111 (Path's own refuses unknown users)
        return written(path) if path.is_absolute() else value
    return value


def _content(path: Path) -> str:
    """A file's name and digest: two files of one name are different settings."""
    if not path.is_file():
        return path.name
    return f"{path.name} {hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()}"


def run_name(config: DictConfig, precision: str, teachers: Mapping[str, str] | None = None) -> str:
    """`METHOD-DATASET-sSEED-HASH`: the hash tells apart cells that differ in any other setting.

    Raises:
        ConfigError: `name=` is no plain folder name.
    """
    if config.name:
        if not re.fullmatch(r"\w[\w.+-]*", str(config.name)):
            raise ConfigError(
                f"name={config.name} is no name of a folder.",
                "Use letters, digits, '.', '_', '+' and '-'; store= says where it lies.",
            )
        return str(config.name)
    settings = settings_hash(config, precision, teachers)
    return f"{config.method.name}-{config.dataset.name}-s{config.seed}-{settings}"


def settings_hash(
    config: DictConfig, precision: str, teachers: Mapping[str, str] | None = None
) -> str:
    """8 hex digits over all settings but the seed: runs that share them are repeats."""
    settings = _portable(config, precision, teachers or {}, _content)
    del settings["seed"]
    init = find_init(config)
    settings["init"] = init and init.digest
    if init is None:
        del settings["init"]  # it came after the first records
    for section, options in LATER.items():
        for key, before in options.items():
            if settings[section].get(key, before) == before:
                settings[section].pop(key, None)
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()

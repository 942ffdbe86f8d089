"""From a composed configuration to a plan: the recipe, what it refers to, its card and its name.

Everything outside the configuration is looked up here, once: runs that `init` and
`distiller.teacher` name, and files. Card and hash are then functions of plain data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from harness.components.backbones.weights import describe_weights, is_portable
from harness.core.errors import ConfigError
from harness.core.files import expanded, shown
from harness.core.hashing import hexdigest
from harness.core.options import options_of
from harness.experiment.finished_networks import FinishedNetwork, find_init, find_teachers
from harness.experiment.joint_datasets import sections
from harness.experiment.labelled_source import check_source
from harness.experiment.protocol import protocol_card
from harness.experiment.recipe import Recipe, make_recipe
from harness.experiment.stages import target_of

#: bytes of `name`, and of the names of the method and the data set; a folder's name has 255
LONGEST_NAME = 100
#: settings that change where or whether an experiment runs, but not its result
ELSEWHERE = ("store", "name", "overwrite", "log", "device", "threads", "data")
#: options added after the first records, where they change nothing: left out of config.json, so
#: that the same settings keep their hash
NEUTRAL: dict[str, dict[str, Any]] = {
    "optimizer": {"schedule": "step", "min_lr": 0.0, "layer_decay": 1.0, "clip": None},
    "batch": {"joint": False, "domain_norms": False},
    "backbone": {
        "freeze": [],
        "ibn": False,
        "branches": False,
        "stem": "patch",
        "part_tokens": 0,
        "part_fusion": "cat",
        "projection": None,
    },
    "labeler": {"classical_lists": False},
    "objective": {
        "triplet": "soft",
        "keep_rows": False,
        "hard_margin": 0.0,
        "hard_update": "hardest",
        "start": "mean",
        "reduce": "mean",
    },
}


@dataclass(frozen=True)
class Plan:
    """An experiment before it runs: method × data set × protocol × seed.

    config: as composed. init: the network of `init=RUN`. teachers: stage → the network of
    `distiller.teacher=RUN`. precision: resolved (never `auto`). card: the protocol card.
    settings: the resolved configuration without paths and device, for config.json.
    hash: of all settings but the seed.
    """

    config: DictConfig
    recipe: Recipe
    init: FinishedNetwork | None
    teachers: Mapping[str, FinishedNetwork]
    precision: str
    card: dict[str, Any]
    settings: dict[str, Any]
    hash: str

    @property
    def name(self) -> str:
        """The run's folder: `METHOD-DATASET-sSEED-HASH`, or `name=`."""
        c = self.config
        return str(c.name or f"{c.method.name}-{c.dataset.name}-s{c.seed}-{self.hash}")


def make_plan(config: DictConfig, precision: str) -> Plan:
    """Check a composed configuration and look up everything that it refers to.

    Args:
        precision: resolved (never `auto`).

    Raises:
        ConfigError: values out of range, parts that cannot be combined, runs or files that do not
            exist.
    """
    _find_weights_of_runs(config)
    recipe = make_recipe(config)
    check_source(config, recipe.stages)
    for key in ("name", "method.name", "dataset.name"):  # parts of the name of the run's folder
        check_name(key, str(OmegaConf.select(config, key) or ""))
    if is_portable(str(config.name or "")):
        raise ConfigError(
            f"name={config.name} cannot be the name of a run: backbone.weights={config.name} has "
            "another meaning.",
            "Choose another name.",
        )
    init, teachers = find_init(config), find_teachers(config, recipe.stages)
    kind = target_of(config.backbone._target_, "backbone")
    if "weights" not in config.backbone and any(o.name == "weights" for o in options_of(kind)):
        raise ConfigError("No value was given for backbone.weights.", "Give one, or none.")
    main = str(config.backbone.get("weights", "none"))
    own = [OmegaConf.select(config, f"stages.{s}.backbone.weights") for s in config.stages or {}]
    used = {main, *(str(weights) for weights in own if weights is not None)}
    weights = {value: describe_weights(value) for value in used if init is None or value != main}
    weights |= {} if init is None else {main: init.on_card}
    card = protocol_card(config, precision, weights)
    plain = _portable(config, precision, init, teachers, card["weights"])
    hashed = _with_paths_as(plain, _digests(plain))
    if init is not None:
        hashed["init"] = init.digest
    settings = _with_paths_as(plain, {path: Path(path).name for path in _paths(plain)})
    return Plan(config, recipe, init, teachers, precision, card, settings, settings_hash(hashed))


def check_name(key: str, name: str) -> None:
    """Refuse the value of an option that cannot be part of a folder's or a file's name.

    Raises:
        ConfigError: it has other characters, or is too long.
    """
    if name and not re.fullmatch(r"\w[\w.+-]*", name):
        raise ConfigError(
            f"{key}={shown(name)} is not a valid folder name.",
            "Use letters, digits, '.', '_', '+' and '-'; store=DIR chooses the parent folder.",
        )
    if len(name.encode()) > LONGEST_NAME:
        raise ConfigError(
            f"{key}={shown(name)} is too long for a folder name.",
            f"Use {LONGEST_NAME} bytes or fewer.",
        )


def _find_weights_of_runs(config: DictConfig) -> None:
    """Replace `backbone.weights=RUN`, the name of a finished run in the store, by its folder.

    Words such as `none` and `imagenet` keep their meaning, even if a folder has such a name.
    """
    store = expanded(str(config.store))
    stages = config.stages if isinstance(config.stages, DictConfig) else {}
    for key in ("backbone.weights", *(f"stages.{stage}.backbone.weights" for stage in stages)):
        name = str(OmegaConf.select(config, key) or "")
        folder = store / name
        if not name or is_portable(name) or "/" in name or Path(name).exists():
            continue
        if folder.is_dir():
            OmegaConf.update(config, key, str(folder))


def settings_hash(settings: Mapping[str, Any]) -> str:
    """8 hex digits over all settings but the seed: runs that share them are repeats."""
    held = {key: value for key, value in settings.items() if key != "seed"}
    return hexdigest([json.dumps(held, sort_keys=True, default=str).encode()], size=4)


def _portable(
    config: DictConfig,
    precision: str,
    init: FinishedNetwork | None,
    teachers: Mapping[str, FinishedNetwork],
    weights: str,
) -> dict[str, Any]:
    """The resolved configuration without what belongs to this machine, absolute paths excepted."""
    plain: Any = OmegaConf.to_container(config, resolve=True)
    for key in ELSEWHERE:
        plain.pop(key, None)
    if plain.get("source") is None:
        plain.pop("source", None)  # so that records of before there were sources keep their hash
    for section in [*sections(plain["dataset"]), plain.get("source") or {}]:
        section.pop("root", None)
    plain["evaluation"].pop("keep_features", None)  # changes what is kept, not the result
    plain["train"]["precision"] = precision
    if init is not None:
        plain["init"] = init.described  # however it was named
    nodes = [plain, *(stage or {} for stage in plain["stages"].values())]
    for node in nodes:
        train = node.get("train") or {}
        if train.pop("micro_batch", None) and not train:  # changes memory, not the result
            del node["train"]
        for section, values in NEUTRAL.items():
            own = node.get(section) or {}
            # a neutral value of a stage counts where it takes the place of another one at the top,
            # which is first and has lost its own neutral values
            top = (plain.get(section) or {}) if node is not plain else {}
            for key in [key for key in values if key in own and own[key] == values[key]]:
                if key not in top:
                    del own[key]
    if init is not None or not is_portable(str(config.backbone.get("weights", "none"))):
        plain["backbone"]["weights"] = weights
    if teachers:
        plain["teachers"] = {stage: network.described for stage, network in teachers.items()}
        for node in nodes:
            if (node.get("distiller") or {}).get("teacher") is not None:
                node["distiller"]["teacher"] = "a finished run"
    return {str(key): value for key, value in plain.items()}


def _paths(node: Any) -> Iterator[str]:
    """All strings that are absolute paths, at any depth."""
    if isinstance(node, dict | list):
        for inner in node.values() if isinstance(node, dict) else node:
            yield from _paths(inner)
    elif isinstance(node, str) and expanded(node).is_absolute():
        yield node


def _digests(node: dict[str, Any]) -> dict[str, str]:
    """Path → the file's name and the digest of its content: files of one name may differ."""
    digests = {}
    for value in _paths(node):
        path = expanded(value)
        digests[value] = path.name
        if path.is_file():
            digests[value] += f" {hexdigest([path.read_bytes()], size=8)}"
    return digests


def _with_paths_as(node: Any, names: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: _with_paths_as(value, names) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_paths_as(value, names) for value in node]
    return names.get(node, node) if isinstance(node, str) else node

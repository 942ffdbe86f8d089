"""What a search has found, as a preset: `harness run method=… +search=NAME`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from harness.core.files import write_text
from harness.experiment.search.plan import PARTS, Plan
from harness.experiment.search.space import Values


def tuned(plan: Plan, trials: int, name: str | None = None) -> dict[str, Any]:
    """How settings were found: a section of the configuration, on the card of what is run with it.

    Args:
        trials: how many there were. name: of the preset, if it is not the search's best.
    """
    return {
        "search": name or plan.settings.name,
        "method": plan.recipe.method,
        "criterion": plan.settings.criterion,
        "by": plan.settings.optimised,
        "trials": trials,
    }


def with_tuned(plan: Plan, values: Values, trials: int) -> DictConfig:
    """The configuration of `+search=NAME`."""
    config = plan.compose(values)
    config.tuned = tuned(plan, trials)
    return config


def write_preset(path: Path, plan: Plan, values: Values, trials: int, name: str, note: str) -> None:
    """Write a preset.

    Args:
        name: for `+search=`. note: what these values are, in a sentence.
    """
    parts = {key: value for key, value in values.items() if key in PARTS}
    rest = OmegaConf.create({})
    for key, value in values.items():
        if key not in parts:
            OmegaConf.update(rest, key, value, force_add=True)
    node: dict[str, Any] = {}
    if parts:
        node["defaults"] = [{f"override /{part}": option} for part, option in parts.items()]
    node["tuned"] = tuned(plan, trials, name)
    settings = OmegaConf.to_container(rest)
    assert isinstance(settings, dict)
    # `override` entries come first in a file; the rest is merged over the method and the protocol
    text = yaml.safe_dump(node | settings, sort_keys=False, allow_unicode=True, width=100)
    write_text(path, f"# @package _global_\n# {note}\n{text}")

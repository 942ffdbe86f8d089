"""Settings found by `harness search`: checks, and how cards and tables mark them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from harness.core.errors import ConfigError

#: marks rows whose settings were selected by test mAP
ORACLE = "on the test set (oracle)"
KEYS = ("search", "method", "criterion", "by", "trials")


def check_tuned(config: DictConfig) -> None:
    """Check the section `tuned` of a `+search=NAME` preset.

    Raises ConfigError if it is incomplete, or was found for another method.
    """
    tuned = config.get("tuned")
    if tuned is None:
        return
    if not isinstance(tuned, DictConfig) or set(tuned) != set(KEYS):
        raise ConfigError(
            f"tuned={tuned} cannot be set by hand: harness search writes it.",
            "Choose a preset: +search=NAME.",
        )
    if tuned.method != config.method.name:
        raise ConfigError(
            f"+search={tuned.search} was found for {tuned.method}, not for {config.method.name}.",
            "Set individual options instead, e.g. labeler.eps=….",
        )


def describe_tuned(config: DictConfig) -> dict[str, Any] | None:
    """The protocol card's entry on the search; None without one."""
    tuned = config.get("tuned")
    if tuned is None:
        return None
    plain = OmegaConf.to_container(tuned, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key != "method"}


def row_mark(card: Mapping[str, Any]) -> str:
    """The mark of a table row whose settings a search found; '' for others."""
    tuned = card.get("tuned")
    if not tuned:
        return ""
    on_test = f" {ORACLE}" if tuned["criterion"] == "oracle" else ""
    return f"tuned{on_test}: {tuned['search']}"

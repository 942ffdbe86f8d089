"""Settings that a search has found say so, in the configuration, on the card and in every table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from harness.core.errors import ConfigError

#: what stands in the row of settings that were chosen by test mAP
ORACLE = "on the test set (oracle)"
KEYS = ("search", "method", "criterion", "by", "trials")


def check_tuned(config: DictConfig) -> None:
    """Whether `tuned`, which presets of `+search=NAME` have, is whole, and of this method.

    Raises:
        ConfigError: it is not.
    """
    tuned = config.get("tuned")
    if tuned is None:
        return
    if not isinstance(tuned, DictConfig) or set(tuned) != set(KEYS):
        raise ConfigError(
            f"tuned={tuned} is written by harness search.", "Choose a preset: +search=NAME."
        )
    if tuned.method != config.method.name:
        raise ConfigError(
            f"+search={tuned.search} was found for {tuned.method}, not for {config.method.name}.",
            "Give single values instead: labeler.eps=… and the like.",
        )


def describe_tuned(config: DictConfig) -> dict[str, Any] | None:
    """What the protocol card says of a search; None where there was none."""
    tuned = config.get("tuned")
    if tuned is None:
        return None
    plain = OmegaConf.to_container(tuned, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key != "method"}


def row_mark(card: Mapping[str, Any]) -> str:
    """What a table's row says of a search, '' where there was none; the oracle is named."""
    tuned = card.get("tuned")
    if not tuned:
        return ""
    on_test = f" {ORACLE}" if tuned["criterion"] == "oracle" else ""
    return f"tuned{on_test}: {tuned['search']}"

"""Which parts can be combined: what one requires of another."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from harness.core.errors import ConfigError
from harness.core.views import POOLED


def check_combination(config: DictConfig, objective: Any, distiller: Any | None) -> None:
    """Refuse parts of a stage that cannot be combined.

    Args:
        config: of the stage. objective, distiller: their classes, or functions that build them.

    Raises:
        ConfigError: with the reason, and what to change.
    """
    _check_pooled(config, objective)
    if getattr(distiller, "needs_classifier", False) and not getattr(
        objective, "has_classifier", False
    ):
        raise ConfigError(
            f"{_name(distiller)} needs class scores, but {_name(objective)} has no classifier.",
            "Choose objective=softmax_triplet, or another distiller.",
        )


def _check_pooled(config: DictConfig, objective: Any) -> None:
    """Check the view `pooled`: only some objectives use it, and it is not a part of the image."""
    views = list(config.backbone.get("views", []))
    takes = getattr(objective, "needs_pooled", None)
    wanted = takes is not None and takes(config.objective)
    if wanted and (not views or views[-1] != POOLED):
        raise ConfigError(
            f"objective.before_neck=true needs the view '{POOLED}', but backbone.views={views}.",
            f"Set backbone.views=[{','.join([*views, POOLED])}], or objective.before_neck=false.",
        )
    if POOLED in views and not wanted:
        raise ConfigError(
            f"backbone.views={views}, but {_name(objective)} does not use '{POOLED}'.",
            f"Set backbone.views=[{','.join(view for view in views if view != POOLED)}].",
        )
    if wanted and config.labeler.get("part_weight"):
        raise ConfigError(
            f"labeler.part_weight={config.labeler.part_weight} cannot be combined with the view "
            f"'{POOLED}'.",
            "Set labeler.part_weight=0.",
        )


def _name(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind))

"""`${…}` of our own for configuration files. Importing this module makes them known."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from harness.core.views import count_parts


def if_parts(value: float, *, _root_: DictConfig) -> float:
    """`${if_parts:0.2}`: the value where the backbone has part views, else 0.

    A part view that no loss weighs is never trained, and nobody would see it. So objectives weigh
    parts as MSKD does (λ2 = 0.2) as soon as there are any.
    """
    backbone = _root_.get("backbone")
    views = backbone.get("views") if isinstance(backbone, DictConfig) else None
    return value if views is not None and count_parts(views) else 0.0


OmegaConf.register_new_resolver("if_parts", if_parts, replace=True)

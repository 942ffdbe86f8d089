"""Variants of a method: files beside its config that say what they change, and a name of their own.

`methods/mskd/variants/no_views.yaml` is chosen by `method=mskd/no_views`. It is the method's config
with the file's changes on top, and calls itself `mskd_no_views`: in folders, records and tables.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

#: the parts whose options differ, and what conf/config.yaml chooses unless a method does
PARTS = {"labeler": "jaccard_dbscan", "objective": "cluster_memory", "distiller": "none"}


def overridden(node: DictConfig) -> dict[str, Any]:
    """Group → option, of the `override /GROUP: OPTION` in a config's defaults list."""
    entries = [entry for entry in node.get("defaults") or [] if isinstance(entry, DictConfig)]
    return {
        str(key).removeprefix("override /"): value
        for entry in entries
        for key, value in entry.items()
    }


def chosen_parts(node: DictConfig) -> dict[str, Any]:
    """Part → the option that a method has for it."""
    chosen = {**PARTS, **overridden(node)}
    return {part: chosen[part] for part in PARTS}


def vary(base: DictConfig, changes: DictConfig, name: str) -> DictConfig:
    """A method's config with a variant's changes, to be registered as a method's own is.

    - Keys are merged; what the variant overrides goes before what the method does.
    - What the method says of a part is left out where the variant chooses another part.
    - `stages`, if the variant names them, are all its stages.

    Args:
        base: the method's config. changes: the variant's. name: what `method.name` becomes.
    """
    base = base.copy()
    groups = {**overridden(base), **overridden(changes)}
    for part, option in chosen_parts(base).items():
        if groups.get(part, option) != option:
            base.pop(part, None)
            if OmegaConf.select(base, f"search.space.{part}") is not None:
                base.search.space.pop(part)
    if "stages" in changes:
        base.pop("stages", None)
    merged = OmegaConf.merge(base, changes, {"method": {"name": name}})
    assert isinstance(merged, DictConfig)
    merged["defaults"] = [{f"override /{group}": option} for group, option in groups.items()]
    return merged

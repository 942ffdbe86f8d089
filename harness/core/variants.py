"""Variants of a method: configuration files with changes to the method's own.

`method=mskd/no_views` is the config of `mskd` with the changes in
`methods/mskd/variants/no_views.yaml`. Folders, records and tables name it `mskd_no_views`.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

#: parts of a method, and their defaults in conf/config.yaml
PARTS = {"labeler": "jaccard_dbscan", "objective": "cluster_memory", "distiller": "none"}


def overridden(node: DictConfig) -> dict[str, Any]:
    """Group → option, from the entries `override /GROUP: OPTION` of a config's defaults list."""
    entries = [entry for entry in node.get("defaults") or [] if isinstance(entry, DictConfig)]
    pairs = (pair for entry in entries for pair in entry.items())
    return {str(key).removeprefix("override /"): value for key, value in pairs}


def chosen_parts(node: DictConfig) -> dict[str, Any]:
    """Part → the option that a method chooses for it."""
    chosen = {**PARTS, **overridden(node)}
    return {part: chosen[part] for part in PARTS}


def vary(base: DictConfig, changes: DictConfig, name: str) -> DictConfig:
    """A method's config with a variant's changes, in which `method.name` becomes `name`.

    - Keys are merged, and overrides of the variant win.
    - The method's settings for a part are dropped if the variant chooses another part.
    - If the variant has `stages`, they replace all stages of the method, those under `published`
      included.
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
        if "stages" in (base.get("published") or {}):
            base.published.pop("stages")
            if not base.published:
                base.pop("published")
    merged = OmegaConf.merge(base, changes, {"method": {"name": name}})
    assert isinstance(merged, DictConfig)
    merged["defaults"] = [{f"override /{group}": option} for group, option in groups.items()]
    return merged

"""What a row of a table is called: a method, what it is crossed with, and which variant it is."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from harness.core import plugins
from harness.core.errors import HarnessError
from harness.core.paths import CONF
from harness.core.variants import chosen_parts, vary
from harness.results.store import Run


def crossings(runs: pd.DataFrame, store: Path) -> pd.Series:
    """'' where a run has its method's own parts; else the others, as `distiller=none`.

    A method with another labeler, objective or distiller is another method: its row says so even
    if it is the only one, and no published number stands beside it. Runs of methods that are no
    longer there, or that left no configuration, count as what they call themselves.
    """
    own = _own_targets()
    found = {}
    for run, method in runs[["run", "method"]].drop_duplicates().itertuples(index=False):
        found[run] = ""
        if method in own:
            if (config := config_or_none(store / str(run))) is None:
                continue
            has = flat({part: config.get(part) for part in own[method]})
            found[run] = ", ".join(
                f"{part}={_option(part, has[f'{part}._target_'])}"
                for part, target in own[method].items()
                if has.get(f"{part}._target_", target) != target
            )
    return runs["run"].map(found)


def _own_targets() -> dict[str, dict[str, str | None]]:
    """Name of a method or variant → part → what builds it, as their configs have it."""
    found = {}
    for plugin in plugins.find()["methods"].values():
        node = plugins.load_config(plugin.folder / "config.yaml")
        nodes = {str(OmegaConf.select(node, "method.name") or plugin.name): node}
        for variant, path in plugin.variants.items():
            name = f"{plugin.name}_{variant}"
            nodes[name] = vary(node, plugins.load_config(path), name)
        for name, config in nodes.items():
            found[name] = dict(_targets(config))
    return found


def _targets(config: DictConfig) -> Iterator[tuple[str, str | None]]:
    """(part, what builds it) of a method's config, where that can be told."""
    for part, option in chosen_parts(config).items():
        target = OmegaConf.select(config, f"{part}._target_")
        if target is not None:
            yield part, str(target)
        elif str(option) in _options(part):
            yield part, _options(part)[str(option)]


@cache
def _options(part: str) -> dict[str, str | None]:
    """Option → what it builds, of the harness's own options for a part."""
    files = sorted((CONF / part).glob("*.yaml"))
    return {path.stem: OmegaConf.select(OmegaConf.load(path), "_target_") for path in files}


def _option(part: str, target: str | None) -> str:
    """What a part is called: its option, or its class where no option builds it."""
    names = [name for name, built in _options(part).items() if built == target]
    return names[0] if names else str(target).rsplit(".", 1)[-1]


def variants(runs: pd.DataFrame, store: Path, shown: Collection[str] = ()) -> pd.Series:
    """'' where a row has one configuration; else what sets each apart, as `key=value`.

    Cells of one method, crossing and protocol that differ in anything but the seed are never
    averaged.

    Args:
        runs: with the columns `crossing` and `tuned`. shown: keys whose values stand elsewhere in
            the table.
    """
    found = pd.Series("", index=runs.index)
    for _, group in runs.groupby(["method", "crossing", "tuned"]):
        if group["settings"].nunique() == 1:
            continue
        first = group.drop_duplicates("settings")
        configs = {
            str(row.settings): flat(config_or_none(store / str(row.run)) or {})
            for row in first.itertuples()
        }
        keys = sorted({key for config in configs.values() for key in config} - {"seed", "name"})
        differ = [k for k in keys if len({str(c.get(k)) for c in configs.values()}) > 1]
        apart = [k for k in differ if k not in shown]
        labels = {
            settings: ", ".join(f"{k}={config.get(k)}" for k in apart[:3])
            for settings, config in configs.items()
        }
        told = {
            (label, *(str(configs[settings].get(k)) for k in shown))
            for settings, label in labels.items()
        }
        if len(told) < len(labels):  # three keys do not tell them apart, or none does
            labels = {settings: settings for settings in labels}
        found[group.index] = group["settings"].map(labels)
    return found


def config_or_none(folder: Path) -> dict[str, Any] | None:
    """A run's configuration, None if it cannot be read: its record is a result all the same."""
    try:
        return Run(folder).config()
    except HarnessError:
        return None


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys."""
    if not isinstance(node, dict):
        return {prefix.removesuffix("."): node}
    return {k: v for key, inner in node.items() for k, v in flat(inner, f"{prefix}{key}.").items()}

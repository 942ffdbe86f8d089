"""Row labels: the method, parts that are not its own, and options that differ from its defaults.

`mskd`, `mskd (teacher)`, `mskd [distiller=none]`, `mskd [eps=0.5, k1=20]`. Methods, parts and
defaults are read from configuration files as text; nothing of them is imported.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from harness.core import plugins
from harness.core.errors import HarnessError
from harness.core.paths import CONF
from harness.core.variants import PROTOCOL_BLOCKS, overridden, own_parts, vary
from harness.core.views import count_parts
from harness.results.store import Run

if TYPE_CHECKING:
    import pandas as pd

#: a configuration as dotted keys
Flat = Mapping[str, Any]
#: options that a label names, and characters of a value that it shows
MAX_OPTIONS, MAX_VALUE = 3, 24


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys."""
    if not isinstance(node, dict):
        return {prefix.removesuffix("."): node}
    return {k: v for key, inner in node.items() for k, v in flat(inner, f"{prefix}{key}.").items()}


def configurations(names: Iterable[object], store: Path) -> dict[str, Flat]:
    """Run → its configuration; empty if it cannot be read."""
    found: dict[str, Flat] = {}
    for name in dict.fromkeys(map(str, names)):
        try:
            found[name] = flat(Run(store / name).config())
        except (HarnessError, RecursionError):
            found[name] = {}
    return found


def add_row_labels(
    runs: pd.DataFrame, configs: Mapping[str, Flat], tables: Sequence[str],
    shown: Collection[str] = (),
) -> pd.DataFrame:  # fmt: skip
    """Runs with `method` as the label, the method's `name`, and `crossing`: parts that are not the
    method's own, as `distiller=none`, else ''. A method with another labeler, objective or
    distiller is another method, even if it is the only row.

    Options are part of a label only where runs of the method differ in them, and only if they are
    not the method's defaults. Runs that differ in anything but the seed never share a label.

    Args:
        runs: as of `store.frame`. configs: of `configurations`. tables: columns that separate
            tables. shown: fields that have a column of their own in the table.
    """
    import pandas as pd  # slow to import, and other functions here do without

    known = plugins.find()["methods"].values()
    recipes = {method: recipe(str(method), known) for method in runs["method"].unique()}
    crossing = []
    for run, method in zip(runs["run"], runs["method"], strict=True):
        foreign = foreign_parts(recipes[method], configs[run])
        crossing.append(", ".join(f"{part}={option}" for part, option in foreign.items()))
    runs = runs.assign(crossing=crossing, name=runs["method"], options="")
    for (method, *_), group in runs.groupby(["method", *tables, "crossing", "tuned"]):
        if group["settings"].nunique() > 1:
            first = group.drop_duplicates("settings").set_index("settings")["run"]
            variants = {str(settings): configs[run] for settings, run in first.items()}
            texts = _variants(variants, recipes[method], shown)
            runs.loc[group.index, "options"] = group["settings"].map(texts)
    stage = (" (" + runs["stage"] + ")").mask(runs["final"] | ("stage" in shown), "")
    parts = runs[["crossing", "options", "tuned"]].itertuples(index=False)
    apart = pd.Series([", ".join(filter(None, row)) for row in parts], index=runs.index)
    runs["method"] += stage + (" [" + apart + "]").mask(apart == "", "")
    return runs.drop(columns="options")


def recipe(method: str, known: Iterable[plugins.Plugin]) -> DictConfig | None:
    """The configuration of a method or variant; None if it is not among those known."""
    for plugin in known:
        if method == plugin.name:
            return plugins.load_config(plugin.folder / "config.yaml")
        if path := plugin.variants.get(method.removeprefix(f"{plugin.name}_")):
            node = plugins.load_config(plugin.folder / "config.yaml")
            return vary(node, plugins.load_config(path), method)
    return None


_load = cache(plugins.load_config)


def _settings(part: str, option: str) -> DictConfig:
    """An option's settings, with those that its defaults list names; empty if it belongs to a
    plug-in folder that is not given.
    """
    own = CONF / part / f"{option}.yaml"
    path = own if own.is_file() else plugins.options(part).get(option)
    node = _load(path) if path else OmegaConf.create()
    below = [other for other in node.get("defaults") or [] if other != "_self_"]
    merged = OmegaConf.merge(*(_settings(part, str(other)) for other in below), node)
    assert isinstance(merged, DictConfig)
    return merged


def part_option(part: str, target: object) -> str:
    """The option that builds a part; its class's name where there is none."""
    names = (path.stem for path in sorted((CONF / part).glob("*.yaml")))
    found = (name for name in names if _settings(part, name).get("_target_") == target)
    return next(found, str(target).rsplit(".", 1)[-1])


def foreign_parts(node: DictConfig | None, config: Flat) -> dict[str, str]:
    """Part → option, of the parts of a run that are not its method's own.

    The backbone is a part of the methods that choose one; of the others, the protocol chooses it.
    """
    found: dict[str, str] = {}
    if node is None:
        return found
    for part, option in own_parts(node).items():
        settings = _settings(part, str(option))
        own = OmegaConf.select(node, f"{part}._target_") or settings.get("_target_")
        known = own is not None or "_target_" in settings  # `none` has the target null
        if known and (has := config.get(f"{part}._target_", own)) != own:
            named = config.get("backbone.arch") or config.get("backbone.model")
            found[part] = str(named) if part == "backbone" and named else part_option(part, has)
    return found


def _variants(
    variants: Mapping[str, Flat], node: DictConfig | None, shown: Collection[str]
) -> dict[str, str]:
    """Settings → the options that set them apart."""
    keys = sorted({key for config in variants.values() for key in config} - {"seed", "name"})
    keys = [key for key in keys if len({str(c.get(key)) for c in variants.values()}) > 1]
    default = {} if node is None else defaults(node, next(iter(variants.values())))
    options = [key for key in keys if key not in shown]
    changed = {
        settings: {
            k: config[k] for k in options if k in config and not is_default(k, config, default)
        }
        for settings, config in variants.items()
    }
    named = [key for key in keys if any(key in values for values in changed.values())]
    short = {settings: _texts(values, named) for settings, values in changed.items()}
    rows = {s: (short[s], *(str(c.get(key)) for key in shown)) for s, c in variants.items()}
    count = Counter(rows.values())
    # settings that these options do not set apart are named by their hash
    return short | {s: s for s, config in variants.items() if count[rows[s]] > 1 or not config}


def _texts(values: Flat, keys: Sequence[str]) -> str:
    texts = [_text(key, value, keys) for key, value in values.items()]
    return ", ".join([*texts[:MAX_OPTIONS], *["…"] * (len(texts) > MAX_OPTIONS)])


def _text(key: str, value: object, keys: Sequence[str]) -> str:
    """`labeler.eps=0.5` as short as it is clear among the keys of a table: `eps=0.5`."""
    part, _, last = key.rpartition(".")
    if last == "_target_":
        return f"{part}={part_option(part, value)}"
    words = key.split(".")
    if words[0] == "source":  # `seed` alone would be the run's
        words = [key]
    endings = (".".join(words[place:]) for place in range(len(words) - 1, -1, -1))
    name = next(e for e in endings if sum(f".{other}".endswith(f".{e}") for other in keys) == 1)
    text = str(value).rsplit("/", 1)[-1]
    return f"{name}={text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 1] + '…'}"


def defaults(node: DictConfig, config: Flat) -> dict[str, Any]:
    """The defaults of a method as dotted keys, composed as conf/config.yaml says, for the parts,
    protocol and data set that a run has. Interpolations stay as text.
    """
    name = config.get("protocol.name")
    protocol = [n for group in ("protocol", "experiment") for n in _file(CONF / group, name)]
    groups = {"backbone": "resnet50"}
    for changes in protocol:
        groups |= overridden(changes)
    foreign = foreign_parts(node, config)
    parts = {"backbone": groups["backbone"], **own_parts(node), **foreign}
    layers: list[Any] = [_load(CONF / "config.yaml")]
    layers += [{part: _settings(part, str(option))} for part, option in parts.items()]
    layers.append(OmegaConf.masked_copy(node, [str(key) for key in node if key not in foreign]))
    layers += protocol
    layers += _file(CONF / "backbone_overrides", parts["backbone"])
    if "backbone" not in foreign:
        layers += [
            node.get(block, {}) for block, (held, _) in PROTOCOL_BLOCKS.items() if name in held
        ]
    layers.append({"source": None})
    datasets = plugins.find()["datasets"]
    for section in ("dataset", "source"):
        called = str(config.get(f"{section}.name")), str(config.get(f"{section}._target_"))
        dataset = datasets.get(plugins.dataset_name(*called, datasets))
        if dataset is not None:
            layers.append({section: plugins.load_config(dataset.folder / "config.yaml")})
    found: dict[str, Any] = {}
    for layer in layers:
        found |= flat(OmegaConf.to_container(OmegaConf.create(layer)))
    return found


def _file(folder: Path, name: object) -> Iterator[DictConfig]:
    """A configuration file, after those that its defaults list names: `[demo, _self_]`."""
    if (folder / f"{name}.yaml").is_file():
        node = plugins.load_config(folder / f"{name}.yaml")
        for other in node.get("defaults") or []:
            yield from _file(folder, other)
        yield node


def is_default(key: str, config: Flat, default: Flat) -> bool:
    """Whether an option of a run is its default, which may follow the run's other options."""
    return key in default and bool(config.get(key) == _resolved(default[key], config))


def _resolved(value: Any, config: Flat) -> Any:
    """A default, its interpolation evaluated with the options of a run."""
    if isinstance(value, list):
        return [_resolved(each, config) for each in value]
    if not isinstance(value, str) or not value.startswith("${"):
        return value
    if found := re.fullmatch(r"\$\{([\w.]+)\}", value):
        return config.get(found[1])
    if found := re.fullmatch(r"\$\{oc\.select:([\w.]+),(.*)\}", value):
        return config.get(found[1], _resolved(found[2], config))
    if found := re.fullmatch(r"\$\{if_parts:([\d.]+)\}", value):
        return float(found[1]) if count_parts(config.get("backbone.views") or []) else 0.0
    return value

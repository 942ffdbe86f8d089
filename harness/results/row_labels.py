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
from harness.core.variants import PARTS, PROTOCOL_BLOCKS, overridden, own_parts, vary
from harness.core.views import count_parts
from harness.results.store import Run

if TYPE_CHECKING:
    import pandas as pd

#: a configuration as dotted keys
Flat = Mapping[str, Any]
OF_PARTS = tuple(f"{part}." for part in PARTS)
#: options of the method: the protocol card does not hold them equal, so labels name them
OWN = (*OF_PARTS, "neighbours.", "stages.", "backbone.views",
       "batch.joint", "batch.domain_norms", "train.label_every", "train.warmup_")  # fmt: skip
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
    """Runs with `method` as the label, the method's `name`, and `changed`: parts that are not the
    method's own, as `distiller=none`, and options that are not its defaults, as far as its label
    names them, else ''. A method with another labeler, objective or distiller is another method,
    and one with other options a variant, even if it is the only row.

    Options are part of a label if they are the method's own (`OWN`) or runs of the method differ in
    them, and only if they are not the method's defaults. Of runs whose settings a search found, the
    search is named, and only options that set them apart. Runs that differ in anything but the seed
    never share a label.

    Args:
        runs: as of `store.frame`. configs: of `configurations`. tables: columns that separate
            tables. shown: fields that have a column of their own in the table.
    """
    known = plugins.find()["methods"].values()
    recipes = {method: recipe(str(method), known) for method in runs["method"].unique()}
    crossing = []
    for run, method in zip(runs["run"], runs["method"], strict=True):
        foreign = foreign_parts(recipes[method], configs[run])
        crossing.append(", ".join(f"{part}={option}" for part, option in foreign.items()))
    runs = runs.assign(crossing=crossing, name=runs["method"], named="", options="")
    for (method, *_, tuned), group in runs.groupby(["method", *tables, "crossing", "tuned"]):
        first = group.drop_duplicates("settings").set_index("settings")["run"]
        variants = {str(settings): configs[run] for settings, run in first.items()}
        named = _changed(variants, recipes[method], shown, () if tuned else OWN)
        texts = _told_apart(variants, named, shown)
        runs.loc[group.index, "named"] = group["settings"].map(named)
        runs.loc[group.index, "options"] = group["settings"].map(texts)
    stage = (" (" + runs["stage"] + ")").mask(runs["final"] | ("stage" in shown), "")
    apart = _joined(runs[["crossing", "options", "tuned"]])
    runs["changed"] = _joined(runs[["crossing", "named"]])
    runs["method"] += stage + (" [" + apart + "]").mask(apart == "", "")
    return runs.drop(columns=["crossing", "named", "options"])


def _joined(columns: pd.DataFrame) -> pd.Series:
    """Texts of columns, separated by commas; empty ones are left out."""
    rows = columns.itertuples(index=False)
    return columns.iloc[:, 0].map(lambda _: ", ".join(filter(None, next(rows))))


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


def _changed(
    variants: Mapping[str, Flat], node: DictConfig | None, shown: Collection[str],
    own: tuple[str, ...],
) -> dict[str, str]:  # fmt: skip
    """Settings → the options that are not the method's defaults: those that begin with `own`, and
    those in which the settings differ.
    """
    keys = sorted({key for config in variants.values() for key in config} - {"seed", "name"})
    readable = next(filter(None, variants.values()), {})
    default = {} if node is None or not readable else defaults(node, readable)
    # where a plug-in folder is not given, neither are the defaults of its methods and parts
    own = tuple(o for o in own if default and (o not in OF_PARTS or _holds(default, o)))
    keys = [
        key
        for key in keys
        if key.startswith(own) or len({str(c.get(key)) for c in variants.values()}) > 1
    ]
    options = [key for key in keys if key not in shown]
    changed = {
        settings: {
            k: config[k]
            for k in options
            if k in config and not is_default(k, {**default, **config}, default)
        }
        for settings, config in variants.items()
    }
    named = [key for key in keys if any(key in values for values in changed.values())]
    return {settings: _texts(values, named) for settings, values in changed.items()}


def _holds(config: Flat, prefix: str) -> bool:
    return any(key.startswith(prefix) for key in config)


def _told_apart(
    variants: Mapping[str, Flat], named: Mapping[str, str], shown: Collection[str]
) -> dict[str, str]:
    """Settings → the options that are `named`; their hash where these do not set them apart."""
    rows = {s: (named[s], *(str(c.get(key)) for key in shown)) for s, c in variants.items()}
    count, several = Counter(rows.values()), len(variants) > 1
    return {
        s: s if count[rows[s]] > 1 or (several and not config) else named[s]
        for s, config in variants.items()
    }


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
    text = f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)
    text = text.rsplit("/", 1)[-1]  # of a path its name
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
    layers: list[tuple[str, Any]] = [("", _load(CONF / "config.yaml"))]
    layers += [(f"{part}.", _settings(part, str(option))) for part, option in parts.items()]
    layers.append(("", OmegaConf.masked_copy(node, [str(k) for k in node if k not in foreign])))
    layers += [("", changes) for changes in protocol]
    layers += [("", changes) for changes in _file(CONF / "backbone_overrides", parts["backbone"])]
    if "backbone" not in foreign:
        layers += [
            ("", node[block])
            for block, (held, _) in PROTOCOL_BLOCKS.items()
            if name in held and block in node
        ]
    layers.append(("", {"source": None}))
    datasets = plugins.find()["datasets"]
    for section in ("dataset", "source"):
        called = str(config.get(f"{section}.name")), str(config.get(f"{section}._target_"))
        dataset = datasets.get(plugins.dataset_name(*called, datasets))
        if dataset is not None:
            layers.append((f"{section}.", _load(dataset.folder / "config.yaml")))
    found: dict[str, Any] = {}
    for prefix, layer in layers:
        plain = OmegaConf.to_container(layer) if isinstance(layer, DictConfig) else layer
        found |= flat(plain, prefix)
    return found


def _file(folder: Path, name: object) -> Iterator[DictConfig]:
    """A configuration file, after those that its defaults list names: `[demo, _self_]`."""
    if (folder / f"{name}.yaml").is_file():
        node = _load(folder / f"{name}.yaml")
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

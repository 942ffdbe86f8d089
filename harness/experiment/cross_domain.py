"""Cross-domain results: models tested on other data than they were trained on.

`harness eval RUN dataset=OTHER --save` writes a result beside the record, which stays unchanged:

results/runs/mskd-market1501-s0-1a2b3c4d/
    record.json                      trained on market1501, tested on market1501
    eval-msmt17-5e6f7a8b.json        the same network, tested on msmt17
    eval-msmt17-5e6f7a8b.npz         average precision and first match of every query
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from harness.core.errors import ConfigError, did_you_mean
from harness.core.files import expanded, read_json, write_atomically, write_json
from harness.core.hashing import card_hash, hexdigest
from harness.core.metrics import METRICS
from harness.results import schema, settings
from harness.results.comparisons import caption, filtered, no_finished_runs
from harness.results.pivots import check_metrics, pivoted
from harness.results.published import TITLES
from harness.results.row_labels import add_row_labels, configurations
from harness.results.store import (
    SCHEMA,
    UNREADABLE_JSON,
    Run,
    Store,
    describe,
    trained_on,
)
from harness.results.table_model import Table

if TYPE_CHECKING:
    from harness.evaluation.evaluator import Evaluator
    from harness.evaluation.protocol import EvaluationProtocol

PREFIX = "eval-"
#: what a title says of a setting
_WORDS = {
    settings.UDA: "domain adaptation with a labeled source (UDA), ",
    settings.SUPERVISED: "supervised, ",
}


def save(
    run: Run, stage: str, evaluator: Evaluator, rule: EvaluationProtocol, dataset: Mapping[str, Any]
) -> Path:
    """Write a result beside a run's record. One of the same images and rule is replaced.

    `evaluator` has tested by `rule`; `dataset` is the section of what it tested on.
    """
    from harness.experiment.protocol import evaluation_rule  # imports torch, tables do without
    from harness.experiment.run_files import query_arrays

    assert evaluator.last is not None
    card = dict(run.record["protocol"])
    card["evaluation"] = evaluation_rule(bool(dataset.get("tracks")), rule.rerank) + rule.unusual
    card["hash"] = card_hash(card)
    data, ranking = evaluator.data, evaluator.last
    first = evaluator.parts[0] if evaluator.parts else {}  # of joined sets, the one tested on
    name = str(first.get("name", data.name))
    fingerprint = str(first.get("fingerprint", evaluator.fingerprint))
    result = {
        "schema": SCHEMA,
        "run": run.name,
        "stage": stage,
        "trained_on": trained_on(run.record),
        "tested_on": name,
        "protocol": card,
        "metrics": ranking.as_dict() | rule.metrics(ranking),
        "dataset": {
            "name": name,
            "fingerprint": fingerprint,
            "query": len(data.query.images),
            "gallery": len(data.gallery.images),
            "unreadable": evaluator.skipped,
            "not_as_published": evaluator.differences,
            "notes": dict(data.notes),
        },
        "finished": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    digest = hexdigest([f"{stage}/{fingerprint}/{card['hash']}".encode()], size=4)
    path = run.folder / f"{PREFIX}{name}-{digest}.json"
    arrays: Any = query_arrays(stage, evaluator)
    write_atomically(path.with_suffix(".npz"), lambda file: np.savez_compressed(file, **arrays))
    write_json(path, result)
    return path


def results(run: Run) -> Iterator[dict[str, Any]]:
    """What was saved beside a run's record; unreadable files are left out."""
    for path in sorted(run.folder.glob(f"{PREFIX}*.json")):
        try:
            result = read_json(path)
        except UNREADABLE_JSON:
            continue
        if schema.is_evaluation(result):
            yield result


def load(store: str | Path = "results/runs") -> pd.DataFrame:
    """Networks of last stages by what they were tested on: the test of the run itself, and the
    results of `harness eval --save`. Each experiment counts once, whatever its runs are called.

    Columns: those of `harness.results.store.describe` and stage, final, trained_on, trained_data
    (fingerprints of what it was trained on, '' if untrained), network (the hash of its settings),
    tested_on, data (fingerprint of what was tested on), card, images_per_second (missing), and the
    metrics.
    """
    runs = [run for run in Store(Path(store)).runs() if run.finished]
    hashes = {run.name: run.record["settings"] for run in runs}
    rows = []
    for run in runs:
        record, last = run.record, list(run.record["stages"])[-1]
        own = record["dataset"]
        base = describe(run) | {
            "stage": last,
            "final": True,
            "trained_on": trained_on(record),
            "trained_data": _trained_data(record),
            # a run that differs in its evaluation alone may have taken over another's networks
            "network": hashes.get(str(record.get("networks_of")), record["settings"]),
            "images_per_second": np.nan,
        }
        first = (own.get("parts") or [own])[0]  # of joined sets, the one tested on
        first = {"name": record["experiment"]["dataset"], "fingerprint": ""} | first
        tested = record | {"dataset": own | {k: first[k] for k in ("name", "fingerprint")}}
        found = [result for result in results(run) if result["stage"] == last]
        for result in [tested, *found] if record["metrics"] else found:
            card, data = _any_source(result["protocol"]), result["dataset"]
            of_test = {
                "tested_on": data["name"],
                "data": data["fingerprint"][:8],
                "unlike": "; ".join(data.get("not_as_published") or []),
                "protocol": card["name"],
                "protocol_hash": card["hash"],
                "card": card,
            }
            metrics = {key: float(result["metrics"].get(key, np.nan)) for key in METRICS}
            rows.append(base | of_test | metrics)
    same = ["method", "trained_on", "trained_data", "network", "seed", "tested_on", "data",
            "protocol_hash"]  # fmt: skip
    return pd.DataFrame(rows).drop_duplicates(same) if rows else pd.DataFrame()


def tables(
    store: str | Path, dataset: str | None, where: str | None, metrics: Sequence[str]
) -> list[Table]:
    """Methods and what they were trained on, by what they were tested on: a table per protocol.

    Args:
        dataset: tested on this one only. where: a condition on the columns of `load`.

    Raises:
        ConfigError: nothing finished, nothing of that data set, nothing left, or no such metric.
    """
    check_metrics(metrics, METRICS)
    store = expanded(store)
    runs = load(store)
    if runs.empty:
        damaged = sum(run.problem is not None for run in Store(store).runs())
        raise no_finished_runs(store, damaged)
    if dataset is not None and dataset not in set(runs["tested_on"]):
        raise ConfigError(
            f"Nothing was tested on data set '{dataset}'.", did_you_mean(dataset, runs["tested_on"])
        )
    runs = runs if dataset is None else runs[runs["tested_on"] == dataset]
    runs = runs if where is None else filtered(runs, where)
    # the evaluation rule is the table's own, so it is not part of a label
    configs = configurations(runs["run"], store)
    runs = add_row_labels(runs, configs, ["trained_on", "protocol_hash"], ["evaluation.rerank"])
    ambiguous = runs.groupby("tested_on")["data"].transform("nunique") > 1
    column = runs["tested_on"].replace(TITLES) + (" " + runs["data"]).where(ambiguous, "")
    several = runs.groupby("trained_on")["trained_data"].transform("nunique") > 1
    images = (" (" + runs["trained_data"] + ")").where(several & (runs["trained_data"] != ""), "")
    runs = runs.assign(
        tested_on="on " + column, trained_on=runs["trained_on"].map(_titled) + images,
        gpu_hours=np.nan,
    )  # fmt: skip
    found = []
    for _, group in runs.groupby(["protocol", "protocol_hash"]):
        card = group["card"].iloc[0]
        unlike = group.loc[group["unlike"] != "", ["tested_on", "unlike"]].drop_duplicates()
        held_equal = caption(card, group["selection"])
        notes = [
            held_equal,
            *(f"{name.removeprefix('on ')}: not the published images ({why})."
              for name, why in unlike.itertuples(index=False)),
            "Nothing is adapted to the data that are tested on, unless it is trained on them."
            if settings.of_card(card) != settings.USL
            else "Nothing is adapted to the data that are tested on.",
        ]  # fmt: skip
        table = pivoted(group, ("method", "trained_on"), ("tested_on",), metrics, "method")
        words = _WORDS.get(settings.of_card(card), "")
        title = f"{words}trained on → tested on, protocol {card['name']}"
        found.append(replace(
            table, title=title, notes=tuple(notes), protocol=str(card["name"]), kind="cross",
            caption=f"Results, {title}: {table.caption}.", cards=(held_equal,),
        ))  # fmt: skip
    return found


def _trained_data(record: Mapping[str, Any]) -> str:
    """The fingerprints of the data sets that `trained_on` names, but for those of `init`."""
    if all(result.get("epoch") is None for result in record["stages"].values()):
        return ""
    own, source = record["dataset"].get("fingerprint", ""), record.get("source") or {}
    if settings.kind(settings.of_card(record["protocol"])) != settings.UDA:
        source = {}
    used = [source.get("fingerprint", "")] + ([] if source.get("alone") else [own])
    return " → ".join(fingerprint[:8] for fingerprint in used if fingerprint)


def _any_source(card: Mapping[str, Any]) -> Mapping[str, Any]:
    """A card whose setting does not name the labeled source: `trained_on` does."""
    setting = settings.of_card(card)
    if (kind := settings.kind(setting)) == setting:
        return card
    changed = {**card, "setting": kind}
    return changed | {"hash": card_hash(changed)}


def _titled(trained: str) -> str:
    """`market1501+msmt17 → cuhk01` with the titles that papers use."""
    steps = [step.split("+") for step in trained.split(" → ")]
    return " → ".join(" + ".join(TITLES.get(name, name) for name in step) for step in steps)

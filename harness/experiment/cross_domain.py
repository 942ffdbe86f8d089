"""Models tested on other data than they were trained on: `harness eval RUN dataset=OTHER --save`.

A result lies beside the record of its run, which it leaves as it is:

results/runs/mskd-market1501-s0-1a2b3c4d/
    record.json                      trained on market1501, tested on market1501
    eval-msmt17-5e6f7a8b.json        the same network, tested on msmt17
    eval-msmt17-5e6f7a8b.npz         average precision and first match of every query
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.core.errors import ConfigError, did_you_mean
from harness.core.files import write_atomically, write_json
from harness.core.tuned import row_mark
from harness.experiment.protocol import card_hash, evaluation_rule
from harness.results.provenance import trained_on
from harness.results.store import METRICS, SCHEMA, Run, Store

if TYPE_CHECKING:
    import pandas as pd

    from harness.evaluation.evaluator import Evaluator
    from harness.evaluation.protocol import EvaluationProtocol
    from harness.results.table_model import Sheet

PREFIX = "eval-"


def save(
    run: Run,
    stage: str,
    evaluator: Evaluator,
    rule: EvaluationProtocol,
    dataset: Mapping[str, Any],
) -> Path:
    """Write a result beside a run's record; one of the same images and rule is replaced.

    Args:
        evaluator: after its test by `rule`. dataset: the section of the data set that was tested on.
    """
    record = run.record
    card = dict(record["protocol"])
    card["evaluation"] = evaluation_rule(bool(dataset.get("tracks")), rule.rerank) + rule.unusual
    card["hash"] = card_hash(card)
    assert evaluator.last is not None
    data = evaluator.data
    first = evaluator.parts[0] if evaluator.parts else {}  # of several, the one that is tested on
    name = str(first.get("name", data.name))
    fingerprint = str(first.get("fingerprint", evaluator.fingerprint))
    result = {
        "schema": SCHEMA,
        "run": run.name,
        "stage": stage,
        "trained_on": trained_on(record),
        "tested_on": name,
        "protocol": card,
        "metrics": evaluator.last.as_dict() | rule.metrics(evaluator.last),
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
    key = f"{stage}/{fingerprint}/{card['hash']}"
    digest = hashlib.blake2b(key.encode(), digest_size=4).hexdigest()
    path = run.folder / f"{PREFIX}{name}-{digest}.json"
    arrays: dict[str, Any] = {
        f"{stage}_ap": evaluator.last.ap.astype(np.float32),
        f"{stage}_first_match_rank": evaluator.last.first_match_rank.astype(np.int32),
        "query_identity": data.query.identities.astype(np.int32),
    }
    write_atomically(path.with_suffix(".npz"), lambda file: np.savez_compressed(file, **arrays))
    write_json(path, result)
    return path


def results(run: Run) -> Iterator[dict[str, Any]]:
    """What was saved beside a run's record; files that do not read are left out."""
    for path in sorted(run.folder.glob(f"{PREFIX}*.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            if 1 <= result["schema"] <= SCHEMA and {*METRICS} <= result["metrics"].keys():
                yield result
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue


def load(store: str | Path = "results/runs") -> pd.DataFrame:
    """Networks of last stages by what they were tested on: the test of the run itself, and all that
    `harness eval --save` left.

    Columns: run, method, stage, trained_on, tested_on, data (fingerprint of what was tested on),
    unlike, protocol, protocol_hash, card, seed, settings, cameras, selection, and the metrics.
    """
    import pandas as pd

    rows = []
    for run in Store(Path(store)).runs():
        if not run.finished:
            continue
        record = run.record
        last = list(record["stages"])[-1]
        base = {
            "run": run.name,
            "method": record["experiment"]["method"],
            "stage": last,
            "trained_on": trained_on(record),
            "seed": record["experiment"]["seed"],
            "settings": record["settings"],
            # a cell that differs in its evaluation alone may have been made of another's networks
            "network": record.get("networks_of", run.name),
            "cameras": record["protocol"]["cameras"],
            "selection": record["protocol"]["selection"],
            "tuned": row_mark(record["protocol"]),
        }
        own = record.get("dataset", {})
        first = (own.get("parts") or [own])[0]  # of several, the one that is tested on
        tested = {
            "protocol": record["protocol"],
            "metrics": record["metrics"],
            "dataset": own | {"name": first.get("name", record["experiment"]["dataset"]),
                              "fingerprint": first.get("fingerprint", "")},
        }  # fmt: skip
        found = [result for result in results(run) if result["stage"] == last]
        for result in [tested, *found] if record["metrics"] else found:
            card, data = result["protocol"], result["dataset"]
            rows.append(
                base
                | {
                    "tested_on": data["name"],
                    "data": data["fingerprint"][:8],
                    "unlike": "; ".join(data.get("not_as_published") or []),
                    "protocol": card["name"],
                    "protocol_hash": card["hash"],
                    "card": card,
                }
                | {metric: result["metrics"][metric] for metric in METRICS}
            )
    return pd.DataFrame(rows)


def sheets(
    store: Path, dataset: str | None, where: str | None, metrics: Sequence[str]
) -> list[Sheet]:
    """Methods and what they were trained on, by what they were tested on: a table a protocol.

    Args:
        dataset: tested on this one only. where: a condition on the columns of `load`.

    Raises:
        ConfigError: nothing finished, nothing of that data set, nothing left, or no such metric.
    """
    from harness.results.comparisons import filtered
    from harness.results.row_labels import crossings, variants

    for metric in metrics:
        if metric not in METRICS:
            raise ConfigError(f"--cross has no metric '{metric}'.", did_you_mean(metric, METRICS))
    runs = load(store)
    if runs.empty:
        raise ConfigError(
            f"There are no finished runs in {store}.",
            "Make one: harness run method=mskd dataset=synthetic.",
        )
    if dataset is not None:
        if dataset not in set(runs["tested_on"]):
            raise ConfigError(
                f"Nothing was tested on data set '{dataset}'.",
                did_you_mean(dataset, runs["tested_on"]),
            )
        runs = runs[runs["tested_on"] == dataset]
    if where is not None:
        runs = filtered(runs, where)
    several = runs.groupby("tested_on")["data"].nunique() > 1
    shown = runs["data"].where(runs["tested_on"].map(several), "")
    runs = runs.assign(
        crossing=crossings(runs, store), column=(runs["tested_on"] + " " + shown).str.strip()
    )
    runs["variant"] = ""
    for _, group in runs.groupby(["trained_on", "protocol_hash"]):
        # the rule of evaluation is the table's own
        runs.loc[group.index, "variant"] = variants(group, store, ["evaluation.rerank"])
    return [_sheet(group, metrics) for _, group in runs.groupby(["protocol", "protocol_hash"])]


def _titled(trained: str) -> str:
    """`market1501+msmt17 → cuhk01` with the titles that papers use."""
    from harness.results.published import TITLES

    steps = [step.split("+") for step in trained.split(" → ")]
    return " → ".join(" + ".join(TITLES.get(name, name) for name in step) for step in steps)


def _sheet(runs: pd.DataFrame, metrics: Sequence[str]) -> Sheet:
    from harness.results.comparisons import METRICS as TITLED
    from harness.results.comparisons import caption
    from harness.results.published import TITLES
    from harness.results.table_model import Cell, Column, Sheet, number

    card = runs["card"].iloc[0]
    tested = sorted(set(runs["column"]))
    columns = [Column("Method", numeric=False), Column("Trained on", numeric=False),
               Column("Cameras", numeric=False)]  # fmt: skip
    columns += [
        Column(TITLED[metric], group=f"on {TITLES.get(name, name)}")
        for name in tested
        for metric in metrics
    ]
    body, names = [], []
    keys = ["method", "crossing", "variant", "tuned", "trained_on", "cameras", "selection"]
    for values, group in runs.groupby(keys, sort=True):
        method, crossing, variant, tuned, trained, cameras, selection = map(str, values)
        if selection != "last" and "selection=" not in variant:
            variant = f"{variant}, selection={selection}".strip(", ")
        apart = ", ".join(text for text in (crossing, variant, tuned) if text)
        cells = [Cell(f"{method} [{apart}]" if apart else method),
                 Cell(_titled(trained)),
                 Cell("yes" if cameras == "True" else "no")]  # fmt: skip
        for name in tested:
            mine = group[group["column"] == name].drop_duplicates(["network", "seed"])
            cells += [number(mine[metric].mean(), mine[metric].std(ddof=1)) for metric in metrics]
        body.append(tuple(cells))
        names.append(method)
    warnings = [
        f"{name}: not the published images ({unlike})."
        for (name, unlike), _ in runs[runs["unlike"] != ""].groupby(["column", "unlike"])
    ]
    notes = [caption(card, runs["selection"]), *warnings,
             "Nothing is adapted to what is tested on."]  # fmt: skip
    return Sheet(
        f"trained on → tested on, protocol {card['name']}",
        tuple(columns),
        tuple(body),
        tuple(names),
        tuple(notes),
        protocol=str(card["name"]),
    )

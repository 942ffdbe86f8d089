"""What the charts of one table show, read from its rows and runs as plain data frames.

Rows are named r0, r1, … from the best down, in every frame's column `row`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import pandas as pd

from harness.core.errors import HarnessError
from harness.results.comparisons import Comparison
from harness.results.schema import is_number
from harness.results.store import Run

#: keys of the history that have a chart, and its title
CURVES = {
    "mAP": "mAP on the test set, %",
    "loss": "Training loss (each method’s own)",
    "clusters": "Clusters",
    "outliers": "Outliers: images without a pseudo-label",
    "ari": "ARI: clusters against identities",
    "nmi": "NMI: clusters against identities",
}
EPOCH_KEYS = ("epoch", "identities", *CURVES)
LABEL_LENGTH = 30


@dataclass
class ChartData:
    """The numbers behind the charts of one table.

    rows: per row name, label (short, unique), mAP, mAP_std, trained, and cost (missing where it was
        not measured).
    seeds: row, seed, mAP. epochs: row, epoch, identities and `CURVES` of each run.
    hours: row, phase, hours: as measured. reference: the method of cost 1, '' without costs.
    damaged: run → what is wrong with its history.
    """

    rows: pd.DataFrame
    seeds: pd.DataFrame
    epochs: pd.DataFrame
    hours: pd.DataFrame
    reference: str
    damaged: dict[str, str]

    @property
    def identities(self) -> int | None:
        """The number of training identities, if all histories agree."""
        counts = self.epochs["identities"].dropna().unique()
        return int(counts[0]) if len(counts) == 1 else None


def chart_data(comparison: Comparison, runs: Mapping[str, Run], limit: int) -> ChartData:
    """The data of the first `limit` rows of a comparison.

    Args:
        runs: by name, as they were when the store was read.
    """
    table = comparison.rows.head(limit)
    names = [str(name) for name in table["method"]]
    rows = table[["mAP", "mAP_std", "cost"]].reset_index(drop=True)
    rows = rows.assign(row=[f"r{i}" for i in rows.index], name=names, label=short_labels(names))
    damaged: dict[str, str] = {}
    seeds, epochs, trained = [], [], []
    for row, stage, members in zip(rows["row"], table["stage"], table["runs"], strict=True):
        trained.append(
            runs[members[0]].record["stages"][stage].get("images_per_second") is not None
        )
        for name in members:
            run = runs[name]
            result = run.record["stages"][stage]
            seed = run.record["experiment"]["seed"]
            seeds.append({"row": row, "seed": seed, "mAP": result["metrics"]["mAP"]})
            epochs += [{"row": row, **epoch} for epoch in _epochs(run, stage, damaged)]
    numbered = table.assign(row=list(rows["row"]))
    costs = comparison.costs
    return ChartData(
        rows.assign(trained=trained), pd.DataFrame(seeds, columns=["row", "seed", "mAP"]),
        pd.DataFrame(epochs, columns=["row", *EPOCH_KEYS]),
        costs.phases(numbered) if costs else pd.DataFrame(columns=["row", "phase", "hours"]),
        costs.reference if costs else "", damaged,
    )  # fmt: skip


def _epochs(run: Run, stage: str, damaged: dict[str, str]) -> list[dict[str, float]]:
    """The numbers of a stage's epochs; [] where the history is damaged, which is noted."""
    try:
        return [
            {key: epoch[key] for key in EPOCH_KEYS if is_number(epoch.get(key))}
            for epoch in run.history()
            if epoch["stage"] == stage and is_number(epoch["epoch"])
        ]
    except HarnessError as error:
        damaged[run.name] = error.cause.removeprefix(f"{run.folder}: ")
    except (KeyError, TypeError):
        damaged[run.name] = "history.json is no list of epochs"
    return []


def short_labels(names: Sequence[str], limit: int = LABEL_LENGTH) -> list[str]:
    """Distinct labels of about `limit` characters or fewer.

    A long name loses its middle. Names that would then look the same lose their common beginning
    instead, and names that still do are numbered.
    """
    half = limit // 2
    labels = [n if len(n) <= limit else f"{n[:half]}…{n[half + 1 - limit :]}" for n in names]
    for label in {label for label in labels if labels.count(label) > 1}:
        alike = [place for place, other in enumerate(labels) if other == label]
        letters = zip(*(names[place] for place in alike), strict=False)
        common = next((i for i, letter in enumerate(letters) if len(set(letter)) > 1), 0)
        for place in alike if common > 12 else ():
            start = common - 4
            labels[place] = f"{names[place][:8]}…{names[place][start : start + limit - 9]}"
    counts = Counter[str]()
    for place, label in enumerate(labels):
        counts[label] += 1
        if counts[label] > 1:
            labels[place] = f"{label} ({counts[label]})"
    return labels


def read_file(name: str) -> str:
    """A text file of this package."""
    return files("harness.results.report").joinpath(name).read_text(encoding="utf-8")

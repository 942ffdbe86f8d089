"""Numbers published in papers, from `results/published.csv`, shown beside measured ones.

Columns: method (its name here), name (in the paper), venue, year, setting (USL, UDA, or floor for
untrained networks), source (the labeled one; empty but for UDA), uses_cameras (yes, sampler, no,
…), dataset, mAP, rank1, rank5, rank10 (percent, may be empty), backbone, read_in (where the number
was read).
"""

from __future__ import annotations

from functools import cache

import pandas as pd

from harness.core.paths import shipped
from harness.results import settings

#: protocols whose runs can be compared with published numbers
COMPARABLE = ("common", "published")
#: `uses_cameras` of a published number that a run without cameras does not reproduce
WITH_CAMERAS = ("yes", "sampler")
TITLES = {"market1501": "Market-1501", "dukemtmcreid": "DukeMTMC-reID", "msmt17": "MSMT17"}
#: further data sets that are sources only
SOURCES = {"personx": "PersonX"}
HEAD = """\
# Published numbers

Made by `harness table --published --format markdown` from `published.csv`; not to be edited. None
of these was measured here: measured ones are in [README](README.md). Per cent, without re-ranking;
"–" where it is not said. Cameras: "sampler" is a method that sees them in its sampler only.
"A → B": unsupervised domain adaptation, with the identities of A; all others use no identities.
"""
COLUMNS = {
    "name": "Method", "venue": "Venue", "year": "Year", "uses_cameras": "Cameras", "mAP": "mAP",
    "rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "backbone": "Backbone",
    "read_in": "Read in",
}  # fmt: skip


@cache
def table() -> pd.DataFrame:
    """The whole list; empty if it is not installed. Shared: do not modify it."""
    path = shipped("results", "published.csv")
    if path.is_file():
        return pd.read_csv(path).fillna({"source": ""})
    return pd.DataFrame(columns=["method", "source", "dataset", "mAP", "rank1"])


def beside(
    dataset: str, protocol: str, method: str, cameras: bool, setting: str = settings.USL
) -> dict[str, float | str]:
    """The `published_mAP`, `published_rank1` and `published_in` of a row, or nothing.

    Args:
        cameras: whether the run used camera labels. A run without does not reproduce the published
            number of a method that does.
        setting: the line of the card. Numbers of another setting or source are not shown.
    """
    rows = table()
    rows = rows[(rows["dataset"] == dataset) & (rows["method"] == method)]
    rows = rows[rows["source"] == settings.source_of(setting)]
    if protocol not in COMPARABLE or rows.empty or setting == settings.SUPERVISED:
        return {}
    first = rows.iloc[0]
    if not cameras and first.get("uses_cameras") in WITH_CAMERAS:
        return {}
    numbers = {f"published_{key}": float(first[key]) for key in ("mAP", "rank1")}
    return {**numbers, "published_in": str(first.get("read_in", ""))}


def page(dataset: str | None = None) -> str:
    """All of it in Markdown: a table per labeled source and data set, best mAP last."""
    lines = [HEAD]
    for source, labelled in {"": "", **TITLES, **SOURCES}.items():
        for name, title in TITLES.items():
            rows = table()[(table()["dataset"] == name) & (table()["source"] == source)]
            if dataset in (None, name) and len(rows):
                lines += _section(f"{labelled} → {title}" if source else title, rows)
    return "\n".join(lines)


def _section(title: str, rows: pd.DataFrame) -> list[str]:
    rows = rows.sort_values("mAP", kind="stable")[[*COLUMNS]]
    rows = rows.map(lambda v: f"{v:.1f}" if isinstance(v, float) else str(v))
    rows = rows.replace({"nan": "–", "-": "–"})
    lines = [f"### {title}", "", "| " + " | ".join(COLUMNS.values()) + " |"]
    lines.append("| --- | --- | ---: | --- |" + " ---: |" * 4 + " --- | --- |")
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows.itertuples(index=False)), ""]

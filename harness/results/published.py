"""Numbers published in papers, from `results/published.csv`, shown beside measured ones.

Columns: method (its name here), name (in the paper), venue, year, setting, uses_cameras (yes,
sampler, no, …), dataset, mAP, rank1, rank5, rank10 (percent, may be empty), backbone, read_in
(where the number was read).
"""

from __future__ import annotations

from functools import cache

import pandas as pd

from harness.core.paths import shipped

#: protocols whose runs can be compared with published numbers
COMPARABLE = ("common", "published")
#: `uses_cameras` of a published number that a run without cameras does not reproduce
WITH_CAMERAS = ("yes", "sampler")
TITLES = {"market1501": "Market-1501", "dukemtmcreid": "DukeMTMC-reID", "msmt17": "MSMT17"}
HEAD = """\
# Published numbers

Made by `harness table --published --format markdown` from `published.csv`; not to be edited. None
of these was measured here: measured ones are in [README](README.md). Per cent, without re-ranking;
"–" where the source does not say. Cameras: "sampler" is a method that sees them in its sampler
only.
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
        return pd.read_csv(path)
    return pd.DataFrame(columns=["method", "dataset", "mAP", "rank1"])


def beside(dataset: str, protocol: str, method: str, cameras: bool) -> dict[str, float | str]:
    """The `published_mAP`, `published_rank1` and `published_in` of a row, or nothing.

    Args:
        cameras: whether the run used camera labels. A run without does not reproduce the published
            number of a method that does.
    """
    rows = table()
    rows = rows[(rows["dataset"] == dataset) & (rows["method"] == method)]
    if protocol not in COMPARABLE or rows.empty:
        return {}
    first = rows.iloc[0]
    if not cameras and first.get("uses_cameras") in WITH_CAMERAS:
        return {}
    numbers = {f"published_{key}": float(first[key]) for key in ("mAP", "rank1")}
    return {**numbers, "published_in": str(first.get("read_in", ""))}


def page(dataset: str | None = None) -> str:
    """All of it in Markdown: a table per data set, best mAP last."""
    lines = [HEAD]
    for name, title in TITLES.items():
        if dataset in (None, name):
            lines += [f"### {title}", "", "| " + " | ".join(COLUMNS.values()) + " |"]
            lines.append("| --- | --- | ---: | --- |" + " ---: |" * 4 + " --- | --- |")
            rows = table()[table()["dataset"] == name].sort_values("mAP", kind="stable")
            rows = rows[[*COLUMNS]].map(lambda v: f"{v:.1f}" if isinstance(v, float) else str(v))
            rows = rows.replace({"nan": "–", "-": "–"})
            lines += [f"| {' | '.join(row)} |" for row in rows.itertuples(index=False)] + [""]
    return "\n".join(lines)

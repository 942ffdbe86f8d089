"""Comparison tables: rows methods, one table a data set and protocol, mean ± std over seeds.

Runs of different protocols never share a table. Published numbers stand in columns of their own,
and only beside runs whose protocol is meant to reproduce them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.errors import ConfigError, did_you_mean
from harness.files import write_text
from harness.results import published
from harness.results.names import crossings, variants
from harness.results.store import Store, load

METRICS = {"mAP": "mAP", "rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "mINP": "mINP"}
HEAD = """\
# Leaderboard

Made by `harness table --format markdown` from records; not to be edited. Per cent, mean ± standard
deviation over seeds. Rows of different protocols or data never share a table. Cameras: whether the
method sees them, be it in its sampler only. "Images/s" is training throughput.
"""


@dataclass(frozen=True)
class Comparison:
    """One table: its data set, its protocol card and its rows, best mAP last.

    data: the data's fingerprint where the store holds several of this name, else ''.
    unlike: how the data differ from the published data set of this name; '' if they do not.
    """

    dataset: str
    data: str
    card: dict[str, Any]
    rows: pd.DataFrame
    unlike: str = ""

    @property
    def title(self) -> str:
        """Data set and protocol."""
        data = f" (data {self.data})" if self.data else ""
        data += ", not as published" if self.unlike else ""
        return f"{self.dataset}{data}, protocol {self.card['name']}"

    @property
    def warning(self) -> str:
        """What is wrong with the data; '' if nothing is known to be."""
        if not self.unlike:
            return ""
        return (
            "These images are not the published data set; their numbers compare with no paper's "
            f"({self.unlike})."
        )

    @property
    def caption(self) -> str:
        """What was held equal, in words."""
        shown = {k: v for k, v in self.card.items() if k not in ("name", "hash", "cameras")}
        held = "; ".join(f"{key.replace('_', ' ')} {value}" for key, value in shown.items())
        return f"Protocol `{self.card['name']}` ({self.card['hash']}): {held}."

    @property
    def sources(self) -> str:
        """Where the published numbers of its rows were read; '' if it has none."""
        if "published_in" not in self.rows:
            return ""
        rows = self.rows.dropna(subset=["published_in"])
        pairs = zip(rows["method"], rows["published_in"], strict=True)
        read = "; ".join(": ".join(map(str, pair)) for pair in pairs)
        return f"Published numbers were read in, for {read}."


def comparisons(store: str | Path, dataset: str | None = None) -> Iterator[Comparison]:
    """The tables of a store.

    Raises:
        ConfigError: nothing finished, or nothing of that data set.
    """
    runs = load(store)
    if runs.empty:
        damaged = sum(run.problem is not None for run in Store(Path(store)).runs())
        raise ConfigError(
            f"There are no finished runs in {store}"
            + (f" ({damaged} damaged: harness list runs)." if damaged else "."),
            "Make one: harness run method=mskd dataset=synthetic.",
        )
    if dataset is not None and dataset not in set(runs["dataset"]):
        raise ConfigError(
            f"No finished run is of data set '{dataset}'.", did_you_mean(dataset, runs["dataset"])
        )
    cards = {run.record["protocol"]["hash"]: run.record["protocol"] for run in Store(
        Path(store)).runs() if run.finished}  # fmt: skip
    several = runs.groupby("dataset")["data"].nunique() > 1
    for key, group in runs.groupby(["dataset", "data", "protocol_hash"], sort=True):
        name, data, protocol = map(str, key)
        if dataset in (None, name):
            unlike = max(group["unlike"])  # records from before the check have ''
            rows = _rows(group, name, cards[protocol], Path(store), bool(unlike))
            yield Comparison(
                name, data if several[name] else "", cards[protocol], rows, unlike
            )


def _rows(
    runs: pd.DataFrame, dataset: str, card: dict[str, Any], store: Path, unlike: bool
) -> pd.DataFrame:
    """One row a method, stage, crossing and variant, sorted by mAP."""
    # the same cell under two names (name=…) is one repeat, not two
    runs = runs.drop_duplicates(["method", "settings", "seed", "stage"])
    runs = runs.assign(crossing=crossings(runs, store))
    runs = runs.assign(variant=variants(runs, store))
    rows = []
    keys = ["method", "stage", "final", "crossing", "variant", "cameras", "selection"]
    for values, group in runs.groupby(keys, sort=False):
        method, stage, final, crossing, variant, cameras, selection = values
        label = method if final else f"{method} ({stage})"
        apart = ", ".join(str(text) for text in (crossing, variant) if text)
        row: dict[str, Any] = {
            "method": f"{label} [{apart}]" if apart else label,
            "cameras": "yes" if cameras else "no",
            "selection": selection,
            "seeds": group["seed"].nunique(),
        }
        for metric in METRICS:
            row[metric] = group[metric].mean()
            row[f"{metric}_std"] = group[metric].std(ddof=1)  # NaN for a single seed
        row["images_per_second"] = group["images_per_second"].astype(float).median()
        if final and not crossing and not unlike:
            row |= published.beside(dataset, card["name"], str(method), bool(cameras))
        rows.append(row)
    return pd.DataFrame(rows).sort_values("mAP", kind="stable").reset_index(drop=True)


# ---------------------------------------------------------------------------------- as text


def _cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows of text."""
    rows = comparison.rows
    header = ["Method", "Cameras", *METRICS.values(), "Seeds", "Images/s"]
    shown = "published_mAP" in rows
    if shown:
        header.append("Published mAP / Rank-1")
    if (rows["selection"] != "last").any():
        header.append("Checkpoint")
    body = []
    for row in rows.to_dict("records"):
        cells = [row["method"], row["cameras"]]
        for metric in METRICS:
            std = row[f"{metric}_std"]
            cells.append(f"{row[metric]:.1f}" + ("" if pd.isna(std) else f" ± {std:.1f}"))
        speed = row["images_per_second"]
        cells += [str(row["seeds"]), "–" if pd.isna(speed) else f"{speed:.0f}"]
        if shown:
            m, r = row.get("published_mAP"), row.get("published_rank1")
            both = " / ".join("–" if pd.isna(x) else f"{x:.1f}" for x in (m, r))
            cells.append("–" if pd.isna(m) else both)
        if "Checkpoint" in header:
            chosen = row["selection"]
            cells.append("best on test (oracle)" if chosen == "oracle" else chosen)
        body.append(cells)
    return header, body


def markdown(comparison: Comparison) -> str:
    """A Markdown table under its heading, with the protocol below."""
    header, body = _cells(comparison)
    lines = [f"### {comparison.title}", ""]
    lines.append("| " + " | ".join(header) + " |")
    lines.append("| --- | --- |" + " ---: |" * (len(header) - 2))
    lines += ["| " + " | ".join(cells) + " |" for cells in body]
    lines.append("")
    for text in filter(None, (comparison.warning, comparison.caption, comparison.sources)):
        lines += [text, ""]
    return "\n".join(lines)


def _grid(comparison: Comparison, leave_out: Sequence[str] = ()) -> Table:
    """For the terminal; `leave_out` are columns that a narrow one has no room for."""
    header, body = _cells(comparison)
    title = comparison.title
    grid = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    shown = [position for position, name in enumerate(header) if name not in leave_out]
    for position in shown:
        grid.add_column(header[position], justify="left" if position < 2 else "right")
    for cells in body:
        grid.add_row(*(escape(cells[position]) for position in shown))  # variants have brackets
    return grid


def show_published(style: str, dataset: str | None, output: str | None) -> None:
    """`harness table --published`."""
    if dataset is not None and dataset not in published.TITLES:
        raise ConfigError(
            f"No published number is of data set '{dataset}'.",
            did_you_mean(dataset, published.TITLES),
        )
    if style == "csv":
        rows = published.table()
        text = rows[rows["dataset"].isin([dataset] if dataset else published.TITLES)].to_csv(
            index=False
        )
    else:  # in a terminal too: it reads well as it is
        text = published.page(dataset)
    if output is None:
        print(text, end="")
    else:
        write_text(Path(output), text)


def show(store: str, style: str, dataset: str | None, output: str | None) -> None:
    """`harness table`."""
    tables = list(comparisons(store, dataset))
    problems = [f"{run.name}: {run.problem}" for run in Store(Path(store)).runs() if run.problem]
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    if style == "terminal":
        if output is not None:
            raise ConfigError("--output needs --format markdown or csv.")
        for comparison in tables:
            console = Console(highlight=False)
            grid = _grid(comparison)
            width = Console(width=1000).measure(grid).maximum
            if not console.is_terminal:  # a file or pipe is as wide as need be
                console = Console(highlight=False, width=max(width, 100))
            elif width > console.width:
                grid = _grid(comparison, leave_out=("Rank-5", "Rank-10"))
            console.print(grid)
            for text in filter(None, (comparison.warning, comparison.caption, comparison.sources)):
                console.print(text, style="dim", markup=False)
            console.print()
        return
    if style == "csv":
        frames = [
            t.rows.assign(dataset=t.dataset, data=t.data, not_as_published=t.unlike, protocol=t.card["name"], protocol_hash=t.card["hash"])
            for t in tables
        ]
        text = pd.concat(frames).to_csv(index=False)
    else:
        text = "\n".join([HEAD, *(markdown(comparison) for comparison in tables)])
    if output is None:
        print(text, end="")
    else:
        write_text(Path(output), text)

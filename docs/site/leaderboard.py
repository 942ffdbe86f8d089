"""The leaderboard's pages: one for each data set and protocol, and an index, from records."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from markupsafe import Markup, escape

from harness.core import plugins
from harness.core.hashing import UNHASHED
from harness.results.comparisons import Comparison, comparisons
from harness.results.table_model import Cell, Table, leaderboard
from harness.results.tables import Options, show

INDEX = """\
# Leaderboard

Every number is made from a record in `results/leaderboard/` by `harness table`, in percent, as
mean ± standard deviation over seeds. Rows of different protocols or data never share a table:
below each table is the card of what is held equal. *Cameras* says whether a method uses camera
labels, even if only in its sampler. Speeds, hours and costs appear where `harness bench methods`
has timed the methods side by side. None of these numbers is taken from a paper; [published
numbers](published.md) have a page of their own.

| data set | protocol | rows | best mAP | |
| --- | --- | ---: | --- | --- |
"""


@dataclass(frozen=True)
class Page:
    """A page. name: of its files. files: name → content."""

    name: str
    title: str
    dataset: str
    files: dict[str, str]


def leaderboard_pages(store: Path) -> list[Page]:
    """The index, then a page for each table of a store, each with its CSV and JSON."""
    found = [(comparison, leaderboard(comparison)) for comparison in comparisons(store)]
    index, tables = INDEX, []
    for comparison, table in found:
        title = comparison.unique_title.partition(", protocol ")[2]
        page = _page(comparison, table, title, store)
        tables.append(page)
        best = comparison.rows.iloc[-1]
        top = f"{best['mAP']:.1f}, {best['method']}"
        links = " · ".join(f"[{kind.upper()}]({page.name}.{kind})" for kind in ("csv", "json"))
        index += (
            f"| {comparison.dataset} | [{title}]({page.name}.md) | {len(comparison.rows)} "
            f"| {top} | {links} |\n"
        )
    return [Page("index", "Leaderboard", "", {"index.md": index}), *tables]


def _page(comparison: Comparison, table: Table, title: str, store: Path) -> Page:
    card = comparison.card
    words = (comparison.dataset, comparison.data, comparison.source_data, card["name"],
             card["hash"])  # fmt: skip
    name = "-".join(re.sub(r"[^\w.+]+", "_", str(word)) for word in words if word)
    notes = [note for note in table.notes if note != comparison.caption]
    held = [
        f"| {key.replace('_', ' ')} | {str(value).replace('|', chr(92) + '|')} |"
        for key, value in card.items() if key not in UNHASHED and key != "name"
    ]  # fmt: skip
    text = "\n".join([
        f"# {comparison.dataset}: {title}", "",
        *([f"**{comparison.warning}**", ""] if comparison.warning else []),
        _html(table), "",
        f"Download: [CSV]({name}.csv) · [JSON]({name}.json), unrounded. [All tables](index.md)", "",
        *(line for note in notes if note != comparison.warning for line in (note, "")),
        "## Protocol card", "",
        f"What is held equal in this table: `protocol={card['name']}`, hash `{card['hash']}`.", "",
        "| setting | value |", "| --- | --- |", *held, "",
    ])  # fmt: skip
    csv, rows = _csv(comparison, store), comparison.rows.drop(columns=["name", "final"])
    record = {
        "dataset": comparison.dataset, "data": comparison.data,
        "source_data": comparison.source_data,
        "not_as_published": comparison.unlike, "protocol": card,
        "rows": json.loads(rows.to_json(orient="records")), "notes": notes,
    }  # fmt: skip
    data = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    files = {f"{name}.md": text, f"{name}.csv": csv, f"{name}.json": data}
    return Page(name, title, comparison.dataset, files)


def _csv(comparison: Comparison, store: Path) -> str:
    """What `harness table --format csv` writes for this table."""
    where = f"protocol_hash == '{comparison.card['hash']}'"
    if comparison.data:
        where += f" and data == '{comparison.data}'"
    if comparison.source_data:
        where += f" and source_data == '{comparison.source_data}'"
    with TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        show(Options(str(store), "csv", comparison.dataset, where, output=str(path)))
        return path.read_text(encoding="utf-8")


def _html(table: Table) -> str:
    """The table, best first, without blank lines, which would end the block of HTML in Markdown."""
    methods = plugins.find()["methods"]
    heads = [
        Markup('<th scope="col"{}>{}</th>').format(
            Markup(' class="number"') if column.numeric else "", column.heading
        )
        for column in table.columns
    ]
    rows = []
    for row, method in reversed(list(zip(table.rows, table.methods, strict=True))):
        first, *rest = row
        known = next((n for n in (method, method.rpartition("_")[0]) if n in methods), "")
        name = Markup('<a href="../methods/{}/index.html">{}</a>').format(known, first.text)
        cells = [Markup('<th scope="row">{}</th>').format(name if known else first.text)]
        cells += [
            _cell(cell, column.numeric)
            for cell, column in zip(rest, table.columns[1:], strict=True)
        ]
        rows.append(Markup("<tr>{}</tr>").format(Markup("").join(cells)))
    return Markup(
        '<div class="leaderboard"><table><thead><tr>{}</tr></thead>'
        "<tbody>\n{}\n</tbody></table></div>"
    ).format(Markup("").join(heads), Markup("\n").join(rows))


def _cell(cell: Cell, numeric: bool) -> Markup:
    tags = {"best": ("<strong>", "</strong>"), "second": ("<u>", "</u>"), "": ("", "")}[cell.mark]
    text = Markup(tags[0]) + escape(cell.text) + Markup(tags[1])
    if not numeric:
        return Markup("<td>{}</td>").format(text)
    value = "" if cell.number is None else repr(float(cell.number))
    return Markup('<td class="number" data-value="{}">{}</td>').format(value, text)

"""What goes into papers: LaTeX that compiles, its citations, HTML that is one whole page."""

from __future__ import annotations

import html as entities
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.core import plugins
from harness.results.comparisons import comparisons
from harness.results.formats import html, latex, markdown
from harness.results.formats.latex import bibliography, escape, references
from harness.results.pivots import pivot
from harness.results.store import Store
from harness.results.table_model import Cell, Column, Table, leaderboard
from tests.conftest import Command
from tests.paths import LEADERBOARD
from tests.results.records import record, write

DOCUMENT = r"""\documentclass{article}\usepackage[margin=1cm,landscape]{geometry}
\usepackage{booktabs,siunitx,url}
\begin{document}\input{table}\bibliographystyle{plain}\bibliography{table}\end{document}
"""
TABLE = Table(
    "a_b, protocol x",
    (Column("Method", numeric=False), Column("mAP"), Column("mAP", group="Published")),
    (
        (Cell("one [a|b & <c>]"), Cell("", 70.25, 1.5, mark="best"), Cell("", 70.0)),
        (Cell("two"), Cell("", 9.0, 0.25, mark="second"), Cell("–")),
    ),
    ("mskd", "nothing"),
    ("Held: `50%`.",),
    "market1501",
    "x",
)


def test_markdown() -> None:
    lines = markdown([TABLE]).splitlines()
    assert lines[0] == "### a_b, protocol x"
    assert lines[2:4] == ["| Method | mAP | Published mAP |", "| --- | ---: | ---: |"]
    assert lines[4] == "| one [a\\|b & <c>] | **70.2 ± 1.5** | 70.0 |"
    assert lines[5] == "| two | <ins>9.0 ± 0.2</ins> | – |"
    assert "Held: `50%`." in lines


def test_latex() -> None:
    text = latex([TABLE])
    assert r"one [a|b \& $<$c$>$]~\cite{mskd} & \bfseries \num{70.2 +- 1.5} & 70.0 \\" in text
    assert r"two & {\underline{\num{9.0 +- 0.2}}} & {--} \\" in text
    assert r"\begin{tabular}{lrS[table-format=2.1]}" in text
    assert r"\caption{Market-1501~\cite{market1501}. Held: \texttt{50\%}.}" in text
    assert r" & {Published} \\" in text and r"\cmidrule(lr){3-3}" in text
    assert text.index(r"\cmidrule") > text.index("{Published}") > text.index(r"\toprule")
    assert r"\label{tab:market1501-x}" in text
    assert r"\label{tab:market1501-x-2}" in latex([TABLE, TABLE])
    found = bibliography([TABLE])
    assert re.findall(r"@\w+\{(\w+),", found) == ["market1501", "mskd"]


def test_escapes() -> None:
    assert escape("50% of_a\\b {x}") == r"50\% of\_a\textbackslash{}b \{x\}"


def test_every_reference_is_called_as_its_folder() -> None:
    found = references()
    trained = {name for name in plugins.find()["methods"] if name != "direct_transfer"}
    assert trained <= set(found), "a method's paper stands in its reference.bib"
    for name, path in found.items():
        text = path.read_text(encoding="utf-8")
        assert re.match(rf"@\w+\{{{name},\n", text), path
        assert all(f"  {field} = {{" in text for field in ("author", "title", "year")), path
        assert text.count("{") == text.count("}"), path


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX is installed")
@pytest.mark.parametrize("options", [[], ["--by-dataset"], ["--compare"]])
def test_latex_compiles(options: list[str], command: Command, tmp_path: Path) -> None:
    store = ["--store", str(LEADERBOARD), "--format", "latex"]
    answer = command("table", *store, *options, "--output", str(tmp_path / "table.tex"))
    assert answer.status == 0, answer.err
    (tmp_path / "paper.tex").write_text(DOCUMENT)
    tex = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper"]
    for step in (tex, ["bibtex", "paper"], tex, tex):
        done = subprocess.run(step, cwd=tmp_path, capture_output=True, text=True, check=False)
    log = (tmp_path / "paper.log").read_text(errors="replace")
    if re.search(r"File `\S+' not found", log):
        pytest.skip("LaTeX lacks booktabs or siunitx")
    assert done.returncode == 0 and (tmp_path / "paper.pdf").stat().st_size > 10_000, log[-2000:]
    assert (
        "undefined" not in log and "multiply" not in log and not re.search(r"^!", log, re.MULTILINE)
    )


def test_html() -> None:
    text = html([TABLE])
    assert text.startswith("<!doctype html>") and text.rstrip().endswith("</html>")
    assert "<b>70.2 ± 1.5</b>" in text and "<u>9.0 ± 0.2</u>" in text
    assert entities.escape("one [a|b & <c>]") in text and "<c>" not in text
    assert '<th colspan="1">Published</th>' in text
    assert "http" not in text, "it needs nothing from elsewhere"


def test_methods_by_data_sets(tmp_path: Path) -> None:
    write(tmp_path, "a", record("one", train=50.0))
    write(tmp_path, "b", record("one", train=60.0, dataset="synthetic"))
    write(tmp_path, "c", record("two", train=40.0))
    write(tmp_path, "d", record("two", train=99.0, card={"hash": "bbbbbbbb"}))
    first, second = pivot(Store(tmp_path).runs(), tmp_path)
    assert [(c.group, c.title) for c in first.columns[2:]] == [
        ("Market-1501", "mAP"), ("Market-1501", "Rank-1"),
        ("synthetic", "mAP"), ("synthetic", "Rank-1"),
    ]  # fmt: skip
    assert [[cell.text for cell in row] for row in first.rows] == [
        ["two", "yes", "40.0", "60.0", "–", "–"],
        ["one", "yes", "50.0", "70.0", "60.0", "80.0"],
    ]
    assert [[cell.text for cell in row] for row in second.rows] == [["two", "yes", "99.0", "119.0"]]
    (only, _, _) = map(leaderboard, comparisons(tmp_path))
    assert only.methods == ("two", "one")

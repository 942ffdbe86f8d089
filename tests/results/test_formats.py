"""What goes into papers: LaTeX that compiles, its citations, HTML that is one whole page."""

from __future__ import annotations

import html as entities
import re
import shutil
import subprocess
from dataclasses import replace
from itertools import product
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
from tests.results.records import measure, record, write

#: with columns of 8.5 cm
DOCUMENT = r"""\documentclass[twocolumn]{article}
\usepackage[textwidth=17.5cm,columnsep=0.5cm,textheight=24cm]{geometry}
\usepackage{booktabs,siunitx,url}
\begin{document}\input{table}
{\sloppy PROTOCOLS \bibliographystyle{plain}\bibliography{table}}
\end{document}
"""
TABLE = Table(
    "a_b, protocol x",
    (
        Column("Method", numeric=False, named=True),
        Column("mAP"),
        Column("mAP", group="Published"),
    ),
    (
        (Cell("mskd [a|b & <c>]"), Cell("", 70.25, 11.5, mark="best"), Cell("", 70.0)),
        (Cell("two"), Cell("", 9.0, 0.25, mark="second"), Cell("–")),
    ),
    ("mskd", "nothing"),
    ("Protocol `x_1`: 50%, mskd.", "Read in, for mskd: a book."),
    "market1501",
    "x",
    caption="Results on market1501, protocol x.",
    cards=("Protocol `x_1`: 50%, mskd.",),
)


def test_markdown() -> None:
    lines = markdown([TABLE]).splitlines()
    assert lines[0] == "### a_b, protocol x"
    assert lines[2:4] == ["| Method | mAP | Published mAP |", "| --- | ---: | ---: |"]
    assert lines[4] == "| mskd [a\\|b & <c>] | **70.2 ± 11.5** | 70.0 |"
    assert lines[5] == "| two | <ins>9.0 ± 0.2</ins> | – |"
    assert {*TABLE.notes} <= {*lines}


def test_latex() -> None:
    text = latex([TABLE])
    assert r"MSKD [a|b \& $<$c$>$]~\cite{mskd} & \bfseries \num{70.2 +- 11.5} & 70.0 \\" in text
    assert r"two & {\underline{\num{9.0 +- 0.2}}}\phantom{0} & {--} \\" in text
    assert r"\begin{tabular}{lrS[table-format=2.1]}" in text
    assert r" & {Published} \\" in text and r"\cmidrule(lr){3-3}" in text
    assert text.index(r"\cmidrule") > text.index("{Published}") > text.index(r"\toprule")
    assert r"\label{tab:market1501-x}" in text
    assert r"\label{tab:market1501-x-2}" in latex([TABLE, TABLE])
    found = bibliography(text)
    assert re.findall(r"@\w+\{(\w+),", found) == ["market1501", "mskd"]


def test_a_short_caption_leaves_protocols_to_an_appendix() -> None:
    held = r"Protocol \texttt{x\_\allowbreak{}1}: 50\%, mskd."
    text = latex([TABLE, TABLE])
    assert text.count(r"\caption{Results on Market-1501~\cite{market1501}, protocol x.}") == 2
    (command,) = re.findall(r"\\providecommand\{(\\protocolx[A-P]{6})\}", text)
    assert f"{command}}}{{{held}}}" in text, "the card is quoted, without titles"
    assert text.count(r"50\%") == 1, "two tables of a protocol share its command"
    below = text[text.index(r"\end{tabular}") :]
    assert "Read in, for MSKD: a book." in below
    full = latex([TABLE], caption="full")
    assert (
        rf"\caption{{Market-1501~\cite{{market1501}}. {held} Read in, for MSKD: a book.}}" in full
    )
    assert "providecommand" not in full and "parbox" not in full


def test_protocols_of_one_name_have_commands_of_their_own() -> None:
    other = replace(TABLE, cards=("Protocol `x_1`: 60%.",))
    commands = re.findall(r"providecommand\{(.*?)\}", latex([TABLE, other]))
    assert len(set(commands)) == 2 and all(name[1:].isalpha() for name in commands)


def test_numbers_are_in_line() -> None:
    """One without a deviation is padded by the width of the others' deviations."""
    cells = (Cell("", 1.0), Cell("", 2.0, 0.5), Cell("", 3.0, 10.5))
    column = latex([replace(TABLE, columns=(Column("mAP"),), rows=tuple((c,) for c in cells))])
    assert "1.0}\\phantom{${}\\pm000.$} \\\\" in column
    assert "0.5}\\phantom{0} \\\\" in column and "10.5} \\\\" in column
    negative = replace(TABLE, columns=(Column("from"),), rows=((Cell("", -7.8),),))
    assert "S[table-format=-1.1]" in latex([negative])


def test_rows_have_titles_in_papers_only(tmp_path: Path, command: Command) -> None:
    write(tmp_path, "a", record("ncplr_parts", train=50.0))
    write(tmp_path, "b", record("cluster_contrast", student=40.0))
    write(tmp_path, "c", record("of_mine", teacher=20.0, student=30.0))
    store = ["--store", str(tmp_path)]
    for words in ([], ["--by-dataset"], ["--rows", "dataset,method"]):
        text = command("table", *store, *words, "--format", "latex").out
        for row in (r"GL-NCPLR~\cite{ncplr} &", r"Cluster Contrast~\cite{cluster_contrast} &",
                    r"of\_mine &"):  # fmt: skip
            assert row in text, words
    heads = command(
        "table", *store, "--rows", "dataset", "--columns", "method", "--format", "latex"
    )
    assert "{{GL-NCPLR}}" in heads.out and "{{Cluster Contrast}}" in heads.out
    for style in ("terminal", "markdown", "csv", "html"):
        out = command("table", *store, "--format", style).out
        assert "ncplr_parts" in out and "GL-NCPLR" not in out, style
    path = tmp_path / "table.tex"
    assert command("table", *store, "--output", str(path)).status == 0
    cited = re.findall(r"@\w+\{(\w+),", path.with_suffix(".bib").read_text(encoding="utf-8"))
    assert cited == ["cluster_contrast", "market1501", "ncplr"]


def test_the_supervised_setting_is_no_method(tmp_path: Path) -> None:
    """In a caption the word keeps its meaning; the row of the method has its title."""
    write(tmp_path, "a", record("supervised", card={"setting": "supervised"}, train=90.0))
    (comparison,) = comparisons(tmp_path)
    text = latex([leaderboard(comparison)])
    assert "supervised, with its own training labels" in text
    assert "Supervised upper bound~\\cite{supervised}" in text


def test_a_comparison_cites_both_methods(command: Command) -> None:
    names = ("mskd", "cluster_contrast")
    answer = command("table", "--store", str(LEADERBOARD), "--dataset", "synthetic",
                     "--format", "latex", "--compare", *names)  # fmt: skip
    assert r"MSKD~\cite{mskd} & Cluster Contrast~\cite{cluster_contrast} & " in answer.out
    caption = (
        r"Differences in mAP on Synthetic pedestrians, protocol demo \(small, .*\): percentage"
    )
    assert re.search(caption, answer.out)


def test_help(command: Command) -> None:
    answer = command("table", "--help")
    assert answer.status == 0
    for option in ("short (a sentence", "narrow (one)", "--output FILE", "% closed"):
        assert option in answer.out


@pytest.mark.parametrize("output", ["t.tex", "t.md", "t.csv", "t.html", "T.TEX"])
def test_the_ending_chooses_the_format(output: str, tmp_path: Path, command: Command) -> None:
    write(tmp_path / "runs", "a", record())
    style = {"tex": "latex", "md": "markdown"}.get(end := output.split(".")[1].lower(), end)
    base = ("table", "--store", "runs")
    assert command(*base, "--output", output).status == 0
    written = (tmp_path / output).read_text(encoding="utf-8")
    assert written == command(*base, "--format", style).out
    other = "csv" if style == "markdown" else "markdown"
    assert command(*base, "--output", output, "--format", other).status == 0
    assert (tmp_path / output).read_text(encoding="utf-8") == command(*base, "--format", other).out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--output t.txt", "'.txt' is the ending of no format. Use .tex, .md, .csv, .html, or"),
        ("--output table", "--output table: it has no ending. Use .tex"),
        ("--format terminal --output t.md", "--format terminal writes to no file. Choose another"),
        ("--layout narrow", "--caption and --layout apply to LaTeX; this is terminal."),
        ("--output t.md --caption full", "apply to LaTeX; this is markdown. Add --format latex"),
        ("--output t.tex --published", "--published has no format latex"),
    ],
)
def test_formats_that_do_not_fit(words: str, said: str, tmp_path: Path, command: Command) -> None:
    write(tmp_path / "runs", "a", record())
    answer = command("table", "--store", "runs", *words.split())
    assert answer.status == 2 and said in " ".join(answer.err.split())
    assert not [path for path in tmp_path.iterdir() if path.name != "runs"]


def test_narrow_tables_have_fewer_columns(tmp_path: Path, command: Command) -> None:
    write(tmp_path, "a", record("cluster_contrast", train=50.0))
    measure(tmp_path, "x", mskd=2.0, cluster_contrast=1.0)
    base = ("table", "--store", str(tmp_path), "--format", "latex")
    wide, narrow = command(*base).out, command(*base, "--layout", "narrow").out
    assert r"\begin{table*}" in wide and r"\begin{table}" in narrow
    for left_out in (
        "Rank-5",
        "mINP",
        "Seeds",
        "Published",
        "Hours",
        "timed side by side",
        "Published numbers were read in",
    ):
        assert left_out in wide and left_out not in narrow, left_out
    assert "Method & Cameras & {mAP} & {Rank-1} \\\\" in narrow
    chosen = command(*base, "--layout", "narrow", "--metrics", "mINP,cost").out
    assert "Method & Cameras & {mINP} & {Cost $\\times$ Cluster Contrast} \\\\" in chosen
    assert "timed side by side" in chosen
    assert r">{\raggedright\arraybackslash}p{0.33\linewidth}" not in narrow
    write(tmp_path, "b", record("cluster_contrast", settings="a_long_word_in_a_label", train=40.0))
    assert (
        r">{\raggedright\arraybackslash}p{0.33\linewidth}"
        in command(*base, "--layout", "narrow").out
    )


def test_escapes() -> None:
    assert escape("50% of_a\\b {x}") == r"50\% of\_a\textbackslash{}b \{x\}"


def test_every_reference_is_called_as_its_folder() -> None:
    found = references()
    trained = {name for name in plugins.find()["methods"] if name != "direct_transfer"}
    assert trained <= set(found), "a method's paper stands in its reference.bib"
    for path in found.values():
        text = path.read_text(encoding="utf-8")
        assert re.match(rf"@\w+\{{{path.parent.name},\n", text), path
        assert all(f"  {field} = {{" in text for field in ("author", "title", "year")), path
        assert text.count("{") == text.count("}"), path


#: tables of a paper, as options, caption and layout; two of them sooner than the slow tests
SOONER = [([], "short", "narrow"), (["--compare"], "full", "wide")]
PAPERS = [
    pytest.param(*paper, marks=[] if paper in SOONER else pytest.mark.slow)
    for paper in product(
        ([], ["--by-dataset"], ["--compare"]), ("short", "full"), ("wide", "narrow")
    )
]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX is installed")
@pytest.mark.parametrize(("options", "caption", "layout"), PAPERS)
def test_latex_compiles(
    options: list[str], caption: str, layout: str, command: Command, tmp_path: Path
) -> None:
    """In a paper of two columns, into which every table of the leaderboard fits."""
    how = ["--caption", caption, "--layout", layout, "--output", "table.tex"]
    answer = command("table", "--store", str(LEADERBOARD), *options, *how)
    assert answer.status == 0, answer.err
    text = (tmp_path / "table.tex").read_text(encoding="utf-8")
    protocols = re.findall(r"\\providecommand\{(.*?)\}", text)
    assert bool(protocols) == (caption == "short")
    paper = DOCUMENT.replace("PROTOCOLS", "\n\n".join(protocols))
    (tmp_path / "paper.tex").write_text(paper, encoding="utf-8")
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
    overfull = re.findall(r"Overfull \\hbox \((.*?)pt too wide\)", log)
    assert all(float(width) <= 1 for width in overfull), log


def test_html() -> None:
    text = html([TABLE])
    assert text.startswith("<!doctype html>") and text.rstrip().endswith("</html>")
    assert "<b>70.2 ± 11.5</b>" in text and "<u>9.0 ± 0.2</u>" in text
    assert entities.escape("mskd [a|b & <c>]") in text and "<c>" not in text
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

"""The page as text: everything in the store, escaped, and nothing from other places."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from harness.core import plugins
from harness.results.report import render
from harness.results.report.chart_data import short_labels
from harness.results.report.methods import idea, rendered
from harness.results.store import Run, Store
from tests.conftest import Command
from tests.paths import LEADERBOARD
from tests.results.report.stores import HOSTILE, HOSTILE_RUN, add, large, mixed


class Page(HTMLParser):
    """The elements of a page, in order, and the text in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.words.append((self.open[-1] if self.open else "", data))

    def text(self) -> str:
        """All text except in scripts and styles."""
        return " ".join(data for tag, data in self.words if tag not in ("script", "style"))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def specs(self) -> list[dict[str, Any]]:
        """Vega-Lite specifications of the charts."""
        scripts = [data for tag, data in self.words if tag == "script" and data.startswith("{")]
        return [spec for spec in map(json.loads, scripts) if "$schema" in spec]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return render(mixed(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_text_from_records_is_text(page: Page, text: str) -> None:
    assert len([a for a in page.all("script") if "type" not in a]) == 2, "Vega and the page's own"
    assert any(HOSTILE in json.dumps(spec).replace(r"\"", '"') for spec in page.specs())
    assert "<script>alert" not in text and "alert(&#39;r&#39;)" in text
    assert HOSTILE in page.text() and HOSTILE_RUN in page.text()
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_nothing_comes_from_elsewhere(page: Page) -> None:
    for tag, attributes in page.elements:
        assert tag not in ("img", "link", "iframe", "object", "embed", "audio", "video", "base"), (
            tag
        )
        assert "src" not in attributes
        if tag != "a":
            assert "href" not in attributes
    (policy,) = [m for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy["content"]).startswith("default-src 'none'")
    styles = " ".join(data for tag, data in page.words if tag == "style")
    assert "url(" not in styles and "@import" not in styles


def test_identifiers_and_links_fit(page: Page) -> None:
    names = [a["id"] for _, a in page.elements if "id" in a]
    assert len(names) == len(set(names))
    targets = {str(a["href"]) for a in page.all("a")}
    assert {t[1:] for t in targets if t.startswith("#")} <= set(names)
    assert all(t.startswith(("#", "https://")) for t in targets)
    for _, attributes in page.elements:
        named = str(attributes.get("aria-labelledby") or "").split()
        assert set(named) <= set(names)


def test_every_chart_has_words_and_numbers(page: Page) -> None:
    numbers = [a for a in page.all("details") if a.get("class") == "data"]
    specs = page.specs()
    assert len(specs) == len(numbers) == len(page.all("figure")) > 10
    for spec in specs:
        assert re.search(r"\. \d+ rows; their numbers are in the table below", spec["description"])
        assert [tip["title"] for tip in _tooltips(spec)].count("row") >= 1


def _tooltips(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for layer in spec["layer"]:
        yield from layer["encoding"].get("tooltip", [])


def test_ticks_of_epochs_are_integers_and_warm_up_is_named(tmp_path: Path) -> None:
    folder = add(tmp_path, "run", "mskd", epochs=2)
    rows = json.loads((folder / "history.json").read_text())
    for row in rows:
        row["epoch"] -= 1
    (folder / "history.json").write_text(json.dumps(rows))
    spec = next(s for s in Page(render(tmp_path)).specs() if "loss" in s["description"])
    x = spec["layer"][0]["encoding"]["x"]
    assert (x["axis"]["format"], x["axis"]["tickMinStep"]) == ("d", 1)
    assert x["title"] == "epoch (below 0: warm-up)" and x["scale"]["domain"] == [-1, 0]


def test_tables_are_those_of_the_store(page: Page, text: str) -> None:
    headings = re.findall(r'<h2 id="b\d-h">(.*?) <code', text)
    assert headings == [
        "market1501, protocol common", "market1501, protocol common", "synthetic, protocol common",
    ]  # fmt: skip
    assert (
        "The protocol differs from that of the table above with the same name: input 128x64."
        in page.text()
    )
    first = text[text.index('id="b0"') : text.index('id="b1"')]
    rows = re.findall(r'<th scope="row">.*?<a[^>]*>(.*?)</a>', first)
    assert rows == ["mskd", "mskd (teacher)", "cluster_contrast", "hhcl", "direct_transfer"]
    assert "<b>71.0 ± 3.6</b>" in first, "bold, as it leads significantly"
    assert 'data-value="85.7"' in first, "published, in a column of its own"
    assert '<th colspan="2" scope="colgroup">Published</th>' in first
    assert "<dt>input</dt><dd>256x128</dd>" in first, "the protocol card"


def test_damaged_and_unfinished_runs_are_listed(page: Page) -> None:
    words = page.text()
    assert "damaged: record.json cannot be read" in words
    assert "curves left out: history.json cannot be read" in words
    assert "Unfinished runs" in words and "begun" in words


def test_methods_have_their_idea_and_paper(text: str) -> None:
    part = text[text.index("<h3>mskd</h3>") :]
    assert "Three views of each image are clustered with one fused distance" in part
    assert 'href="https://arxiv.org/abs/2204.09931"' in part
    assert "What the authors" not in part.split("</details>")[0]
    assert "method.name: mskd" in part


def test_a_sentence_may_go_over_lines() -> None:
    for plugin in plugins.find()["methods"].values():
        text = idea((plugin.folder / "README.md").read_text(encoding="utf-8"))
        sentence = plugins.first_sentence(text.split("\n\n")[0])
        assert f"{sentence}." in " ".join(text.split()) and "\n" not in sentence, plugin.name


@pytest.mark.parametrize(
    ("markdown", "kept", "never"),
    [
        ("a <script>x</script>", "&lt;script&gt;", "<script"),
        ("[a](javascript:alert(1))", "a", "href"),
        ("[its page](../mskd/README.md)", "its page", "href"),
        ("[a](https://a.example)", 'href="https://a.example"', "<script"),
        ("![b](https://a.example/b.png)", "b", "<img"),
        ("| a | b |\n| --- | --- |\n| 1 | 2 |", "<table>", "| a"),
    ],
)
def test_readmes_bring_no_markup(markdown: str, kept: str, never: str) -> None:
    found = rendered(markdown)
    assert kept in found and never not in found


def test_same_records_same_page(text: str, tmp_path: Path) -> None:
    assert render(mixed(tmp_path)) == text


def test_the_leaderboard() -> None:
    text = render(LEADERBOARD)
    assert len(text) < 1_700_000  # 900 kB of it are Vega, the rest are the numbers of 120 runs
    assert str(Path.home()) not in text and 'id="left-out"' not in text


def test_command(command: Command, tmp_path: Path) -> None:
    mixed(tmp_path / "results" / "runs")
    answer = command("report")
    assert (answer.status, answer.out) == (0, "report.html\n")
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert command("report", "--output", "a/b.html").status == 0
    assert (tmp_path / "a" / "b.html").is_file()


def test_an_empty_store(command: Command, tmp_path: Path) -> None:
    answer = command("report", "--store", "nowhere")
    assert answer.status == 2
    assert "no finished runs in nowhere" in answer.err and "harness run" in answer.err
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("runs", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_runs(runs: int, tmp_path: Path) -> None:
    store = large(tmp_path, runs)
    render(store)  # once, so that only this store's work is timed
    started = time.process_time()
    text = render(store)
    assert time.process_time() - started < 2 + 0.01 * runs
    assert len(text) < 1_100_000 + 4_000 * runs  # 900 kB of it are Vega


def test_a_run_that_vanishes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is listed once, and what is read later may be gone."""
    store = mixed(tmp_path)
    listed: list[int] = []

    def runs(self: Store) -> Iterator[Run]:
        found = list(all_runs(self))
        listed.append(len([run.record for run in found if not run.problem]))
        shutil.rmtree(store / "mskd-1")
        shutil.rmtree(store / "small-1")
        yield from found

    all_runs = Store.runs
    monkeypatch.setattr(Store, "runs", runs)
    text = render(store)
    assert listed == [14]
    assert "71.0 ± 3.6" in text and "small-1" in text


def test_the_page_needs_no_torch(tmp_path: Path) -> None:
    mixed(tmp_path / "runs")
    script = (
        "import sys\n"
        "from harness.results.report import write_report\n"
        "assert 'altair' not in sys.modules\n"
        f"write_report({str(tmp_path / 'runs')!r}, {str(tmp_path / 'a.html')!r})\n"
        "assert 'altair' in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


HEADS = {"svg": b"<svg", "png": b"\x89PNG", "pdf": b"%PDF"}


@pytest.mark.parametrize("style", HEADS)
def test_charts_as_files(style: str, command: Command, tmp_path: Path) -> None:
    store = tmp_path / "results" / "runs"
    for seed in range(2):
        add(store, f"run-{seed}", "mskd [labeler.eps=0.5]", seed, epochs=2)
    answer = command("report", "--charts", style)
    assert (answer.status, answer.out) == (0, "report.html\n6 charts in report-charts\n")
    paths = sorted((tmp_path / "report-charts").iterdir())
    charts = {path.stem.rsplit("-", 1)[1] for path in paths}
    assert charts == {"seeds", "loss", "clusters", "outliers", "ari", "nmi"}
    assert all(path.read_bytes().startswith(HEADS[style]) for path in paths)
    if style == "svg":
        texts = [path.read_text() for path in paths]
        assert not any("var(" in text for text in texts), "colors are those of the light scheme"
        assert all("mskd [labeler.eps=0.5]" in text for text in texts)


def test_wrong_chart_options(tmp_path: Path, command: Command) -> None:
    mixed(tmp_path / "results" / "runs")
    assert "--charts" in command("report", "--charts-dir", "a").err
    assert command("report", "--charts", "gif").status == 2
    assert not (tmp_path / "report.html").exists()


# --------------------------------------------------------------------------------- row labels


@pytest.mark.parametrize(
    "names",
    [
        ["mskd", "spcl"],
        ["mskd", "mskd"],
        ["a" * 40, "a" * 50, "a" * 40],
        [f"mskd [distiller.teacher=mskd-market1501-s0-2a2c31d2, labeler.eps=0.{n}]" for n in "567"],
        [f"{'x' * 30}{n}{'y' * 30}" for n in range(4)],
        ["p" * 20 + "q" + "r" * 40, "p" * 20 + "r" + "r" * 40, "p" * 20 + "q" + "s" + "r" * 39],
    ],
)
def test_labels_are_short_and_never_alike(names: list[str]) -> None:
    labels = short_labels(names)
    assert len(set(labels)) == len(names)
    for name, label in zip(names, labels, strict=True):
        assert len(label) <= 34
        assert label == name or "…" in label or names.count(name) > 1


def test_a_long_name_loses_its_middle() -> None:
    assert short_labels(["mskd [distiller.teacher=mskd-s0-2a2c31d2]"]) == [
        "mskd [distiller…d-s0-2a2c31d2]"
    ]


def test_a_chart_of_zeros_is_left_out(command: Command, tmp_path: Path) -> None:
    folder = add(tmp_path / "results" / "runs", "floor", "supervised", epochs=2)
    rows = json.loads((folder / "history.json").read_text())
    (folder / "history.json").write_text(json.dumps([{**row, "outliers": 0} for row in rows]))
    assert command("report", "--charts", "svg").status == 0
    charts = {path.stem.rsplit("-", 1)[1] for path in (tmp_path / "report-charts").iterdir()}
    assert charts == {"loss", "clusters", "ari", "nmi"}

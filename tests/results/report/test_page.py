"""The page as text: all that is in the store, escaped, and nothing from elsewhere."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from harness.core import plugins
from harness.results.report import render
from harness.results.report.methods import first_sentence, idea, rendered
from tests.conftest import Command
from tests.paths import LEADERBOARD
from tests.results.report.stores import HOSTILE, HOSTILE_RUN, large, mixed


class Page(HTMLParser):
    """What tests ask of a page: its elements, in order, and the text within them."""

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
        """All text but that of scripts and styles."""
        return " ".join(data for tag, data in self.words if tag not in ("script", "style"))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return render(mixed(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_text_from_records_is_text(page: Page, text: str) -> None:
    assert len(page.all("script")) == 1, "the page's own"
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
    charts = [a for a in page.all("svg") if a.get("role") == "img"]
    numbers = [a for a in page.all("details") if a.get("class") == "data"]
    assert len(charts) == len(numbers) > 10
    assert all(str(a["aria-labelledby"]).count(" ") == 1 for a in charts)
    assert len(page.all("title")) >= len(charts) and len(page.all("desc")) == len(charts)
    assert all(a.get("role") == "img" or a.get("aria-hidden") == "true" for a in page.all("svg"))


def test_tables_are_those_of_the_store(page: Page, text: str) -> None:
    headings = re.findall(r'<h2 id="b\d-h">(.*?) <code', text)
    assert headings == [
        "market1501, protocol common", "market1501, protocol common", "synthetic, protocol common",
    ]  # fmt: skip
    assert (
        "Not the protocol of the table above that has the same name: input 128x64." in page.text()
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
    assert "Three views of each image vote on the clusters" in part
    assert 'href="https://arxiv.org/abs/2204.09931"' in part
    assert "What the authors" not in part.split("</details>")[0]
    assert "method.name: mskd" in part


def test_a_sentence_may_go_over_lines() -> None:
    for plugin in plugins.find()["methods"].values():
        text = idea((plugin.folder / "README.md").read_text(encoding="utf-8"))
        sentence = first_sentence(text)
        assert sentence.endswith(".") and "\n" not in sentence, plugin.name


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
    assert len(text) < 500_000
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
    # 1,000 take 5 seconds of a processor, half of them for the tables themselves
    assert time.process_time() - started < 2 + 0.01 * runs
    assert len(text) < 200_000 + 4_000 * runs


# ------------------------------------------------------------------------------------- geometry


def test_scales() -> None:
    scale = linear([3.0, 87.0], 100.0, 0.0)
    assert scale.ticks == (0, 20, 40, 60, 80, 100)
    assert (scale(0), scale(100)) == (100.0, 0.0)
    assert linear([-1, 6], 0, 70, zero=False, whole=True).ticks == (0, 2, 4, 6)
    assert linear([5, 5], 0, 1, zero=False, whole=True)(5) == 0
    log = logarithmic([10.0, 1000.0], 0.0, 1.0)
    assert set(log.ticks) == {10, 20, 50, 100, 200, 500, 1000} or log.ticks == (10, 100, 1000)
    assert log(100.0) == pytest.approx(0.5)


def test_paths_are_short_and_do_not_drift() -> None:
    assert polyline([(1.0, 2.0), (1.26, 2.0), (4.0, 1.55)]) == "M1 2l0.3 0 2.7 -0.4"
    assert polyline([(1.0, 2.0)]) == "M1 2h0", "a point is a line of no length"


def test_labels_do_not_cover_each_other() -> None:
    wanted = [50.0, 51.0, 52.0, 198.0, 199.0, 5.0]
    places = spread_out(wanted, 12.0, 10.0, 200.0)
    ordered = sorted(places)
    assert all(b - a >= 12 - 1e-9 for a, b in pairwise(ordered))
    assert min(places) >= 10 and max(places) <= 200
    assert sorted(range(6), key=lambda i: places[i]) == sorted(range(6), key=lambda i: wanted[i])


def test_thinned() -> None:
    assert list(thinned(4, 8)) == [0, 1, 2, 3]
    found = list(thinned(1000, 8))
    assert len(found) == 8 and (found[0], found[-1]) == (0, 999)

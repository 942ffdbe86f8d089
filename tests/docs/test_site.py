"""The built site: no broken link, nothing from the network, tables that sort, search from disk."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt

from tests.paths import ROOT
from tests.results.report.conftest import Browser, browser

__all__ = ["browser"]  # a fixture
pytestmark = pytest.mark.slow
#: element → attribute that makes a browser load an address at once
LOADED = {"script": "src", "img": "src", "iframe": "src", "link": "href"}
#: elements whose number in a page must be that which the code host shows
COUNTED = ("li", "tr", "pre", "h2", "h3", "img")


class Html(HTMLParser):
    """A page: its ids, links, loaded addresses, and elements of its article."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.counts = dict.fromkeys(COUNTED, 0)
        self.inside = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        values = dict(attrs)
        self.inside |= tag == "article"
        if self.inside and tag in COUNTED:
            self.counts[tag] += 1
        self.ids |= {values[key] for key in ("id", "name") if values.get(key)}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if (address := values.get(LOADED.get(tag, ""))) and values.get("rel") != "canonical":
            self.loaded.append(address)

    def handle_endtag(self, tag: str) -> None:
        self.inside &= tag != "article"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make docs` builds it."""
    pytest.importorskip("material", reason="the extra docs is not installed")
    pytest.importorskip("mkdocstrings")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@cache
def page(path: Path) -> Html:
    return Html(path)


def html(site: Path) -> Iterator[Path]:
    yield from sorted(site.rglob("*.html"))


def test_no_link_is_broken(site: Path) -> None:
    """Pages, files, images and anchors exist."""
    broken = []
    for path in html(site):
        if path.name == "404.html":  # its links begin at the root of a server
            continue
        for address in (*page(path).links, *page(path).loaded):
            split = urlsplit(address)
            if split.scheme in ("http", "https", "mailto", "data", "javascript"):
                continue
            target = (path.parent / unquote(split.path)).resolve() if split.path else path
            anchor = unquote(split.fragment)
            exists = target.is_file()
            if not exists or (anchor not in ("", "__top") and anchor not in page(target).ids):
                broken.append((path.relative_to(site).as_posix(), address))
    assert not broken


def test_nothing_comes_from_the_network(site: Path) -> None:
    for path in html(site):
        assert not [a for a in page(path).loaded if urlsplit(a).netloc], path
    for path in (*site.rglob("site.css"), *site.glob("site/*.js")):
        assert "http" not in path.read_text(encoding="utf-8").replace("file://", ""), path


def test_pages_show_what_the_code_host_shows(site: Path) -> None:
    """Lists, tables, blocks and headings are read alike by both dialects of Markdown."""
    parser = MarkdownIt("commonmark").enable("table")
    kinds = {"list_item_open": "li", "tr_open": "tr", "fence": "pre", "code_block": "pre"}
    different = []
    docs = {path: site / f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md")}
    for kind in ("methods", "datasets"):
        for path in (ROOT / kind).glob("*/README.md"):
            docs[path] = site / kind / path.parent.name / "index.html"
    for source, target in docs.items():
        if source.stem == "api":  # has docstrings
            continue
        expected = dict.fromkeys(COUNTED, 0)
        tokens = parser.parse(source.read_text(encoding="utf-8"))
        for token in tokens:
            name = kinds.get(token.type, token.tag if token.type == "heading_open" else "")
            if name in expected:
                expected[name] += 1
            expected["img"] += sum(child.type == "image" for child in token.children or ())
        found = page(target).counts
        if found != expected:
            different.append((source.relative_to(ROOT).as_posix(), expected, found))
    assert not different


def test_every_method_and_data_set_has_a_page(site: Path) -> None:
    for kind in ("methods", "datasets"):
        for readme in (ROOT / kind).glob("*/README.md"):
            assert (site / kind / readme.parent.name / "index.html").is_file()


def leaderboard(site: Path) -> Path:
    (found,) = (site / "leaderboard").glob("synthetic-demo-*.html")
    return found


def column(browser: Browser, place: int) -> list[str]:
    script = """return Array.from(document.querySelectorAll(".leaderboard tbody tr"))
        .filter(r => !r.hidden).map(r => r.cells[arguments[0]].textContent)"""
    found: list[str] = browser.js(script, place)
    return found


def test_tables_sort_and_filter_by_keyboard(site: Path, browser: Browser) -> None:
    browser.open(leaderboard(site))
    browser.js("document.querySelector('.leaderboard thead button').focus()")
    browser.keys("\ue004", "\ue004", "\ue007")  # Tab to mAP, Enter
    assert browser.js("return document.activeElement.textContent") == "mAP"
    state = "return document.querySelectorAll('.leaderboard th')[2].getAttribute('aria-sort')"
    assert browser.js(state) == "descending"
    values = [float(text.split()[0]) for text in column(browser, 2)]
    assert len(values) > 5 and values == sorted(values, reverse=True)
    browser.keys(" ")
    assert browser.js(state) == "ascending"
    assert [float(text.split()[0]) for text in column(browser, 2)] == sorted(values)
    assert browser.js("return document.querySelectorAll('[aria-sort]').length") == 1
    browser.js("document.querySelector('.leaderboard input').focus()")
    browser.keys("mskd")
    assert set(column(browser, 0)) == {"mskd", "mskd (teacher)"}
    shown = browser.js("return document.querySelector('.leaderboard output').textContent")
    assert shown.startswith("2 of ")
    browser.js("""const s = document.querySelector('.leaderboard select'); s.value = 'no';
        s.dispatchEvent(new Event('input', {bubbles: true}))""")
    assert column(browser, 0) == []


def test_the_first_tab_skips_to_the_content(site: Path, browser: Browser) -> None:
    browser.open(site / "get-started.html")
    browser.keys("\ue004")
    assert browser.js("return document.activeElement.matches('.md-skip')")
    outline = "return getComputedStyle(document.activeElement).outlineWidth"
    assert float(browser.js(outline).removesuffix("px")) >= 2


def test_search_works_from_the_disk(site: Path, browser: Browser) -> None:
    """Without a server and without a network, nor an error in the console."""
    browser.open(site / "index.html")
    browser.js("document.querySelector('.md-search__input').focus()")
    browser.keys("outliers")
    found = "return document.querySelectorAll('.md-search-result__item').length"
    for _ in range(100):
        if browser.js(found):
            break
        browser.settle()
    assert browser.js(found) >= 2
    assert not browser.console()
    assert all(url.startswith(("file:", "data:", "about:")) for url in browser.requests())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_pages_are_not_wider_than_the_window(
    site: Path, browser: Browser, width: int, scheme: str
) -> None:
    for path in (site / "index.html", site / "options.html", leaderboard(site)):
        browser.open(path, width, scheme)
        assert browser.js("return document.documentElement.scrollWidth <= innerWidth"), path
    dark = browser.js("return document.body.dataset.mdColorScheme") == "slate"
    assert dark == (scheme == "dark")


def test_links_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are linked as pages, other files in the repository, or not; code stays."""
    pytest.importorskip("mkdocs")
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "site"))
    hooks = __import__("hooks")
    known = hooks.pages()

    def links(text: str, repository: str | None = None) -> tuple[str, list[str]]:
        found: tuple[str, list[str]] = hooks.relinked(
            text, "methods/mskd/README.md", "methods/mskd/README.md", known, repository
        )
        return found

    assert links("[`x`](../../docs/data.md#a), [y](https://e.org)") == (
        "[`x`](../../data.md#a), [y](https://e.org)", [],
    )  # fmt: skip
    assert links("[r](../../results/README.md)")[0] == "[r](../../leaderboard/index.md)"
    assert links("[c](config.yaml)") == ("c", [])
    assert links("[c](config.yaml)", "https://host/o/n/")[0] == (
        "[c](https://host/o/n/blob/main/methods/mskd/config.yaml)"
    )
    assert links("[gone](gone.py)")[1] == ["links to gone.py, which does not exist"]
    code = "```\n[c](config.yaml)\n```\n`[c](config.yaml)`"
    assert links(code) == (code, [])
    for name in ("hooks", "leaderboard"):
        sys.modules.pop(name, None)

"""The page in a real browser: sorting, filters, keyboard, light and dark, paper."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tests.results.report.conftest import Browser

ENTER, SPACE, TAB, END = "\ue007", " ", "\ue004", "\ue010"
FIRST = "document.querySelector('#b0 table.sorted')"
NAMES = (
    "return Array.from(document.querySelectorAll(arguments[0] + ' tbody tr:not(.off) a'))"
    ".map(a => a.textContent)"
)
#: text on its ground, below the contrast that WCAG 2.2 asks for (1.4.3)
FAINT = """
const channel = c => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
const numbers = text => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
const ground = node => {
  for (; node; node = node.parentElement) {
    const found = numbers(getComputedStyle(node).backgroundColor);
    if (found.length < 4 || found[3] > 0) return found;
  }
  return [255, 255, 255];
};
return Array.from(document.querySelectorAll('body *')).filter(node =>
  node.checkVisibility() && Array.from(node.childNodes).some(n => n.nodeType === 3 && n.data.trim())
).filter(node => !['SCRIPT', 'STYLE', 'title', 'desc'].includes(node.tagName)).map(node => {
  const style = getComputedStyle(node);
  const ink = numbers(node instanceof SVGElement ? style.fill : style.color);
  const [low, high] = [light(ink), light(ground(node))].sort((a, b) => a - b);
  return [(high + .05) / (low + .05), node.outerHTML.slice(0, 90)];
}).filter(([contrast]) => contrast < 4.5)
"""


def test_no_complaints_and_no_network(browser: Browser, report: Path) -> None:
    browser.open(report)
    assert browser.js("return document.title").endswith("results")
    assert browser.complaints() == []
    assert {address.split(":")[0] for address in browser.requests()} == {"file"}


def test_markup_in_names_does_nothing(browser: Browser, report: Path) -> None:
    browser.open(report)  # an alert would make every call fail
    assert browser.js("return document.scripts.length") == 1
    browser.js("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.bad=1\">')")
    assert browser.js("return window.bad") is None, "the page's policy forbids it"


def test_sorting(browser: Browser, report: Path) -> None:
    browser.open(report)
    best = browser.js(NAMES, "#b0")
    assert best == ["mskd", "mskd (teacher)", "cluster_contrast", "hhcl", "direct_transfer"]
    click = "document.querySelectorAll('#b0 .sorted thead tr:last-child button')[arguments[0]].click()"
    order = f"return Array.from({FIRST}.querySelectorAll('[aria-sort]')).map(h => [h.textContent, h.ariaSort])"
    browser.js(click, 2)
    assert browser.js(NAMES, "#b0") == best[::-1]
    assert browser.js(order) == [["mAP", "ascending"]]
    browser.js(click, 0)
    assert browser.js(NAMES, "#b0") == sorted(best)
    assert browser.js(order) == [["Method", "ascending"]]
    assert browser.js("return document.getElementById('said').textContent") == "Sorted by Method, ascending."
    heads = browser.js(f"return Array.from({FIRST}.querySelectorAll('thead tr:last-child th')).map(h => h.textContent)")
    for _ in range(2):  # what is missing comes last, whichever way
        browser.js(click, heads.index("Images/s"))
        assert browser.js(NAMES, "#b0")[-1] == "direct_transfer"
    other = browser.js("return document.querySelector('#b2 [aria-sort]').textContent")
    assert other == "mAP", "other tables stay as they are"


def _choose(browser: Browser, name: str, value: str) -> None:
    browser.js(
        "const box = document.getElementById(arguments[0]); box.value = arguments[1];"
        "box.dispatchEvent(new Event('input', {bubbles: true}));"
        "box.dispatchEvent(new Event('change', {bubbles: true}))",
        name, value,
    )  # fmt: skip


def test_filters(browser: Browser, report: Path) -> None:
    browser.open(report)
    boards = "return Array.from(document.querySelectorAll('.board')).filter(b => !b.hidden).map(b => b.id)"
    count = "return document.getElementById('found').textContent"
    assert browser.js(boards) == ["b0", "b1", "b2"] and browser.js(count) == "10 rows"
    _choose(browser, "f-text", "mskd")
    assert browser.js(NAMES, ".board") == ["mskd", "mskd (teacher)", "mskd"]
    assert browser.js(boards) == ["b0", "b2"] and browser.js(count) == "3 of 10 rows"
    shown = "return Array.from(document.querySelectorAll('#b0-mAP-t')).map(t => Array.from(t.parentNode.querySelectorAll('.s:not(.off)')).length)"
    assert browser.js(shown) == [2], "the lines of rows that are filtered out are gone, too"
    _choose(browser, "f-text", "SYNTHETIC spcl")
    assert browser.js(NAMES, ".board") == ["spcl"]
    _choose(browser, "f-text", "")
    _choose(browser, "f-dataset", "synthetic")
    _choose(browser, "f-cameras", "no")
    assert browser.js(NAMES, ".board") == ["buc"]
    methods = "return Array.from(document.querySelectorAll('.method')).filter(m => !m.hidden).length"
    assert browser.js(methods) == 1
    _choose(browser, "f-text", "nothing like it")
    assert browser.js("return document.getElementById('nothing').checkVisibility()")
    browser.js("document.getElementById('clear').click()")
    assert browser.driver.execute_async_script(
        "const done = arguments[0]; setTimeout(() => done(document.getElementById('found').textContent), 20)"
    ) == "10 rows"
    assert browser.js(boards) == ["b0", "b1", "b2"]


def test_keyboard(browser: Browser, report: Path) -> None:
    browser.open(report)
    focus = "return document.activeElement.textContent.trim()"
    browser.keys(TAB)
    assert browser.js(focus) == "Skip to the results"
    assert browser.js("return document.activeElement.getBoundingClientRect().top >= 0"), "seen"
    browser.keys(ENTER)
    assert browser.js("return document.activeElement.id") == "main"
    for _ in range(40):
        browser.keys(TAB)
        if browser.js(focus) == "mAP":
            break
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert browser.js(focus) == "mAP" and browser.js(outline) == "solid"
    browser.keys(SPACE)
    assert browser.js(NAMES, "#b0")[0] == "direct_transfer"
    browser.keys(ENTER)
    assert browser.js(NAMES, "#b0")[0] == "mskd"
    assert browser.js(focus) == "mAP", "the focus stays"
    browser.js(f"{FIRST}.querySelector('tbody a').focus()")
    lit = "return document.querySelectorAll('svg.some .hot').length > 3"
    assert browser.js(lit), "a row's lines stand out while it has the focus"
    browser.keys(ENTER)
    assert browser.js("return document.activeElement.parentNode.open && document.activeElement.tagName") == "SUMMARY"
    assert browser.js(focus).startswith("mskd")
    focusable = """return Array.from(document.querySelectorAll('.wide, pre')).filter(n => n.tabIndex !== 0).length"""
    assert browser.js(focusable) == 0, "what scrolls can be scrolled by keys"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours(browser: Browser, report: Path, scheme: str) -> None:
    browser.open(report, scheme=scheme)
    browser.js("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    ground = "return getComputedStyle(document.body).backgroundColor"
    grounds = {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 24, 28)"}
    assert browser.js(ground) == grounds[scheme]
    assert browser.js(FAINT) == []
    other = "dark" if scheme == "light" else "light"
    _choose(browser, "f-theme", other)
    assert browser.js(ground) == grounds[other], "the page's own switch goes before the system's"
    assert browser.js(FAINT) == []
    _choose(browser, "f-theme", "")
    assert browser.js(ground) == grounds[scheme]


@pytest.mark.parametrize("width", [400, 1280])
def test_widths(browser: Browser, report: Path, width: int) -> None:
    browser.open(report, width)
    browser.js("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert browser.js("return document.documentElement.scrollWidth") <= width
    small = "return Array.from(document.querySelectorAll('svg .label')).map(t => t.getBoundingClientRect().height)"
    assert min(browser.js(small)) > 9.5, "letters of charts can be read"
    columns = "return getComputedStyle(document.querySelector('.charts')).gridTemplateColumns.split(' ').length"
    assert browser.js(columns) == (1 if width == 400 else 3)


def test_paper(browser: Browser, report: Path) -> None:
    browser.open(report, scheme="dark")
    _choose(browser, "f-theme", "dark")
    browser.js(
        "addEventListener('beforeprint', () => { window.left = document.querySelectorAll('details:not([open])').length; })"
    )
    document = browser.send("Page.printToPDF", preferCSSPageSize=True)["data"]
    assert base64.b64decode(document).startswith(b"%PDF")
    assert browser.js("return window.left") == 0, "everything is open on paper"
    assert browser.js("return document.querySelectorAll('details:not([open])').length") > 10
    browser.media("dark", "print")
    assert browser.js("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for control in ("#controls", "#theme", "nav", ".skip"):
        shown = "return getComputedStyle(document.querySelector(arguments[0])).display"
        assert browser.js(shown, control) == "none"

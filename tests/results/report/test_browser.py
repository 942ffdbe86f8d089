"""The page in a real browser: charts, sorting, filters, keyboard, light and dark, paper."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tests.results.report.conftest import Browser

ENTER, SPACE, TAB, END = "\ue007", " ", "\ue004", "\ue010"
HEADS = "document.querySelectorAll('#b0 table.sorted thead tr:last-child th')"
NAMES = (
    "return Array.from(document.querySelectorAll(arguments[0] + ' tbody tr:not(.off) a'))"
    ".map(a => a.textContent)"
)
#: text whose contrast with its background is below what WCAG 2.2 requires (1.4.3)
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


def test_no_errors_and_no_network(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.draw()
    assert browser.js("return document.title").endswith("results")
    assert browser.console() == []
    assert {address.split(":")[0] for address in browser.requests()} == {"file"}


def test_markup_in_names_does_nothing(browser: Browser, report: Path) -> None:
    browser.open(report)  # an alert would make every call fail
    browser.draw()
    assert browser.js("return document.querySelectorAll('script:not([type])').length") == 2
    bad = """'<img src=x onerror="window.bad=1">'"""
    browser.js(f"document.body.insertAdjacentHTML('beforeend', {bad})")
    assert browser.js("return window.bad") is None, "the page's policy forbids it"


def test_sorting(browser: Browser, report: Path) -> None:
    browser.open(report)
    best = browser.js(NAMES, "#b0")
    assert best == ["mskd", "mskd (teacher)", "cluster_contrast", "hhcl", "direct_transfer"]
    heads = browser.js(f"return Array.from({HEADS}).map(head => head.textContent)")

    def click(title: str) -> list[str]:
        browser.js(f"{HEADS}[arguments[0]].querySelector('button').click()", heads.index(title))
        return browser.js(NAMES, "#b0")

    def order() -> list[list[str]]:
        sorts = "filter(head => head.ariaSort).map(head => [head.textContent, head.ariaSort])"
        return browser.js(f"return Array.from({HEADS}).{sorts}")

    assert order() == [["mAP", "descending"]]
    assert click("mAP") == best[::-1]
    assert order() == [["mAP", "ascending"]]
    assert click("Method") == sorted(best)
    assert order() == [["Method", "ascending"]]
    announced = browser.js("return document.getElementById('announced').textContent")
    assert announced == "Sorted by Method, ascending."
    for _ in range(2):  # missing values come last in both directions
        assert click("Hours")[-1] == "hhcl"
    other = browser.js("return document.querySelector('#b2 [aria-sort]').textContent")
    assert other == "mAP", "other tables do not change"


def _choose(browser: Browser, name: str, value: str) -> None:
    """Set a control as a user does."""
    browser.js(
        "const box = document.getElementById(arguments[0]); box.value = arguments[1];"
        "box.dispatchEvent(new Event('input', {bubbles: true}));"
        "box.dispatchEvent(new Event('change', {bubbles: true}))",
        name, value,
    )  # fmt: skip


def _shown(browser: Browser, what: str, of_each: str = "part.id") -> list[str]:
    """The visible ones of some elements."""
    parts = f"Array.from(document.querySelectorAll('{what}'))"
    seen = "part => part.checkVisibility() && part.getBoundingClientRect().width > 0"
    return browser.js(f"return {parts}.filter({seen}).map(part => {of_each})")


#: labels of the legend of the mAP chart of the first table
LEGEND = (
    "return Array.from(document.querySelectorAll("
    "'#b0-mAP .role-legend-label text')).map(label => label.textContent)"
)


LINES = "return Array.from(document.querySelectorAll('#b0-mAP .mark-line path'))"


def test_charts_show_the_row_under_the_pointer(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.draw()
    browser.js("document.querySelector('#b0-mAP').scrollIntoView()")
    browser.settle()
    where = browser.js(
        "const box = document.querySelector('#b0-mAP .mark-symbol.role-mark path')"
        ".getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]"
    )
    browser.point(*where)
    tip = "return document.querySelector('#vg-tooltip-element.visible')?.innerText"
    assert browser.js(tip).splitlines()[0].split() == ["row", "mskd"]
    hot = "return Array.from(document.querySelectorAll('tr.hot a')).map(a => a.textContent)"
    assert browser.js(hot) == ["mskd"], "its line in the table is marked"
    browser.point(1, 1)
    assert browser.js(tip) is None and browser.js(hot) == []


def test_filters(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.draw()
    assert browser.js(LEGEND) == ["mskd", "mskd (teacher)", "cluster_contrast", "direct_transfer"]
    count = "return document.getElementById('found').textContent"
    assert _shown(browser, ".leaderboard") == ["b0", "b1", "b2"] and browser.js(count) == "10 rows"
    _choose(browser, "f-text", "mskd")
    assert browser.js(NAMES, ".leaderboard") == ["mskd", "mskd (teacher)", "mskd"]
    assert _shown(browser, ".leaderboard") == ["b0", "b2"] and browser.js(count) == "3 of 10 rows"
    browser.settle()
    assert browser.js(LEGEND) == ["mskd", "mskd (teacher)"], "filters apply to charts, too"
    assert len(browser.js(LINES)) == 2
    _choose(browser, "f-text", "SYNTHETIC spcl")
    assert browser.js(NAMES, ".leaderboard") == ["spcl"]
    _choose(browser, "f-text", "")
    _choose(browser, "f-dataset", "synthetic")
    _choose(browser, "f-cameras", "no")
    assert browser.js(NAMES, ".leaderboard") == ["buc"]
    assert len(_shown(browser, ".method")) == 1
    _choose(browser, "f-text", "nothing like it")
    assert _shown(browser, "#nothing") == ["nothing"]
    browser.js("document.getElementById('clear').click()")
    browser.driver.execute_async_script("setTimeout(arguments[0], 20)")
    assert browser.js(count) == "10 rows" and _shown(browser, ".leaderboard") == ["b0", "b1", "b2"]


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
    browser.draw()
    opacities = f"{LINES}.map(line => line.getAttribute('opacity') ?? '1')"
    assert set(browser.js(opacities)) == {"1"}
    browser.js("document.querySelector('#b0 .sorted tbody a').focus()")
    browser.settle()
    assert sorted(browser.js(opacities)) == ["0.15", "0.15", "1"], "the focused row stands out"
    browser.keys(ENTER)
    opened = "return [document.activeElement.tagName, document.activeElement.parentNode.open]"
    assert browser.js(opened) == ["SUMMARY", True]
    assert browser.js(focus).startswith("mskd")
    scrolls = "Array.from(document.querySelectorAll('.wide, pre'))"
    unreached = browser.js(f"return {scrolls}.filter(part => part.tabIndex !== 0).length")
    assert unreached == 0, "scrolling areas can be scrolled by keys"


GROUND = "return getComputedStyle(document.body).backgroundColor"
GROUNDS = {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 24, 28)"}
OPEN_ALL = "document.querySelectorAll('details').forEach(part => { part.open = true; })"
DRAWN = "document.querySelectorAll('.chart svg').length"
CLOSED = "document.querySelectorAll('details:not([open])').length"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colors(browser: Browser, report: Path, scheme: str) -> None:
    browser.open(report, scheme=scheme)
    browser.draw()
    browser.js(OPEN_ALL)
    assert browser.js(GROUND) == GROUNDS[scheme]
    assert browser.js(FAINT) == []
    other = "dark" if scheme == "light" else "light"
    _choose(browser, "f-theme", other)
    assert browser.js(GROUND) == GROUNDS[other], "the page's own switch has priority"
    assert browser.js(FAINT) == []
    _choose(browser, "f-theme", "")
    assert browser.js(GROUND) == GROUNDS[scheme]


@pytest.mark.parametrize("width", [400, 1280])
def test_widths(browser: Browser, report: Path, width: int) -> None:
    browser.open(report, width)
    browser.draw()
    browser.js(OPEN_ALL)
    assert browser.js("return document.documentElement.scrollWidth") <= width
    heights = _shown(browser, ".chart text", "part.getBoundingClientRect().height")
    assert len(heights) > 100 and min(map(float, heights)) > 9.5, "text in charts is legible"
    columns = browser.js(
        "return getComputedStyle(document.querySelector('.charts')).gridTemplateColumns"
    )
    assert len(columns.split()) == (1 if width == 400 else 3)


def test_paper(browser: Browser, report: Path) -> None:
    browser.open(report, scheme="dark")
    _choose(browser, "f-theme", "dark")
    browser.js(
        f"addEventListener('beforeprint', () => {{ window.left = {CLOSED}; }});"
        f"matchMedia('print').addEventListener('change', () => {{ window.charts ??= {DRAWN}; }})"
    )
    drawn = browser.js(f"return {DRAWN}")
    assert drawn < browser.js("return document.querySelectorAll('.chart').length")
    document = browser.send("Page.printToPDF", preferCSSPageSize=True)["data"]
    assert base64.b64decode(document).startswith(b"%PDF")
    assert browser.js("return window.left") == 0, "everything is open on paper"
    assert browser.js(f"return {DRAWN}") == len(_shown(browser, ".chart")), "and drawn"
    assert browser.js(f"return {CLOSED}") > 10, "and closed again afterwards"
    browser.media("dark", "print")
    assert browser.js(GROUND) == GROUNDS["light"]
    for control in ("#controls", "#theme", "nav", ".skip"):
        assert _shown(browser, control) == []

"""The leaderboard's pages are the harness's own tables."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.results.comparisons import comparisons
from harness.results.table_model import leaderboard
from tests.paths import ROOT
from tests.results.records import card, measure, record, write


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`docs/site/leaderboard.py`, which is no package."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "site"))
    yield __import__("leaderboard").leaderboard_pages
    sys.modules.pop("leaderboard")


def test_a_page_for_each_table(pages: Any) -> None:
    """Every number of the committed records' tables is on its page, in its CSV and its JSON."""
    store = ROOT / "results" / "leaderboard"
    found = list(comparisons(store))
    index, *made = pages(store)
    assert len(made) == len(found) and len({page.name for page in made}) == len(made)
    for comparison, page in zip(found, made, strict=True):
        text = page.files[f"{page.name}.md"]
        assert f"]({page.name}.md)" in index.files["index.md"]
        table = leaderboard(comparison)
        for row in table.rows:
            assert all(f">{cell.text}<" in text for cell in row if cell.text)
        shown = re.findall(r'<th scope="row">(?:<a [^>]*>)?([^<]+)<', text)
        assert shown == list(comparison.rows["method"])[::-1], "best first"
        csv = pd.read_csv(io.StringIO(page.files[f"{page.name}.csv"]))
        assert list(csv["method"]) == list(comparison.rows["method"])
        assert csv["mAP"].tolist() == pytest.approx(comparison.rows["mAP"].tolist())
        data = json.loads(page.files[f"{page.name}.json"])
        assert [row["mAP"] for row in data["rows"]] == pytest.approx(csv["mAP"].tolist())
        assert data["protocol"] == comparison.card
        for name in set(re.findall(r'href="\.\./methods/(\w+)/', text)):
            assert (ROOT / "methods" / name / "README.md").is_file()


def test_costs_and_the_card(pages: Any, tmp_path: Path) -> None:
    """Measured costs are columns; the card is a table; two protocols of a name are two pages."""
    store = tmp_path / "runs"
    write(store, "a", record("mskd"))
    write(store, "b", record("cluster_contrast", train=50.0))
    write(store, "c", record("ice", card=card(input="384x128|x"), train=40.0))
    measure(store, "epyc", mskd=2.4, cluster_contrast=1.0)
    _, *made = pages(store)
    texts = [page.files[f"{page.name}.md"] for page in made]
    assert len(texts) == 2
    (timed,) = (text for text in texts if "cluster_contrast</a>" in text)
    (other,) = (text for text in texts if text != timed)
    for heading in ("Images/s", "Hours", "Cost × cluster_contrast"):
        assert f">{heading}</th>" in timed
    assert "| input | 256x128 |" in timed and r"| input | 384x128\|x |" in other
    assert 'data-value="2.4"' in timed


def test_the_table_is_one_block_of_html(pages: Any) -> None:
    """A blank line would end it in Markdown."""
    for page in pages(ROOT / "results" / "leaderboard")[1:]:
        text = page.files[f"{page.name}.md"]
        (block,) = re.findall(r'<div class="leaderboard">.*?</div>', text, re.DOTALL)
        assert "\n\n" not in block

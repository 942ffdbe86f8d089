"""The list of published numbers: whole, with sources, and the same wherever it is shown."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from harness.core import plugins
from harness.results import published
from tests.conftest import Command
from tests.paths import ROOT

PAGE = ROOT / "results" / "published.md"


def test_every_row_is_whole() -> None:
    rows = published.table()
    for key in (
        "method",
        "name",
        "venue",
        "year",
        "uses_cameras",
        "dataset",
        "backbone",
        "read_in",
    ):
        assert rows[key].notna().all(), key
    assert set(rows["dataset"]) == set(published.TITLES)
    assert rows["mAP"].between(0, 100).all() and rows["rank1"].between(0, 100).all()
    assert (rows["rank1"] > rows["mAP"]).all(), "two columns are swapped"
    assert not rows.duplicated(["name", "source", "dataset"]).any()
    assert set(rows["source"]) <= {"", *published.TITLES, *published.SOURCES}
    assert ((rows["setting"] == "UDA") == (rows["source"] != "")).all()


def test_settings_are_kept_apart() -> None:
    """A run shows the numbers of its own setting and source only."""
    uda = "UDA, source dukemtmcreid"
    shown = published.beside("market1501", "published", "spcl_uda", True, uda)
    assert shown["published_mAP"] == 76.7
    assert not published.beside("market1501", "published", "spcl_uda", True, "UDA, source msmt17")
    assert not published.beside("market1501", "published", "spcl_uda", True)
    assert published.beside("market1501", "published", "spcl", True)["published_mAP"] == 73.1
    for other in (uda, "supervised"):
        assert not published.beside("market1501", "published", "spcl", True, other)


@pytest.mark.parametrize("dataset", ["market1501", "msmt17"])
def test_the_fields_methods_are_there(dataset: str) -> None:
    rows = published.table()
    methods = set(rows.loc[rows["dataset"] == dataset, "method"])
    known = {"spcl", "cap", "ice", "ice_aware", "cluster_contrast", "cluster_contrast_infomap",
             "pplr_cameras", "mskd"}  # fmt: skip
    if dataset == "market1501":  # the others' papers have no MSMT17 without labels
        known |= {"direct_transfer", "strong_baseline", "buc", "mmt", "hhcl"}
    assert known <= methods


def test_the_page_is_made_of_the_list(command: Command) -> None:
    answer = command("table", "--published", "--format", "markdown")
    assert answer.out == PAGE.read_text(encoding="utf-8"), (
        "make it anew: harness table --published --format markdown --output results/published.md"
    )
    assert answer.out.count("| MSKD (arXiv v2 and TIP: LP) |") == 2


def test_one_data_set_and_csv(command: Command) -> None:
    msmt = command("table", "--published", "--dataset", "msmt17").out
    assert "### MSMT17\n" in msmt and "### Market-1501\n" not in msmt
    assert "### Market-1501 → MSMT17\n" in msmt and "→ DukeMTMC" not in msmt
    lines = command("table", "--published", "--format", "csv").out.splitlines()
    assert len(lines) == 1 + len(published.table())
    refused = command("table", "--published", "--dataset", "msmt71")
    assert refused.status == 2 and "'msmt17'" in refused.err


def numbers_of(page: str) -> set[tuple[str, float, float]]:
    """(data set, mAP, Rank-1) of the rows of a page's table of published numbers."""
    titles = {title: name for name, title in published.TITLES.items()}
    found = set()
    for section in re.findall(r"^## Published numbers.*?(?=^## |\Z)", page, re.S | re.M):
        for line in section.splitlines():
            cells = [cell.strip() for cell in line.strip("| ").split("|")]
            values = [float(cell) for cell in cells[1:] if re.fullmatch(r"\d+\.\d", cell)]
            if cells[0] in titles and len(values) >= 2:
                found.add((titles[cells[0]], values[0], values[1]))
    return found


@pytest.mark.parametrize("name", sorted(plugins.find()["methods"]))
def test_what_a_methods_page_says_is_in_the_list(name: str) -> None:
    """Every published number has one place, with its source; pages only repeat it."""
    page = (plugins.find()["methods"][name].folder / "README.md").read_text(encoding="utf-8")
    rows: pd.DataFrame = published.table()
    listed = set(rows[["dataset", "mAP", "rank1"]].itertuples(index=False, name=None))
    assert numbers_of(page) <= listed


def test_pages_have_numbers() -> None:
    """The reading above finds something."""
    pages = [p.folder / "README.md" for p in plugins.find()["methods"].values()]
    assert sum(len(numbers_of(page.read_text(encoding="utf-8"))) for page in pages) >= 10

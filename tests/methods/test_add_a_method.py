"""docs/add-a-method.md: its files in an empty folder, and its commands one by one."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from harness.core import plugins
from harness.experiment.compose import compose
from harness.experiment.recipe import make_recipe
from harness.experiment.registration import register
from harness.experiment.stages import build_labeler
from harness.results.store import Store
from tests.conftest import Command
from tests.paths import ROOT
from tests.test_readme import commands_in
from tests.tiny import tiny

PAGE = ROOT / "docs" / "add-a-method.md"
TEXT = PAGE.read_text(encoding="utf-8")
#: path → content of the files that the page has the reader write
FILES = dict(re.findall(r"^`(mine/\S+)`:\n\n```\w+\n(.*?)```$", TEXT, re.DOTALL | re.MULTILINE))


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Unregister the plug-ins of a test."""
    modules = set(sys.modules)
    yield
    for name in set(sys.modules) - modules:
        if name.startswith(plugins.ALIAS):
            del sys.modules[name]
    register()


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """The reader's plug-in folder."""
    for name, content in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return tmp_path / "mine"


def lines(*names: str) -> int:
    return sum(bool(line.strip()) for name in names for line in FILES[name].splitlines())


def test_the_page_counts_its_lines() -> None:
    assert {Path(name).name for name in FILES} == {
        "config.yaml", "method.py", "README.md", "all_images.yaml",
    }  # fmt: skip
    total, python = re.findall(r"\*\*(\d+) lines\*\* in four\s+files, (\d+) of them Python", TEXT)[
        0
    ]
    assert int(total) == lines(*FILES) < 100
    assert int(python) == lines("mine/methods/pul/method.py")


@pytest.mark.usefixtures("mine")
def test_its_commands_run_to_the_end(command: Command, tmp_path: Path) -> None:
    """On the tiny data set; the last command prints a row for each run."""
    small = [x for x in tiny(tmp_path) if not x.startswith(("dataset=", "store="))]
    answers = []
    for line in commands_in(TEXT.split("## 6. Run it")[1]):
        words = [word.replace("clusters=60", "clusters=8") for word in shlex.split(line)[1:]]
        if "run" in words:
            words += small
        answers.append(command(*words))
        assert answers[-1].status == 0, answers[-1].err
    listed, *_, table = (answer.out for answer in answers)
    assert "k-means, and of its clusters only the images near" in listed
    assert "pul/all_images " in listed
    for row in ("pul [", "pul_all_images [", "pul [objective=cluster_memory, "):
        row += "clusters=8] "
        assert any(line.startswith(row) for line in table.splitlines()), row
    runs = {run.record["experiment"]["method"]: run for run in Store(Path("results/runs")).runs()}
    assert set(runs) == {"pul", "pul_all_images"}
    assert all(run.record["protocol"]["cameras"] is False for run in runs.values())


def test_its_labels_are_the_papers(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image between two tight clusters keeps no label."""
    monkeypatch.setenv("HARNESS_PLUGINS", str(mine))
    chosen = ["method=pul", "labeler.clusters=2", "labeler.threshold=0.9"]
    config = compose([*chosen, "protocol=published"])
    assert config.train.label_every * config.train.epochs == 20, "rounds of 20 passes"
    (stage,) = make_recipe(config).stages
    angles = torch.tensor([0.0, 1.0, 2.0, 88.0, 89.0, 90.0, 40.0]).deg2rad()
    x = F.normalize(torch.stack([angles.cos(), angles.sin()], dim=1), dim=1)[:, None]
    found = build_labeler(stage).label(x)
    a, b = int(found.labels[0]), int(found.labels[3])
    assert found.labels.tolist() == [a] * 3 + [b] * 3 + [-1] and {a, b} == {0, 1}
    assert found.stats == {"clusters": 2, "outliers": 1}


def test_nothing_else_is_edited(mine: Path) -> None:
    """No file outside the folder mentions PUL."""
    assert [path.name for path in (mine / "methods").iterdir()] == ["pul"]
    root = PAGE.parents[1]
    for folder in ("harness", "methods", "datasets"):
        sources = [p for p in (root / folder).rglob("*") if p.suffix in (".py", ".yaml", ".md")]
        assert sources and not any("ReliableKMeans" in p.read_text() for p in sources)

"""`harness show`: files, formats and error messages."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from harness.experiment.inspect.show import show_run
from harness.experiment.inspect.trained_stage import TrainedStage
from harness.results.store import Run
from tests.conftest import Command
from tests.paths import ROOT

HEADS = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


@pytest.fixture
def own(run: Run, tmp_path: Path) -> Run:
    """A copy of the run, to be changed."""
    shutil.copytree(run.folder, tmp_path / "results" / "runs" / run.name)
    return Run(tmp_path / "results" / "runs" / run.name)


def test_all_pictures_go_into_the_run_s_own_folder(own: Run, place: Path, command: Command) -> None:
    answer = command(
        "show", "mskd", "--data-root", f"{place}/data", "--count", "2", "--identities", "4"
    )
    assert answer.status == 0, answer.err
    names = ["ranked-student", "embedding-student", "curves", "maps-student"]
    folder = Path("results") / "runs" / own.name / "figures"
    paths = [folder / f"{name}.png" for name in names]
    assert [line for line in answer.out.splitlines() if line.endswith(".png")] == list(
        map(str, paths)
    )
    for path in paths:
        assert path.read_bytes().startswith(HEADS["png"])
    assert len(list(folder.iterdir())) == 4


@pytest.mark.parametrize("kind", ["svg", pytest.param("pdf", marks=pytest.mark.slow)])
def test_formats(own: Run, place: Path, tmp_path: Path, kind: str) -> None:
    options = {
        "style": kind,
        "data_root": f"{place}/data",
        "stage": "teacher",
        "output": str(tmp_path / "out"),
    }
    kinds = ["maps", "curves"]
    written = show_run(str(own.folder), kinds, **options)  # type: ignore[arg-type]
    assert [path.name for path in written] == [f"maps-teacher.{kind}", f"curves.{kind}"]
    first = [path.read_bytes() for path in written]
    assert all(content.startswith(HEADS[kind]) for content in first)
    again = show_run(str(own.folder), kinds, **options)  # type: ignore[arg-type]
    assert [path.read_bytes() for path in again] == first, "the same figure gives the same file"


def test_curves_need_no_weights(own: Run, command: Command) -> None:
    for path in own.folder.glob("*.pt"):
        path.unlink()
    answer = command("show", "mskd")
    assert answer.status == 0 and answer.out.strip().endswith("curves.png")
    assert answer.err.count("left out:") == 3
    for kind in ("ranked", "embedding", "maps"):
        refused = command("show", "mskd", kind)
        assert refused.status == 2
        assert "kept no weights of its stage 'student'" in refused.err
        assert "Committed records come without weights" in refused.err


#: arguments → part of the error message
SLIPS = {
    "nothing": "no run 'nothing'",
    "mskd rankd": "Did you mean 'ranked'?",
    "mskd maps --stage studnt": "Did you mean 'student'?",
    "mskd ranked --count 0": "1 or more",
    "mskd ranked --queries worse --data-root {data}": "no query 'worse'",
    "mskd ranked dataset.nothing=1 --data-root {data}": "no option 'dataset.nothing'",
    "mskd --format gif": "gif",
    "mskd ranked --data-root nowhere --device gpu": "--device gpu",
}


@pytest.mark.parametrize("slip", SLIPS)
def test_slips(slip: str, own: Run, place: Path, command: Command) -> None:
    answer = command("show", *slip.format(data=f"{place}/data").split())
    assert answer.status == 2 and SLIPS[slip] in answer.err, answer.err
    assert not (own.folder / "figures").exists()


def test_unfinished_runs_have_curves(own: Run, command: Command) -> None:
    (own.folder / "record.json").unlink()
    assert command("show", "mskd", "curves").status == 0
    answer = command("show", "mskd", "ranked")
    assert answer.status == 2 and "not finished" in answer.err


def test_data_without_a_test_part(
    own: Run, place: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = TrainedStage._evaluator

    def without(self: TrainedStage, train: bool) -> object:
        made = full(self, train)
        made.query_cache = made.gallery_cache = None
        return made

    monkeypatch.setattr(TrainedStage, "_evaluator", without)
    data = ("--data-root", f"{place}/data")
    answer = command("show", "mskd", "ranked", *data)
    assert answer.status == 2 and "no test part" in answer.err
    answer = command("show", "mskd", "--identities", "4", *data)
    assert answer.status == 0 and answer.err.startswith("left out: ranked: ")
    assert answer.out.count(".png") == 3, "maps are of training images instead"


def test_pictures_of_the_manual() -> None:
    """Every picture is shown by the page on reports or by README, and is small."""
    folder = ROOT / "docs"
    pictures = sorted((folder / "pictures").glob("*.png"))
    pages = [folder / "report.md", ROOT / "README.md"]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    shown = set(re.findall(r"\]\((?:docs/)?pictures/([\w-]+\.png)\)", text))
    assert shown == {path.name for path in pictures} and len(shown) == 7
    assert sum(path.stat().st_size for path in pictures) < 330_000

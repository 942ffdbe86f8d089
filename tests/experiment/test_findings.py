"""The page of what the authors' code does: as it is generated, and what a README may not say."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

from harness.core import plugins
from harness.core.errors import ConfigError
from harness.experiment.findings import KINDS, SECTION, findings, markdown, read
from tests.conftest import Command
from tests.paths import ROOT

PAGE = ROOT / "docs" / "what-the-code-does.md"
REPOSITORY = "Repository: [a/b-c](https://github.com/a/b-c) at `0123abc`."


def readme(folder: Path, *section: str) -> Path:
    """A README whose section has these lines; it begins in line 5."""
    path = folder / "README.md"
    text = ["# A", "", "Text.", "", *section, "", "## Other", "", "- **Nothing.** of this"]
    path.write_text("\n".join(text), encoding="utf-8")
    return path


def date_of(page: str) -> date:
    """The date that a page carries."""
    (found,) = re.findall(r"^As of (\d{4}-\d{2}-\d{2})\.$", page, re.MULTILINE)
    return date.fromisoformat(found)


def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == markdown(date_of(page)), (
        f"harness list findings --format markdown --output docs/{PAGE.name}"
    )


def test_methods_have_findings_of_known_kinds() -> None:
    found = findings()
    trained = set(plugins.find()["methods"]) - {"direct_transfer", "supervised"}
    assert {finding.method for finding in found} == trained
    assert [kind for kind in KINDS if kind in {f.kind for f in found}] == list(
        dict.fromkeys(finding.kind for finding in found)
    )


def test_what_is_read(tmp_path: Path) -> None:
    path = readme(
        tmp_path, SECTION, "", f"{REPOSITORY} It is a", "re-implementation.", "",
        "- **Selection.** The best (by `mAP`) is", "  reported (`train.py`, `main`).",
        "- **Unused term.** Not used. (a/b-c: `x.py`, `X.f`)", "", "Golden vectors: `x` (`y`).",
    )  # fmt: skip
    one, other = read("m", path)
    assert (one.method, one.kind, one.place) == ("m", "Selection", "`train.py`, `main`")
    assert one.text == "The best (by `mAP`) is reported"
    assert one.repositories == {"a/b-c": "0123abc"}
    assert (other.kind, other.text) == ("Unused term", "Not used.")
    assert other.place == "a/b-c: `x.py`, `X.f`"


def test_two_repositories(tmp_path: Path) -> None:
    second = "and [d/e](https://github.com/d/e) at `fedcba9`."
    lines = [REPOSITORY.replace("y:", "ies:")[:-1], second, "", "- **Code.** A (`x.py`)."]
    (one,) = read("m", readme(tmp_path, SECTION, "", *lines))
    assert one.repositories == {"a/b-c": "0123abc", "d/e": "fedcba9"}


@pytest.mark.parametrize("section", [[], ["## Another section", "", "- **Selection.** A"]])
def test_a_readme_without_the_section_is_skipped(section: list[str], tmp_path: Path) -> None:
    assert not list(read("m", readme(tmp_path, *section)))


@pytest.mark.parametrize(
    ("bullet", "problem", "hint"),
    [
        ("- **Selektion.** A (`x.py`).", "there is no kind 'Selektion'", "mean 'Selection'?"),
        ("- A (`x.py`).", "the bullet has no kind", "Known: Selection, Unused term"),
        ("- **Selection** A (`x.py`).", "the bullet has no kind", "**KIND.**"),
        ("- **Selection.** A.", "does not say where", "(`FILE`, `CLASS.METHOD`)"),
        ("- **Selection.** A (x.py).", "does not say where", "(`FILE`, `CLASS.METHOD`)"),
        ("- **Selection.** A (`x.py`) of B.", "does not say where", "in parentheses"),
    ],
)
def test_wrong_bullets_name_their_line(
    bullet: str, problem: str, hint: str, tmp_path: Path
) -> None:
    good = "- **Selection.** A (`x.py`)."
    path = readme(tmp_path, SECTION, "", REPOSITORY, "", good, bullet)
    with pytest.raises(ConfigError, match=f"{re.escape(str(path))}:10: .*{problem}") as caught:
        list(read("m", path))
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "first",
    ["- **Selection.** A (`x.py`).", "Repository: a/b at `0123abc`.",
     "Repository: [a/b](https://github.com/a/c) at `0123abc`.",
     "Repository: [a/b](https://github.com/a/b)."],
)  # fmt: skip
def test_a_repository_and_its_commit_come_first(first: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"README\.md:7: the section must begin") as caught:
        list(read("m", readme(tmp_path, SECTION, "", first)))
    assert "OWNER/NAME" in caught.value.hint


def test_the_command(command: Command, tmp_path: Path) -> None:
    lines = command("list", "findings").out.splitlines()
    assert len(lines) == len(findings())
    assert any(line.startswith("mskd ") and "Selection: The best" in line for line in lines)
    made = ("list", "findings", "--format", "markdown", "--date", "2020-02-29")
    assert command(*made).out == markdown(date(2020, 2, 29))
    command(*made, "--output", "page.md")
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == markdown(date(2020, 2, 29))
    answer = command("list", "findings", "--format", "markdown")
    assert date_of(answer.out) == date.today()
    for wrong in ("2020-02-30", "today"):
        answer = command(*made[:-1], wrong)
        assert answer.status == 2 and f"--date {wrong} is no date" in answer.err
    assert command("list", "options", "--date", "2020-02-29").status == 2

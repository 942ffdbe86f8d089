"""The contracts between rooms, and the label firewall: `make lint` fails when one is broken."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

pytest.importorskip("importlinter")

#: what is added to which file, and the contract that it breaks
BREAKS = {
    "an import that runs upward": (
        "core/seeds.py", "import harness.results.store", "Imports run downward"
    ),
    "a lazy import that runs upward": (
        "data/blur.py",
        "def _lazy() -> None:\n    import harness.training.trainer",
        "Imports run downward",
    ),
    "a type-checking import that runs upward": (
        "results/store.py",
        "from typing import TYPE_CHECKING as T\n\nif T:\n    import harness.experiment.run",
        "Imports run downward",
    ),
    "components that import data": (
        "components/labelers/dbscan.py", "import harness.data.samplers", "Imports run downward"
    ),
    "a module beside the rooms": ("stray.py", "", "Imports run downward"),
    "training that imports identities": (
        "training/trainer.py", "import harness.data.types", "Identities never reach"
    ),
    "training that imports identities through another module": (
        "data/samplers.py", "import harness.data.types", "Identities never reach"
    ),
    "a part that imports evaluation": (
        "components/objectives/cluster_memory.py", "import harness.evaluation.ranking",
        "Identities never reach",
    ),
    "two modules that import each other": ("core/files.py", "import harness.core.progress",
                                           "No circles"),
}  # fmt: skip


def lint(root: Path) -> tuple[int, str]:
    """Exit status and output of import-linter for a copy of the project."""
    script = "from importlinter.cli import lint_imports_command as c; c(['--no-cache'])"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, '.'); {script}"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the sources and of the contracts."""
    ignored = shutil.ignore_patterns("__pycache__", "*.yaml", "*.html", "*.css")
    shutil.copytree(ROOT / "harness", tmp_path / "harness", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_contracts_hold(copy: Path) -> None:
    status, output = lint(copy)
    assert status == 0, output
    assert "3 kept, 0 broken" in output


@pytest.mark.parametrize("case", BREAKS)
def test_a_broken_contract_fails(copy: Path, case: str) -> None:
    file, text, contract = BREAKS[case]
    path = copy / "harness" / file
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    if case == "two modules that import each other":
        other = copy / "harness" / "core" / "progress.py"
        other.write_text(f"{other.read_text(encoding='utf-8')}\nimport harness.core.files\n")
    path.write_text(f"{before}\n{text}\n", encoding="utf-8")
    status, output = lint(copy)
    assert status != 0
    broken = [line for line in output.splitlines() if line.endswith("BROKEN")]
    assert any(contract in line for line in broken), output


def test_a_method_that_imports_identities_fails(tmp_path: Path) -> None:
    folder = tmp_path / "methods" / "mine"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "methods" / "ruff.toml", tmp_path / "methods")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    code = folder / "method.py"
    for line in (
        "from harness.data.types import Split",
        "import harness.evaluation.evaluator",
        "from harness import data",
        "from harness.experiment.data_loading import load_data",
        "import harness_plugins.datasets.market1501.dataset",
    ):
        code.write_text(f'"""Mine."""\n\n{line}\n', encoding="utf-8")
        command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "TID251", "."]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 1 and "TID251" in done.stdout, (line, done.stdout)

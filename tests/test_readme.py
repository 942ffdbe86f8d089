"""The commands in README and other pages work, and the code of one: see also tests/docs/."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.cli.main import COMMANDS
from harness.experiment import compose as hydra_app
from harness.experiment.models.export import export_run
from harness.experiment.recipe import make_recipe
from harness.experiment.run import run_experiment
from tests.paths import ROOT
from tests.tiny import tiny_config

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("methods/*/README.md")),
         *sorted(ROOT.glob("datasets/*/README.md"))]  # fmt: skip


def commands(page: Path) -> list[str]:
    """The lines of a page's code blocks that begin with `harness`, without comments."""
    return commands_in(page.read_text(encoding="utf-8"))


def commands_in(text: str) -> list[str]:
    """As `commands`, for a text."""
    text = text.replace("\\\n", " ")
    blocks = re.findall(r"```\w*\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("harness ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for line in commands(page):
        words = [word for word in shlex.split(line)[1:] if not word.startswith("--plugins")]
        if "--plugins" in line or "…" in line or "my_method" in line:
            continue  # needs the reader's own folder
        assert words[0] in COMMANDS, line
        if words[0] != "run":
            continue
        # launchers are optional packages and not part of the configuration
        overrides = [w for w in words[1:] if "=" in w and not w.startswith("hydra")]
        for choice in combinations(overrides):
            make_recipe(hydra_app.compose(choice))


def combinations(overrides: list[str]) -> list[list[str]]:
    """Overrides for each value of `method=a,b`, with the first value of other sweeps."""
    choices: list[list[str]] = [[]]
    for override in overrides:
        key, _, value = override.partition("=")
        values = value.split(",") if not value.startswith("[") else [value]
        values = values if key == "method" else values[:1]
        choices = [[*choice, f"{key}={v}"] for choice in choices for v in values]
    return choices


def test_use_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python of docs/use-a-model.md runs, and ONNX without the harness gives its features."""
    text = (ROOT / "docs" / "use-a-model.md").read_text(encoding="utf-8")
    nearest, labels, onnx = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(nearest.strip().splitlines()) < 10
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_ZOO", "none.yaml")
    run = run_experiment(tiny_config(tmp_path, "method=direct_transfer"))
    rng = np.random.default_rng(0)
    Path("gallery").mkdir()
    for name in ("photo.jpg", *(f"gallery/{number:02}.jpg" for number in range(12))):
        Image.fromarray(rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(name)
    shutil.copy("photo.jpg", "gallery/twin.jpg")
    names: dict[str, Any] = {}
    printed: list[str] = []
    names["print"] = printed.append
    exec(compile(nearest.replace("results/runs/RUN", str(run.folder)), "docs", "exec"), names)
    assert len(printed) == 5 and printed[0].endswith("gallery/twin.jpg")
    assert printed[0].startswith("1.000")
    exec(compile(labels, "docs", "exec"), names)
    assert len(names["labels"]) == 13
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    export_run(str(run.folder), "onnx", output="model.onnx")
    found: dict[str, Any] = {}
    exec(compile(onnx, "docs", "exec"), found)
    np.testing.assert_allclose(found["features"][:, 0], names["query"], atol=1e-4)


def test_pages_hold_commands() -> None:
    """Guard against a pattern that finds nothing."""
    assert len(commands(ROOT / "README.md")) >= 10

"""The wheel has one import name, holds every file, and works outside the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.paths import ROOT

#: sources of the wheel; copied, because building writes into the source folder
SOURCES = ("harness", "methods", "datasets", "results/published.csv", "tests/golden",
           "pyproject.toml", "README.md", "LICENSE")  # fmt: skip


def _run(*arguments: str, cwd: Path, **environment: str) -> str:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "HARNESS"))}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd, env=kept | environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built offline from a copy of the checkout."""
    pytest.importorskip("setuptools", minversion="77", reason="builds without isolation")
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source, target = ROOT / name, folder / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    # a run, which must not be shipped
    run = folder / "source" / "results" / "runs" / "a-run"
    run.mkdir(parents=True)
    (run / "record.json").write_text("{}")
    _run("-m", "pip", "wheel", "./source", "--no-deps", "--no-build-isolation", "--no-index",
         "--quiet", "-w", ".", cwd=folder)  # fmt: skip
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed."""
    target = tmp_path_factory.mktemp("site")
    _run("-m", "pip", "install", "--no-deps", "--no-index", "--quiet",
         "--target", str(target), str(wheel), cwd=target)  # fmt: skip
    return target


def test_one_import_name(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"harness"}
    assert len(tops) == 2


def test_it_holds_every_file_and_no_runs(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    bundled = {"methods": "methods", "datasets": "datasets", "golden": "tests/golden"}
    expected = {"harness/py.typed", "harness/_bundled/results/published.csv"}
    for pattern in ("*.py", "*.yaml", "*.html", "*.css", "*.js", "*.json", "*.safetensors"):
        expected |= {p.relative_to(ROOT).as_posix() for p in (ROOT / "harness").rglob(pattern)}
    for kind, folder in bundled.items():
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".yaml", ".md", ".npz", ".bib", ".png"):
                inner = path.relative_to(ROOT / folder).as_posix()
                expected.add(f"harness/_bundled/{kind}/{inner}")
    assert "harness/_bundled/methods/mskd/config.yaml" in expected
    assert expected - names == set(), "missing"
    extra = {name for name in names - expected if ".dist-info/" not in name}
    assert extra == set(), "unexpected"


def test_the_command_is_installed(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (entries,) = (n for n in archive.namelist() if n.endswith("dist-info/entry_points.txt"))
    assert "harness = harness.cli.main:main" in archive.read(entries).decode()


def test_it_works_outside_the_checkout(site: Path, tmp_path: Path) -> None:
    where = "import harness, harness.core.plugins as p; print(harness.__file__)\n"
    where += "print(p.find()['methods']['mskd'].folder)"
    package, folder = _run("-c", where, cwd=tmp_path, PYTHONPATH=str(site)).split()
    assert Path(package) == site / "harness" / "__init__.py"
    assert Path(folder) == site / "harness" / "_bundled" / "methods" / "mskd"
    methods = _run("-m", "harness", "list", "methods", cwd=tmp_path, PYTHONPATH=str(site))
    assert {line.split()[0] for line in methods.splitlines()} == {
        *(path.parent.name for path in (ROOT / "methods").glob("*/config.yaml")),
        *(f"{path.parts[-3]}/{path.stem}" for path in (ROOT / "methods").glob("*/variants/*.yaml")),
    }
    job = _run("-m", "harness", "run", "method=mskd", "dataset=synthetic", "--cfg", "job",
               cwd=tmp_path, PYTHONPATH=str(site))  # fmt: skip
    config = yaml.safe_load(job)
    assert config["method"]["name"] == "mskd"
    assert config["dataset"]["_target_"].startswith("harness_plugins.datasets.synthetic.")


def test_bundled_vectors_and_published_numbers_are_used(site: Path, tmp_path: Path) -> None:
    code = """
from harness.results.published import beside
from harness.conformance.runner import golden_folder
print(golden_folder())
print(beside("market1501", "common", "direct_transfer", cameras=False)["published_mAP"])
from harness.conformance import verify
name, checks = next(verify())
print(all(check.passed for check in checks))
"""
    folder, mAP, passed = _run("-c", code, cwd=tmp_path, PYTHONPATH=str(site)).split()
    assert Path(folder) == site / "harness" / "_bundled" / "golden"
    assert (mAP, passed) == ("2.2", "True")

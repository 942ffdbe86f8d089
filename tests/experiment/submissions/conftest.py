"""Small runs with their features, packed once, and a copy of a submission for each test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.experiment.compose import compose
from harness.experiment.run import run_experiment
from harness.experiment.submissions import Reference, submit

#: the protocol as it is, on few images
SMALL = ("dataset=synthetic", "protocol=debug", "dataset.identities=12",
         "dataset.test_identities=6", "dataset.cameras=3", "device=cpu",
         "evaluation.keep_features=true")  # fmt: skip


@pytest.fixture(scope="package")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two repeats of Cluster Contrast and an untrained network."""
    folder = tmp_path_factory.mktemp("store")
    places = [f"store={folder}/runs", f"data.root={folder}/data"]
    for words in (["method=cluster_contrast"], ["method=cluster_contrast", "seed=1"],
                  ["method=direct_transfer"]):  # fmt: skip
        run_experiment(compose([*SMALL, *places, *words]))
    return folder / "runs"


@pytest.fixture(scope="package")
def reference() -> Reference:
    """Compositions are shared by all tests."""
    return Reference(leaderboard=None)


@pytest.fixture(scope="package")
def packed(store: Path) -> dict[str, Path]:
    """Submissions: of one run, of two repeats, and of the untrained network, with features."""
    output = store.parent / "submissions"
    return {
        "one": submit(["cluster_contrast-*-s0-*"], store, "one", output, features=True),
        "two": submit(["cluster_contrast"], store, "two", output, features=True),
        "untrained": submit(["direct_transfer"], store, "untrained", output, features=True),
        "bare": submit(["cluster_contrast-*-s0-*"], store, "bare", output),
    }


@pytest.fixture
def copy(packed: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """`copy("one")` is a copy of that submission, to be changed."""
    return lambda name: Path(shutil.copytree(packed[name], tmp_path / name))

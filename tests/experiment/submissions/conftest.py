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
#: other rendered persons
SOURCE = ("source=synthetic", "source.seed=1", "source.identities=12", "source.test_identities=6",
          "source.cameras=3")  # fmt: skip


@pytest.fixture(scope="package")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two repeats of Cluster Contrast, an untrained network, and two with labels."""
    folder = tmp_path_factory.mktemp("store")
    places = [f"store={folder}/runs", f"data.root={folder}/data"]
    for words in (["method=cluster_contrast"], ["method=cluster_contrast", "seed=1"],
                  ["method=direct_transfer"], ["method=supervised"],
                  ["method=spcl/uda", *SOURCE]):  # fmt: skip
        run_experiment(compose([*SMALL, *places, *words]))
    return folder / "runs"


@pytest.fixture(scope="package")
def reference() -> Reference:
    """Compositions are shared by all tests."""
    return Reference(leaderboard=None)


@pytest.fixture(scope="package")
def packed(store: Path) -> dict[str, Path]:
    """Submissions with features: of one run, of two repeats, of the untrained network, and of
    networks with a labeled source and with their own labels; and one without features.
    """
    output = store.parent / "submissions"
    return {
        "one": submit(["cluster_contrast-*-s0-*"], store, "one", output, features=True),
        "two": submit(["cluster_contrast"], store, "two", output, features=True),
        "untrained": submit(["direct_transfer"], store, "untrained", output, features=True),
        "adapted": submit(["spcl_uda"], store, "adapted", output, features=True),
        "supervised": submit(["supervised"], store, "supervised", output, features=True),
        "bare": submit(["cluster_contrast-*-s0-*"], store, "bare", output),
    }


@pytest.fixture
def copy(packed: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """`copy("one")` is a copy of that submission, to be changed."""
    return lambda name: Path(shutil.copytree(packed[name], tmp_path / name))

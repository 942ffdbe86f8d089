"""Methods and data sets of one's own: a folder is enough, nothing else is edited."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from harness.core import plugins
from harness.core.errors import ConfigError
from harness.experiment import registration
from harness.experiment.compose import compose
from harness.experiment.stages import PLUGS
from harness.results.store import Store
from tests.conftest import Command
from tests.tiny import tiny

METHOD_PY = '''
"""Pull each image to its cluster's centre."""
import torch
from torch.nn import functional as F

from harness.core.interfaces import Objective
from harness.components.objectives.memory import centroids

from .settings import SIGN


class Pull(Objective):
    def __init__(self, strength):
        super().__init__()
        self.strength = strength

    def start_epoch(self, features, labels, cameras=None):
        assert cameras is None, "not declared, not given"
        self.centres = centroids(features, labels)[0]

    def forward(self, embeddings, labels, indices):
        similarity = (F.normalize(embeddings[:, 0], dim=-1) * self.centres[labels]).sum(-1)
        return SIGN * self.strength * similarity.mean()
'''
METHOD_YAML = """
defaults:
  - override /labeler: jaccard_dbscan
  - override /objective: none
method: {{name: {name}, uses_cameras: false}}
objective: {{_target_: harness_plugins.methods.{name}.method.Pull, strength: 0.5}}
stages: {{train: {{}}}}
"""
DATASET_PY = """
import numpy as np
from PIL import Image

from harness.data.image_source import ImageSource
from harness.data.types import Dataset, ReIDData, Split


class Colours(ImageSource):
    def __init__(self, split, identities):
        self.split, self.identities = split, identities

    def __len__(self):
        return len(self.identities)

    def name(self, index):
        return f"{self.split}/{index}.png"

    def read(self, index):
        return Image.new("RGB", (16, 32), (int(self.identities[index]) * 20, 80, index))

    def fingerprint(self):
        return f"{self.split} {list(self.identities)}"


class Plain(Dataset):
    def __init__(self, people):
        self.people = people

    def load(self):
        parts = {}
        for split in ("train", "query", "gallery"):
            identities = np.arange(1, self.people + 1)
            parts[split] = Split(Colours(split, identities), identities)
        return ReIDData("plain", **parts)
"""


def write_method(root: Path, name: str) -> Path:
    """A method with code of its own, in two files."""
    folder = root / "methods" / name
    folder.mkdir(parents=True)
    (folder / "method.py").write_text(METHOD_PY)
    (folder / "settings.py").write_text("SIGN = -1.0\n")
    (folder / "config.yaml").write_text(METHOD_YAML.format(name=name))
    (folder / "README.md").write_text(f"# {name}\n\nPulls images together. And more.\n")
    return folder


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """What a test registers is gone after it."""
    modules = set(sys.modules)
    yield
    for name in set(sys.modules) - modules:
        if name.startswith(plugins.ALIAS):
            del sys.modules[name]
    registration.register()


@pytest.mark.parametrize("way", ["--plugins DIR", "--plugins=DIR", "HARNESS_PLUGINS"])
def test_a_method_from_a_folder_runs_from_end_to_end(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    root = tmp_path / "mine"
    write_method(root, "pull")
    if way == "HARNESS_PLUGINS":
        monkeypatch.setenv(way, str(root))
    given = way.replace("DIR", "mine").split() if way.startswith("--") else []  # a relative path
    answer = command(*given, "run", "method=pull", *tiny(tmp_path, "objective.strength=0.7"))
    assert answer.status == 0, answer.err
    (run,) = Store(tmp_path / "runs").runs()
    assert run.finished
    assert run.record["experiment"]["method"] == "pull"
    assert run.record["protocol"]["cameras"] is False
    # the objective is −0.7 × a cosine similarity
    assert all(-0.7 <= row["loss"] <= 0.7 for row in run.history())
    listed = command(*given, "list", "methods").out
    assert f"Pulls images together [user: {root / 'methods' / 'pull'}]" in listed


def test_every_part_has_an_interface() -> None:
    assert tuple(PLUGS) == plugins.PART_GROUPS


def test_a_data_set_from_a_folder(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "datasets" / "plain"
    folder.mkdir(parents=True)
    (folder / "dataset.py").write_text(DATASET_PY)
    (folder / "config.yaml").write_text(
        "_target_: harness_plugins.datasets.plain.dataset.Plain\nname: plain\npeople: 5\n"
    )
    last = ["dataset=plain", "dataset.people=4"]
    common = [x for x in tiny(tmp_path) if not x.startswith("dataset")]
    answer = command("run", "--plugins", "mine", "method=direct_transfer", *common, *last)
    assert answer.status == 0, answer.err
    (run,) = Store(tmp_path / "runs").runs()
    assert run.record["dataset"]["name"] == "plain"
    assert run.record["dataset"]["gallery"] == 4


def test_titles_are_those_of_the_readme_and_of_variants(tmp_path: Path) -> None:
    plugin = plugins.Plugin("methods", "mine", tmp_path, "user")
    assert plugin.titles == {"mine": "mine"}
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants" / "no_views.yaml").write_text("# Mine: without views.\n")
    (tmp_path / "variants" / "best.yaml").write_text("# @title Mine+ (best)\n# With all.\n")
    (tmp_path / "README.md").write_text("# My Method: it is better\n\nText.\n")
    assert plugin.titles == {
        "mine": "My Method", "mine_no_views": "My Method (no views)", "mine_best": "Mine+ (best)",
    }  # fmt: skip
    (tmp_path / "README.md").write_text("Text: no heading.\n")
    assert plugin.titles["mine"] == "mine" and plugin.titles["mine_no_views"] == "mine (no views)"


def test_what_is_no_longer_named_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_method(tmp_path, "passing")
    monkeypatch.setenv("HARNESS_PLUGINS", str(tmp_path))
    assert compose(["method=passing"]).method.name == "passing"
    monkeypatch.delenv("HARNESS_PLUGINS")
    with pytest.raises(ConfigError, match="no method 'passing'"):
        compose(["method=passing"])


def test_what_a_method_publishes_of_its_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds under protocol=published alone, and with the backbone that the method chose."""
    config = write_method(tmp_path, "strided") / "config.yaml"
    config.write_text(config.read_text() + "published: {backbone: {last_stride: 2}}\n")
    monkeypatch.setenv("HARNESS_PLUGINS", str(tmp_path))

    def stride(*overrides: str) -> object:
        return compose(["method=strided", *overrides]).backbone.get("last_stride")

    assert stride("protocol=published") == 2
    assert stride("protocol=common") == stride() == 1
    assert stride("protocol=published", "backbone=resnet101") == 1
    assert stride("protocol=published", "backbone=small") is None
    assert stride("protocol=published", "backbone.last_stride=1") == 1, "the command line wins"
    monkeypatch.delenv("HARNESS_PLUGINS")
    with pytest.raises(ConfigError, match="no method 'strided'"):
        compose(["method=strided"])


def test_a_package_with_an_entry_point(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    write_method(site / "reid_zoo", "zoo_pull")
    (site / "reid_zoo" / "__init__.py").touch()
    _distribution(site, "reid_zoo")
    monkeypatch.syspath_prepend(str(site))
    assert "[package zoo: " in command("list", "methods").out
    assert command("run", "method=zoo_pull", *tiny(tmp_path)).status == 0


def _distribution(site: Path, package: str) -> None:
    info = site / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[harness.plugins]\nzoo = {package}\n")


@pytest.mark.parametrize("package", ["reid_gone", "reid_gone.inner"])
def test_an_entry_point_to_nothing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    _distribution(tmp_path, package)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=rf"'zoo' cannot be found.*{package}"):
        plugins.find()


def test_two_of_one_name_are_refused_with_both_paths(tmp_path: Path) -> None:
    first, second = (write_method(tmp_path / place, "twin") for place in ("a", "b"))
    roots = [str(tmp_path / "a"), str(tmp_path / "b")]
    with pytest.raises(ConfigError) as refusal:
        plugins.find(roots)
    assert str(first) in refusal.value.cause
    assert str(second) in refusal.value.cause
    plugins.find([roots[0], roots[0]])  # the same folder twice is no conflict


def test_ones_own_folder_goes_before_packages_and_those_before_built_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = write_method(tmp_path / "mine", "mskd")
    theirs = write_method(tmp_path / "site" / "reid_zoo", "mskd")
    (tmp_path / "site" / "reid_zoo" / "__init__.py").touch()
    _distribution(tmp_path / "site", "reid_zoo")
    assert plugins.find()["methods"]["mskd"].origin == "built in"
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert plugins.find()["methods"]["mskd"].folder == theirs
    assert plugins.find([str(tmp_path / "mine")])["methods"]["mskd"].folder == mine


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("method: {name: [\n", "not valid YAML"),
        ("- a\n- b\n", "keys and values"),
        ("published: {train: {epochs: 3}}\n", "must hold `backbone` or `stages`, and"),
        ("published: 3\n", "must hold `backbone` or `stages`, and nothing else"),
    ],
)
def test_a_broken_config_is_named(tmp_path: Path, text: str, said: str) -> None:
    config = write_method(tmp_path, "broken") / "config.yaml"
    config.write_text(text)
    with pytest.raises(ConfigError, match=said) as refusal:
        registration.register([str(tmp_path)])
    assert str(config) in refusal.value.cause


def test_folders_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        plugins.find([str(tmp_path / "nowhere")])
    with pytest.raises(ConfigError, match="neither methods/ nor datasets/ nor conf/"):
        plugins.find([str(tmp_path)])


def test_a_part_that_cannot_be_imported_is_named(command: Command, tmp_path: Path) -> None:
    folder = write_method(tmp_path, "halfway")
    (folder / "method.py").write_text("import a_module_that_is_not_there\n")
    answer = command("--plugins", ".", "run", "method=halfway", *tiny(tmp_path))
    assert answer.status == 2
    assert "objective._target_=harness_plugins.methods.halfway.method.Pull" in answer.err
    assert "a_module_that_is_not_there" in answer.err


LABELER_YAML = "# One cluster. And more.\ndefaults: [kmeans, _self_]\nclusters: 7\n"
PROTOCOL_YAML = """
# @package _global_
# Half the images.
defaults: [debug, _self_]
protocol: {name: short}
train: {epochs: 1}
"""


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A plug-in folder with a labeler and a protocol, and no method."""
    for group, name, text in (
        ("labeler", "mine", LABELER_YAML),
        ("protocol", "short", PROTOCOL_YAML),
    ):
        path = tmp_path / "mine" / "conf" / group / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return tmp_path / "mine"


def test_a_labeler_from_a_folder_serves_run_label_and_list(
    command: Command, tmp_path: Path, parts: Path
) -> None:
    """All three use one composer."""
    given = [x for x in tiny(tmp_path) if not x.startswith("protocol=")]
    short = ("batch.identities=4", "batch.images=4", "labeler.iterations=5", "threads=1")
    answer = command(
        "--plugins", "mine", "run", "method=cluster_contrast", "labeler=mine", "protocol=short",
        *given, *short,
    )  # fmt: skip
    assert answer.status == 0, answer.err
    (run,) = Store(tmp_path / "runs").runs()
    assert run.config()["labeler"]["clusters"] == 7
    assert run.config()["labeler"]["_target_"] == "harness.components.labelers.KMeans"
    assert run.record["protocol"]["name"] == "short"
    assert [row["epoch"] for row in run.history()] == [0]

    features = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    np.save(tmp_path / "f.npy", features)
    answer = command("label", "--plugins", "mine", "f.npy", "labeler=mine", "--out", "l.npy")
    assert answer.status == 0, answer.err
    assert np.load(tmp_path / "l.npy").max() + 1 == 7

    listed = command("--plugins", "mine", "list", "labelers").out.splitlines()
    assert any(line.split() == ["mine", "One", "cluster"] for line in listed)
    listed = command("--plugins", "mine", "list", "protocols").out.splitlines()
    assert any(line.split() == ["short", "Half", "the", "images"] for line in listed)
    slip = command("--plugins", "mine", "run", "method=cluster_contrast", "labeler=mne")
    assert slip.status == 2 and "Did you mean 'mine'?" in slip.err


def test_parts_of_a_folder_are_gone_with_it(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_PLUGINS", str(parts))
    assert compose(["method=mskd", "labeler=mine"]).labeler.clusters == 7
    monkeypatch.delenv("HARNESS_PLUGINS")
    with pytest.raises(ConfigError, match="no labeler 'mine'"):
        compose(["method=mskd", "labeler=mine"])


def test_a_part_cannot_take_the_place_of_a_built_in_one(
    parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`protocol=common` means the same everywhere."""
    (parts / "conf" / "protocol" / "common.yaml").write_text("train: {epochs: 1}\n")
    monkeypatch.setenv("HARNESS_PLUGINS", str(parts))
    with pytest.raises(ConfigError, match="already a protocol 'common'") as refusal:
        compose(["method=mskd"])
    assert str(parts / "conf" / "protocol" / "common.yaml") in refusal.value.hint


def test_plugin_folders_are_no_importable_packages() -> None:
    """A package called `datasets` would shadow Hugging Face's."""
    for plugin in plugins.find()["methods"].values():
        assert not (plugin.folder.parent / "__init__.py").exists()
    for plugin in plugins.find()["datasets"].values():
        assert not (plugin.folder.parent / "__init__.py").exists()

"""Several training sets at once: put together, kept apart, named, composed, recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from omegaconf import OmegaConf

from harness.core.errors import ConfigError, DataError
from harness.data.facts import compare_with_published
from harness.data.image_cache import build_image_cache
from harness.data.joined import JoinedDataset
from harness.data.prepare.card import read_headers
from harness.data.types import Dataset
from harness.experiment import cross_domain as transfers
from harness.experiment import joint_datasets
from harness.experiment.compose import compose
from harness.experiment.plan import make_plan
from harness.experiment.run import run_experiment
from tests.conftest import Command
from tests.datasets.fakes import DUKE, MARKET, in_folders, paint
from tests.tiny import tiny

Modules = Callable[[str], ModuleType]


@pytest.fixture
def market(dataset_module: Modules, tmp_path: Path) -> Dataset:
    paint(tmp_path / "Market-1501", in_folders(MARKET))
    return dataset_module("market1501").Market1501(tmp_path, check_counts=False)


@pytest.fixture
def duke(dataset_module: Modules, tmp_path: Path) -> Dataset:
    paint(tmp_path / "DukeMTMC-reID", in_folders(DUKE))
    return dataset_module("dukemtmcreid").DukeMTMCReID(tmp_path, check_counts=False)


def own(dataset_module: Modules, folder: Path, text: str) -> Dataset:
    paint(folder, ["a.png", "b.png"])
    (folder / "list.csv").write_text(text)
    return dataset_module("folder").Folder(folder, "list.csv")


def test_identities_cameras_and_names_are_kept_apart(market: Dataset, duke: Dataset) -> None:
    data = JoinedDataset({"market1501": market, "dukemtmcreid": duke}).load()
    assert data.name == "market1501+dukemtmcreid"
    assert data.train.identities.tolist() == [2, 2, 7, 7 + 1 + 1, 7 + 1 + 7]
    assert data.train.cameras is not None
    assert data.train.cameras.tolist() == [0, 5, 2, 5 + 1 + 1, 5 + 1 + 7]
    names = [data.train.images.name(i) for i in range(5)]
    assert names[2:4] == [
        "market1501/bounding_box_train/0007_c3s3_000001_10.jpg",
        "dukemtmcreid/bounding_box_train/0001_c2_f0046182.jpg",
    ]
    first = market.load()
    assert data.query.images.fingerprint() == first.query.images.fingerprint()
    assert data.gallery.identities.tolist() == first.gallery.identities.tolist()
    other = JoinedDataset({"dukemtmcreid": duke, "market1501": market}).load()
    assert other.fingerprint() != data.fingerprint(), "the first is the one that is tested on"


def test_its_images_are_those_of_its_parts(market: Dataset, duke: Dataset, tmp_path: Path) -> None:
    data = JoinedDataset({"market1501": market, "dukemtmcreid": duke}).load()
    joined = build_image_cache(data.train.images, (32, 16), tmp_path / "cache").images
    parts = [
        build_image_cache(part.load().train.images, (32, 16), tmp_path / "cache").images
        for part in (market, duke)
    ]
    assert joined.tolist() == [*parts[0].tolist(), *parts[1].tolist()]
    assert data.train.images.modified >= max(p.train.images.modified for p in data.parts)
    assert len(read_headers([data.train.images], lambda done, total: None).sizes) == 5


def test_each_is_held_against_what_is_published_of_it(market: Dataset, duke: Dataset) -> None:
    lines = compare_with_published(
        JoinedDataset({"market1501": market, "dukemtmcreid": duke}).load()
    )
    assert lines is not None
    assert "market1501: training images: 3, not 12,936" in lines
    assert "dukemtmcreid: training images: 2, not 16,522" in lines


def test_one_without_cameras_takes_them_from_all(
    dataset_module: Modules, market: Dataset, tmp_path: Path
) -> None:
    bare = own(dataset_module, tmp_path / "own", "path,split\na.png,train\nb.png,train\n")
    data = JoinedDataset({"market1501": market, "folder": bare}).load()
    assert data.train.cameras is None and data.query.cameras is not None
    assert data.train.identities.tolist() == [2, 2, 7, -1, -1]


def test_one_without_training_images_is_refused(
    dataset_module: Modules, market: Dataset, tmp_path: Path
) -> None:
    text = "path,id,split\na.png,1,query\nb.png,1,gallery\n"
    tested = own(dataset_module, tmp_path / "own", text)
    with pytest.raises(DataError, match="folder has no training images"):
        JoinedDataset({"market1501": market, "folder": tested}).load()


# --------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("dataset=market1501", "dataset=market1501"),
        ("dataset=[market1501,msmt17]", "dataset=market1501+msmt17"),
        ("dataset=[market1501, msmt17],[veri776,personx],cuhk03",
         "dataset=market1501+msmt17,veri776+personx,cuhk03"),
        ("dataset=[market1501]", "dataset=market1501"),
        ("dataset.size=[64,32]", "dataset.size=[64,32]"),
    ],
)  # fmt: skip
def test_lists_are_names(given: str, meant: str) -> None:
    assert joint_datasets.normal(given) == meant


def test_composed_and_named(tmp_path: Path) -> None:
    config = compose(
        ["method=cluster_contrast", "dataset=[market1501,msmt17]", "backbone.weights=none",
         "dataset.sets.msmt17.version=v2", f"data.root={tmp_path}"]
    )  # fmt: skip
    assert config.dataset.sets.msmt17.version == "v2"
    assert config.dataset.sets.market1501.root == str(tmp_path)
    assert make_plan(config, "fp32").name.startswith("cluster_contrast-market1501+msmt17-s0-")
    assert str(tmp_path) not in str(make_plan(config, "fp32").settings)
    swapped = compose(
        ["method=cluster_contrast", "dataset=msmt17+market1501", "backbone.weights=none"]
    )
    assert make_plan(swapped, "fp32").name.startswith("cluster_contrast-msmt17+market1501-s0-")


def test_the_card_has_the_rule_of_the_one_that_is_tested_on() -> None:
    for names, tracks in (("[veri776,market1501]", True), ("[market1501,veri776]", False)):
        config = compose(
            ["method=cluster_contrast", f"dataset={names}", "backbone.weights=none",
             "dataset.sets.veri776.tracks=true"]
        )  # fmt: skip
        assert ("image to track" in make_plan(config, "fp32").card["evaluation"]) is tracks


def test_what_the_first_overrides_holds_for_all() -> None:
    assert compose(["method=mskd", "dataset=[synthetic,market1501]"]).protocol.name == "demo"
    assert compose(["method=mskd", "dataset=[market1501,synthetic]"]).protocol.name == "common"


def test_one_that_does_not_exist(command: Command) -> None:
    with pytest.raises(ConfigError, match="no dataset 'msmt71'") as caught:
        compose(["method=mskd", "dataset=[market1501,msmt71]"])
    assert "msmt17" in caught.value.hint
    answer = command("run", "method=mskd", "dataset=[market1501,msmt71]")
    assert answer.status == 2 and "Did you mean 'msmt17'?" in answer.err


def test_settings_of_finished_runs_are_made_whole(tmp_path: Path) -> None:
    config = compose(["method=mskd", "dataset=[market1501,folder]",
                      "dataset.sets.folder.csv=x.csv"])  # fmt: skip
    recorded = make_plan(config, "fp32").settings["dataset"]
    whole = joint_datasets.complete(recorded, tmp_path)
    assert whole["sets"]["market1501"]["root"] == str(tmp_path)
    assert whole["sets"]["folder"]["csv"] == "x.csv"
    assert joint_datasets.complete({"name": "market1501"}, tmp_path)["check_counts"] is True
    with pytest.raises(ConfigError, match="no dataset 'gone'"):
        joint_datasets.complete({"name": "gone"}, tmp_path)


# ------------------------------------------------------------------------------ from end to end

TWO = ("dataset=[synthetic,synthetic]", *(f"dataset.sets.{name}.{key}" for name, key in (
    ("synthetic", "identities=12"), ("synthetic", "test_identities=6"),
    ("synthetic_2", "identities=10"), ("synthetic_2", "cameras=3"), ("synthetic_2", "seed=1"),
)))  # fmt: skip


def two(folder: Path, *overrides: str) -> list[str]:
    """A tiny experiment on two synthetic data sets."""
    mine = [o for o in tiny(folder) if not o.startswith("dataset")]
    return [*mine, *TWO, *overrides]


def test_a_run(tmp_path: Path, command: Command) -> None:
    run = run_experiment(compose(two(tmp_path, "method=cluster_contrast")))
    assert run.name.startswith("cluster_contrast-synthetic+synthetic-s0-")
    found = run.record["dataset"]
    first, second = found["parts"]
    assert found["train"] == first["train"] + second["train"]
    assert (first["cameras"], second["cameras"]) == (5, 3)
    assert len({found["fingerprint"], first["fingerprint"], second["fingerprint"]}) == 3
    assert run.record["experiment"]["dataset"] == "synthetic+synthetic"
    again = command("eval", str(run.folder), "--data-root", str(tmp_path / "data"), "--save")
    assert f"mAP {run.record['metrics']['mAP']:.1f}" in again.out, again.err
    rows = transfers.load(tmp_path / "runs")
    assert rows["tested_on"].tolist() == ["synthetic"], "tested on the first, again by --save"
    assert len(list(run.folder.glob("evaluation-*.json"))) == 1
    assert set(rows["trained_on"]) == {"synthetic+synthetic"}


def test_a_method_that_needs_cameras_where_one_has_none(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(8)]
    paint(tmp_path / "own", names)
    rows = "".join(f"{name},train\n" for name in names)
    (tmp_path / "own/list.csv").write_text(f"path,split\n{rows}")
    mine = [o for o in tiny(tmp_path) if not o.startswith(("dataset", "data.root"))]
    config = compose(
        [*mine, "method=cap", "dataset=[synthetic,folder]", f"data.root={tmp_path}/own",
         "dataset.sets.folder.csv=list.csv", "dataset.sets.synthetic.identities=4"]
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"needs cameras, but folder has none"):
        run_experiment(config)


def test_prepare_shows_all_of_it(tmp_path: Path, command: Command) -> None:
    answer = command("prepare", *TWO, "images.height=32", "images.width=16", "data.root=data")
    assert answer.status == 0, answer.err
    assert answer.out.startswith("synthetic+synthetic")
    assert "cameras" in answer.out and "ready: harness run" in answer.out
    refused = command("prepare", "dataset=[synthetic,synthetic]", "source=x.zip")
    assert refused.status == 2 and "nothing to unpack" in refused.err


def test_sections() -> None:
    one, both = {"name": "a"}, {"name": "a+b", "sets": {"a": {"x": 1}, "b": {}}}
    assert joint_datasets.sections(one) == [one]
    assert joint_datasets.sections(OmegaConf.create(both))[0] == {"x": 1}

"""Held-out identities, and that no search reads the test set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from harness.core.errors import ConfigError, DataError
from harness.data.image_source import ImageSource
from harness.data.types import Dataset, ReIDData, Split
from harness.experiment.compose import compose
from harness.experiment.plan import make_plan
from harness.experiment.run import run_experiment
from harness.experiment.search.held_out import HeldOut, hold_out
from harness.experiment.search.plan import make_plan as make_search
from harness.experiment.stages import load_data
from harness.results.store import Run
from tests.datasets.fakes import DUKE, MARKET, in_folders, paint
from tests.experiment.search.small import search, small
from tests.tiny import tiny_config


class Colors(ImageSource):
    """One color for each identity."""

    def __init__(self, people: np.ndarray) -> None:
        self.people = people

    def __len__(self) -> int:
        return len(self.people)

    def name(self, index: int) -> str:
        return f"{index}.png"

    def read(self, index: int) -> Image.Image:
        return Image.new("RGB", (16, 32), (int(self.people[index]) * 9 % 256, 80, index % 256))

    def fingerprint(self) -> str:
        return str(len(self.people))


class People(Dataset):
    """Some people, seen twice by each of three cameras."""

    def __init__(self, people: int = 20, cameras: bool = True, known: bool = True) -> None:
        self.people, self.cameras, self.known = people, cameras, known

    def load(self) -> ReIDData:
        who = np.arange(1, self.people + 1).repeat(6)
        cams = np.tile(np.arange(3).repeat(2), self.people) if self.cameras else None
        train = Split(Colors(who), who if self.known else np.full(len(who), -1), cams)
        return ReIDData("people", train, train, train)


def held_out(share: float = 0.25, seed: int = 0, **options: Any) -> ReIDData:
    """The split of `People`."""
    of = {"_target_": f"{__name__}.People", **options}
    return HeldOut(of=of, called="people", share=share, seed=seed).load()


def test_each_identity_is_on_exactly_one_side() -> None:
    data = held_out()
    train, test = set(data.train.identities), set(data.gallery.identities)
    assert len(test) == 5 and not train & test and train | test == set(range(1, 21))
    assert set(data.query.identities) == test
    # a query of each person and camera; the other image of that camera is in the gallery
    assert len(data.query.images) == len(data.gallery.images) == 5 * 3
    names = [[s.images.name(i) for i in range(len(s.images))] for s in
             (data.train, data.query, data.gallery)]  # fmt: skip
    assert len({name for part in names for name in part}) == 120
    assert data.name == "people_held_out" and data.facts is None
    assert data.notes["held_out_identities"] == 5


def test_the_split_is_a_matter_of_its_seed_alone() -> None:
    again, other = held_out(), held_out(seed=1)
    assert again.fingerprint() == held_out().fingerprint() != other.fingerprint()
    assert set(again.gallery.identities) != set(other.gallery.identities)
    small, large = held_out(0.1), held_out(0.5)
    assert set(small.gallery.identities) < set(large.gallery.identities)


def test_without_cameras_one_image_of_each_person_is_asked_for() -> None:
    data = held_out(cameras=False)
    assert sorted(data.query.identities) == sorted(set(data.gallery.identities))
    assert data.query.cameras is None


def test_without_identities_nothing_is_held_out() -> None:
    with pytest.raises(DataError, match="too few") as error:
        held_out(known=False)
    assert "label_free" in error.value.hint
    with pytest.raises(DataError, match="too few"):
        held_out(0.05)
    alone = held_out(0, known=False)
    assert len(alone.train.images) == 120 and len(alone.query.images) == 0


def test_a_configuration_keeps_its_data_set(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "method=cluster_contrast")
    data = load_data(hold_out(config, 0.25, 0))
    assert data.name == "synthetic_held_out"
    assert len(set(data.gallery.identities)) == 3
    whole = load_data(config)
    assert set(data.gallery.identities) < set(whole.train.identities)
    assert config.dataset.name == "synthetic" and "of" not in config.dataset


def test_the_folders_of_joint_data_sets_are_no_settings(tmp_path: Path) -> None:
    """Neither one for all nor one of its own changes a trial's hash, or is in its config.json."""
    plans = []
    for place in (tmp_path / "a", tmp_path / "b"):
        paint(place / "Market-1501", in_folders(MARKET))
        paint(place / "own" / "DukeMTMC-reID", in_folders(DUKE))
        sets = "dataset.sets"
        config = compose(
            ["method=cluster_contrast", "dataset=[market1501,dukemtmcreid]", f"data.root={place}",
             f"{sets}.dukemtmcreid.root={place}/own", "backbone.weights=none",
             f"{sets}.market1501.check_counts=false", f"{sets}.dukemtmcreid.check_counts=false"]
        )  # fmt: skip
        held = hold_out(config, 0, 0)
        assert len(load_data(held).train.images) == 5
        plans.append(make_plan(held, "fp32"))
    assert plans[0].hash == plans[1].hash and plans[0].settings == plans[1].settings
    assert str(tmp_path) not in json.dumps(plans[0].settings)


# ------------------------------------------------------------------------- networks and sources


def test_networks_that_know_the_held_out_persons_are_refused(tmp_path: Path) -> None:
    """By training on the data set, or by beginning from a network that did; others are taken."""
    method, short = "method=cluster_contrast", "train.epochs=1"
    knows = run_experiment(tiny_config(tmp_path, method, short)).name
    others = run_experiment(tiny_config(tmp_path, method, short, "dataset.seed=1")).name
    after = run_experiment(
        tiny_config(tmp_path, method, short, "dataset.seed=1", f"init={knows}")
    ).name
    teacher = ("distiller=offline_teacher", "distiller.teacher=")
    for *more, option in (("init=",), ("backbone.weights=",), teacher):
        for name in (knows, after) if option == "init=" else (knows,):
            refused = f"{option}{name} was trained on synthetic, so it knows"
            with pytest.raises(ConfigError, match=refused) as error:
                make_search(small(tmp_path, *more, f"{option}{name}"))
            assert "search.criterion=label_free" in error.value.hint
            make_search(small(tmp_path, *more, f"{option}{name}", "search.criterion=label_free"))
        config = make_search(small(tmp_path, *more, f"{option}{others}")).trial_config({})
        value = str(OmegaConf.select(config, option.removesuffix("=")))
        assert value == f"{tmp_path}/runs/{others}", "the study's store does not have it"


def test_a_source_that_is_the_data_set_follows_it_or_is_refused(tmp_path: Path) -> None:
    same = [f"source.{o}" for o in ("identities=12", "cameras=3", "test_identities=6", "seed=0")]
    with pytest.raises(ConfigError, match="source=synthetic has the identities"):
        make_search(small(tmp_path, "method=supervised", "source=synthetic", *same))
    config = make_search(small(tmp_path, "method=supervised", "source=target")).trial_config({})
    assert config.source == config.dataset and config.source.share == 0.4


# ----------------------------------------------------------------------------- the test set

POISONED = '''
from harness_plugins.datasets.synthetic.dataset import Synthetic

from harness.data.types import ReIDData


class Poison:
    """Raises on any access."""

    def __getattribute__(self, name):
        raise AssertionError(f"the test set was read: {name}")


class Poisoned(Synthetic):
    def load(self):
        data = super().load()
        return ReIDData(data.name, data.train, Poison(), Poison(), data.notes)
'''


def poisoned(root: Path) -> Path:
    """A data set as `synthetic`, whose test part must not be read; returns the plug-in folder."""
    import yaml

    import harness

    folder = root / "mine" / "datasets" / "poisoned"
    folder.mkdir(parents=True)
    (folder / "dataset.py").write_text(POISONED)
    own = Path(harness.__file__).parents[1] / "datasets" / "synthetic" / "config.yaml"
    node = yaml.safe_load(own.read_text())
    node["_target_"] = "harness_plugins.datasets.poisoned.dataset.Poisoned"
    (folder / "config.yaml").write_text(yaml.safe_dump(node, sort_keys=False))
    return root / "mine"


@pytest.mark.parametrize("criterion", ["last_val", "label_free"])
def test_a_search_never_touches_the_test_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, criterion: str
) -> None:
    """Not by loading, decoding or counting: the same numbers come out where there is none."""
    found = []
    options = [f"search.criterion={criterion}", "search.trials=2"]
    for name in ("poisoned", "synthetic"):
        place = tmp_path / name
        place.mkdir()
        if name == "poisoned":
            monkeypatch.setenv("HARNESS_PLUGINS", str(poisoned(place)))
        search(place, *options, *(["dataset=poisoned"] if name == "poisoned" else []))
        run = Run(place / "searches" / "s" / "trials" / "trial-0000")
        found.append((run.record["metrics"], [
            {k: v for k, v in row.items() if "second" not in k and k != "cpu_share"}
            for row in run.history()
        ]))  # fmt: skip
    assert found[0] == found[1]


def test_the_poison_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_PLUGINS", str(poisoned(tmp_path)))
    with pytest.raises(AssertionError, match="the test set was read"):
        search(tmp_path, "dataset=poisoned", "search.criterion=oracle", "search.trials=1")

"""The protocol card and the cell's name: what they depend on and what they must not."""

from __future__ import annotations

import itertools
import json
import pickle
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import DictConfig, OmegaConf

from harness.core import plugins
from harness.core.errors import ConfigError
from harness.core.paths import CONF
from harness.experiment.compose import compose
from harness.experiment.labelled_source import setting_of
from harness.experiment.plan import Plan, make_plan
from harness.experiment.protocol import OWN, card_hash
from tests.tiny import has_own_backbone, source_of


@pytest.fixture(scope="module")
def mskd() -> DictConfig:
    """MSKD as composed. Change a copy."""
    return compose(["method=mskd", "dataset=market1501", "backbone.weights=none"])


def changed(config: DictConfig, key: str, value: object) -> DictConfig:
    """A copy with another value, which has to be another one."""
    config = config.copy()
    assert OmegaConf.select(config, key) != value
    OmegaConf.update(config, key, value, force_add=True)
    return config


HELD: dict[str, object] = {
    "protocol.name": "own",
    "images.height": 128,
    "images.width": 64,
    "images.flip": 0.0,
    "images.pad": 0,
    "images.erase": 0.0,
    "images.blur": 0.5,
    "backbone.arch": "resnet18",
    "backbone.stride_in": "1x1",
    "backbone.pooling": "avg",
    "backbone.weights": "imagenet",
    "backbone.last_stride": 2,
    "backbone.stem_relu": False,
    "backbone.neck": "embedding",
    "batch.sampler": "random",
    "optimizer.name": "sgd",
    "optimizer.steps": [20, 40],
    "optimizer.warmup": 10,
    "optimizer.backbone_lr_mult": 0.1,
    "optimizer.reset_with_labels": True,
    "batch.identities": 8,
    "batch.images": 8,
    "batch.samples_per_bn": 0,
    "train.epochs": 60,
    "train.iterations": 400,
    "optimizer.lr": 1e-3,
    "optimizer.weight_decay": 0.0,
    "optimizer.gamma": 0.5,
    "optimizer.step": 30,
    "evaluation.rerank": True,
    # a stage's own, which would evade the card otherwise
    "stages.teacher.train.epochs": 60,
    "stages.student.optimizer.lr": 1e-3,
    "stages.student.batch.images": 8,
    "stages.student.backbone.pooling": "avg",
}
FREE: dict[str, object] = {
    "seed": 1,
    "labeler.eps": 0.7,
    "labeler.part_weight": 0.0,
    "objective.temperature": 0.1,
    "distiller.weight": 2.0,
    "method.uses_cameras": False,
    "selection": "oracle",
    "backbone.views": ["global", "upper"],
    "train.warmup_iterations": 3,
    "train.label_every": 2,
    "stages.student.train.label_every": 2,
    "stages.student.train.warmup_epochs": 2,
    "stages.student.labeler.eps": 0.7,
    "stages.student.train.epochs": 50,  # what it is anyway
    "evaluation.every": 5,
    "dataset.name": "folder",
    "store": "elsewhere",
    "device": "cpu",
}


@pytest.mark.parametrize("key", HELD)
def test_the_hash_follows_everything_held_equal(mskd: DictConfig, key: str) -> None:
    other = make_plan(changed(mskd, key, HELD[key]), "fp32").card
    assert other["hash"] != make_plan(mskd, "fp32").card["hash"]


@pytest.mark.parametrize("key", FREE)
def test_the_hash_does_not_follow_the_method_nor_the_place(mskd: DictConfig, key: str) -> None:
    other = make_plan(changed(mskd, key, FREE[key]), "fp32").card
    assert other["hash"] == make_plan(mskd, "fp32").card["hash"]


def test_the_hash_follows_the_precision(mskd: DictConfig) -> None:
    cards = [make_plan(mskd, precision).card for precision in ("fp32", "tf32", "bf16")]
    assert len({card["hash"] for card in cards}) == 3


def test_cameras_and_selection_are_on_the_card_but_not_hashed(mskd: DictConfig) -> None:
    card = make_plan(mskd, "fp32").card
    assert (card["cameras"], card["selection"]) == (True, "last")
    assert card["hash"] == card_hash(card) == card_hash(card | {"cameras": 0, "selection": "x"})
    json.dumps(card, allow_nan=False)


def test_options_that_came_later_keep_the_hash_of_the_settings(mskd: DictConfig) -> None:
    """As long as they change nothing: records from before have no such option."""
    plan = make_plan(mskd, "fp32")
    assert (
        mskd.labeler.classical_lists is False and "classical_lists" not in plan.settings["labeler"]
    )
    other = make_plan(changed(mskd, "labeler.classical_lists", True), "fp32")
    assert other.settings["labeler"]["classical_lists"] and other.hash != plan.hash


def test_a_stages_neutral_value_counts_where_it_replaces_another_one() -> None:
    """Left out of config.json, it would be that of the whole."""

    def plan(*overrides: str) -> Plan:
        own = ("method=mskd", "backbone.weights=none", "stages.teacher.optimizer.lr=0.001")
        return make_plan(compose([*own, *overrides]), "fp32")

    clipped, unclipped = "optimizer.clip=1.0", "stages.teacher.optimizer.clip=null"
    teacher = plan(clipped, unclipped).settings["stages"]["teacher"]
    assert teacher["optimizer"] == {"lr": 1e-3, "clip": None}
    assert plan(clipped, unclipped).hash != plan(clipped).hash
    assert plan(unclipped).settings == plan().settings and plan(unclipped).hash == plan().hash


def test_a_stages_own_schedule_is_told(mskd: DictConfig) -> None:
    assert "stages" not in make_plan(mskd, "fp32").card
    card = make_plan(changed(mskd, "stages.teacher.train.epochs", 60), "fp32").card
    assert card["stages"] == "teacher.train.epochs=60"


METHODS = sorted(plugins.find()["methods"])
UDA = ("mmt/uda", "spcl/uda", "strong_baseline/uda")
SECTIONS = ("images", "batch", "train", "optimizer", "backbone")


def held(config: DictConfig) -> dict[str, object]:
    """All that is held equal, as the configuration has it."""
    return {
        f"{section}.{key}": value
        for section in SECTIONS
        for key, value in config[section].items()
        if f"{section}.{key}" not in OWN
    }


@pytest.mark.parametrize(
    "protocol", ["common", "demo", pytest.param("debug", marks=pytest.mark.slow)]
)
def test_all_methods_share_one_card(protocol: str) -> None:
    """In each setting; methods that choose a backbone share all of it but the backbone."""
    configs = {
        name: compose(
            [f"method={name}", "dataset=market1501", f"protocol={protocol}", *source_of(name)]
        )
        for name in (*METHODS, *UDA)
    }
    alike = {name: config for name, config in configs.items() if not has_own_backbone(name)}
    cards = [make_plan(config, "fp32").card for config in alike.values()]
    hashes = {(card.get("setting"), card["hash"]) for card in cards}
    settings = ["None", "UDA, source synthetic", "supervised"]
    assert sorted(str(setting) for setting, _ in hashes) == settings
    first = held(next(iter(alike.values())))
    assert all(held(config) == first for config in alike.values())
    for config in configs.values():
        rest = {
            key: value for key, value in held(config).items() if key.split(".")[0] != "backbone"
        }
        assert rest.items() <= first.items()


@pytest.mark.parametrize("protocol", ["common", "demo"])
def test_nothing_held_equal_is_left_to_the_method(protocol: str) -> None:
    """A method yet to come may set what no method sets today."""
    options, settings = (
        yaml.safe_load((CONF / f"{name}.yaml").read_text())
        for name in ("config", f"protocol/{protocol}")
    )
    for section in ("images", "batch", "train", "optimizer"):
        left = {f"{section}.{key}" for key in set(options[section]) - set(settings[section])}
        assert left <= {*OWN, "train.precision", "train.compile"}  # are the machine's


def test_published_cards_differ_where_anything_held_equal_differs() -> None:
    configs = [
        compose([
            f"method={name}", "dataset=market1501", "protocol=published", *source_of(name),
            *(["backbone.weights=none"] if has_own_backbone(name) else []),  # the authors' files
        ])
        for name in METHODS
    ]  # fmt: skip
    common = compose(["method=mskd", "dataset=market1501", "protocol=common"])
    hashes = {config.method.name: make_plan(config, "fp32").card["hash"] for config in configs}
    assert make_plan(common, "fp32").card["hash"] not in hashes.values()
    equal = {config.method.name: (held(config), setting_of(config)) for config in configs}
    for one, other in itertools.combinations(hashes, 2):
        same = hashes[one] == hashes[other]
        assert same == (equal[one] == equal[other]), f"{one}, {other}"
    assert len(set(hashes.values())) >= 6, "most authors have settings of their own"


def test_weights_are_known_by_content_not_by_place(mskd: DictConfig, tmp_path: Path) -> None:
    files = [tmp_path / place / "x.pth" for place in ("a", "b", "c")]
    for file, value in zip(files, (0.0, 0.0, 1.0), strict=True):
        file.parent.mkdir()
        torch.save({"w": torch.tensor([value])}, file)
    configs = [changed(mskd, "backbone.weights", str(file)) for file in files]
    cards = [make_plan(config, "fp32").card for config in configs]
    assert cards[0] == cards[1]
    assert cards[0]["hash"] != cards[2]["hash"]
    assert cards[0]["weights"].startswith("x.pth sha256:")
    names = [make_plan(config, "fp32").name for config in configs]
    assert names[0] == names[1] != names[2]


# --------------------------------------------------------------------------------------- cells


def test_a_cells_name(mskd: DictConfig) -> None:
    name = make_plan(mskd, "fp32").name
    assert name == make_plan(mskd.copy(), "fp32").name
    assert name == f"mskd-market1501-s0-{make_plan(mskd, 'fp32').hash}"
    assert make_plan(changed(mskd, "name", "mine"), "fp32").name == "mine"


@pytest.mark.parametrize("key", [*HELD, *(k for k in FREE if k not in ("seed", "store", "device"))])
def test_other_settings_have_another_name(mskd: DictConfig, key: str) -> None:
    other = changed(mskd, key, (HELD | FREE)[key])
    assert make_plan(other, "fp32").name != make_plan(mskd, "fp32").name


def test_seeds_are_repeats_of_the_same_settings(mskd: DictConfig) -> None:
    other = changed(mskd, "seed", 7)
    assert make_plan(other, "fp32").hash == make_plan(mskd, "fp32").hash
    assert make_plan(other, "fp32").name != make_plan(mskd, "fp32").name


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("store", "/elsewhere"), ("device", "cpu"), ("threads", 3), ("overwrite", "always"),
        ("data.root", "/elsewhere"), ("data.cache_dir", "/elsewhere/image_caches"),
    ],
)  # fmt: skip
def test_the_place_does_not_change_the_name(
    mskd: DictConfig, key: str, value: object
) -> None:  # fmt: skip
    assert make_plan(changed(mskd, key, value), "fp32").name == make_plan(mskd, "fp32").name


def test_no_path_and_no_device_in_what_is_recorded(tmp_path: Path) -> None:
    weights = tmp_path / "w.pth"
    weights.write_bytes(pickle.dumps(0))
    csv = tmp_path / "list.csv"
    csv.write_text("path,split\n")
    config = compose(
        [
            "method=mskd", "dataset=folder", f"dataset.csv={csv}", f"dataset.images={tmp_path}",
            f"backbone.weights={weights}", "device=cpu",
            f"data.root={tmp_path}", f"data.cache_dir={tmp_path}/caches",
            f"store={tmp_path}/runs",
            f"stages.student.backbone.weights={weights}",
        ]
    )  # fmt: skip
    written = make_plan(config, "fp32").settings
    text = json.dumps(written)
    assert str(tmp_path) not in text
    assert not {"device", "store", "data", "threads", "overwrite", "name"} & written.keys()
    assert written["dataset"]["csv"] == "list.csv"
    assert written["train"]["precision"] == "fp32"
    assert str(tmp_path) not in json.dumps(make_plan(config, "fp32").card)


@pytest.mark.parametrize("word", ["none", "imagenet", "rendered"])
def test_a_folder_in_the_store_does_not_take_a_word_for_weights(word: str, tmp_path: Path) -> None:
    def plan(*overrides: str) -> Plan:
        own = ("method=direct_transfer", f"store={tmp_path}", f"backbone.weights={word}")
        return make_plan(compose([*own, *overrides]), "fp32")

    before = plan()
    (tmp_path / word).mkdir()
    assert plan().name == before.name and plan().config.backbone.weights == word
    with pytest.raises(ConfigError, match=rf"name={word} cannot be the name of a run") as error:
        plan(f"name={word}")
    assert error.value.hint == "Choose another name."


def test_two_lists_of_one_name_are_two_cells(tmp_path: Path) -> None:
    names = []
    for place, text in (("a", "path,split\n"), ("b", "path,split\n"), ("c", "split,path\n")):
        csv = tmp_path / place / "list.csv"
        csv.parent.mkdir()
        csv.write_text(text)
        config = compose(["method=direct_transfer", "dataset=folder", f"dataset.csv={csv}",
                          "backbone.weights=none"])  # fmt: skip
        names.append(make_plan(config, "fp32").name)
    assert names[0] == names[1] != names[2]


def test_names_that_only_look_like_home_folders(mskd: DictConfig) -> None:
    config = changed(mskd, "dataset.subset", "~nobody-of-that-name")
    assert make_plan(config, "fp32").settings["dataset"]["subset"] == "~nobody-of-that-name"

"""From configuration to stages: what is laid out, and all that is refused, with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import DictConfig, OmegaConf

from harness.components.backbones import small
from harness.core.errors import ConfigError
from harness.core.interfaces import PseudoLabeler
from harness.experiment.compose import compose
from harness.experiment.recipe import make_recipe
from harness.experiment.stages import build, build_distiller, build_labeler, build_objective


class CameraLabeler(PseudoLabeler):
    """One that looks at cameras."""

    uses_cameras = True


def no_class(**options: object) -> None:
    """A function that builds nothing."""


@pytest.fixture(scope="module")
def mskd() -> DictConfig:
    """MSKD as composed. Change a copy."""
    return compose(["method=mskd", "dataset=synthetic", "protocol=common"])


def changed(config: DictConfig, **values: object) -> DictConfig:
    """A copy with other values; `__` stands for a dot."""
    config = config.copy()
    for key, value in values.items():
        OmegaConf.update(config, key.replace("__", "."), value, force_add=True)
    return config


# ------------------------------------------------------------------------------------- stages


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "/x", "", ".", "a.b", "1", "x" * 65, "checkpoint", "Config", "record",
             "history", "per_query", "failed"],
)  # fmt: skip
def test_files_named_after_a_stage_stay_in_the_runs_folder(mskd: DictConfig, name: str) -> None:
    config = mskd.copy()
    config.stages = {name: {}}
    with pytest.raises(ConfigError, match="cannot be the name of a stage"):
        make_recipe(config)


@pytest.mark.parametrize(("key", "value"), [("distiller", 0.5), ("train", None), ("batch", [1])])
def test_sections_of_a_stage_hold_keys_and_values(
    mskd: DictConfig, key: str, value: object
) -> None:
    config = mskd.copy()
    config.stages = {"teacher": {key: value}}
    with pytest.raises(ConfigError, match=rf"stages\.teacher\.{key}=.* must hold keys and values"):
        make_recipe(config)


@pytest.mark.parametrize(
    "key", ["optimizer.step", "train.epochs", "seed", "labeler", "dataset.name"]
)
def test_an_option_that_was_taken_out_is_named(mskd: DictConfig, key: str) -> None:
    config = mskd.copy()
    parent, _, last = key.rpartition(".")
    OmegaConf.set_struct(config, False)
    del (OmegaConf.select(config, parent) if parent else config)[last]
    with pytest.raises(ConfigError, match=f"No value was given for {key}"):
        make_recipe(config)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 2**63, -(2**70)])
@pytest.mark.parametrize(
    "key", ["evaluation__reference__eps", "labeler__eps", "dataset__identities", "seed"]
)
def test_numbers_that_no_record_can_hold(mskd: DictConfig, key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key.replace("__", r"\.")):
        make_recipe(changed(mskd, **{key: value}))


def test_mskd_has_a_teacher_and_then_its_student(mskd: DictConfig) -> None:
    recipe = make_recipe(mskd)
    assert recipe.method == "mskd"
    assert recipe.uses_cameras
    teacher, student = recipe.stages
    assert (teacher.name, student.name) == ("teacher", "student")
    assert not teacher.has("distiller")
    assert (teacher.teacher_stage, teacher.teacher_run) == (None, None)
    assert student.has("distiller")
    assert (student.teacher_stage, student.teacher_run) == ("teacher", None)
    assert teacher.config.train.warmup_epochs == 0
    assert student.config.train.warmup_epochs == 1
    # what a stage does not name is that of the whole
    for stage in recipe.stages:
        assert stage.config.train.epochs == mskd.train.epochs
        assert stage.config.labeler.eps == mskd.labeler.eps


def test_direct_transfer_has_no_stages() -> None:
    recipe = make_recipe(compose(["method=direct_transfer"]))
    assert recipe.stages == ()
    assert not recipe.uses_cameras


def test_a_teacher_from_another_run_drops_the_teacher_stage(mskd: DictConfig) -> None:
    recipe = make_recipe(changed(mskd, distiller__teacher="mskd-market1501-s0-01234567"))
    (student,) = recipe.stages
    assert student.name == "student"
    assert (student.teacher_stage, student.teacher_run) == (None, "mskd-market1501-s0-01234567")


def test_cluster_contrast_takes_a_finished_teacher() -> None:
    config = compose(["method=cluster_contrast", "distiller=offline_teacher",
                      "distiller.teacher=some_run"])  # fmt: skip
    (stage,) = make_recipe(config).stages
    assert stage.teacher_run == "some_run"


def test_the_labelers_neighbours_follow_the_protocols(mskd: DictConfig) -> None:
    teacher, student = make_recipe(changed(mskd, neighbours__k1=17)).stages
    assert teacher.config.labeler.k1 == student.config.labeler.k1 == 17
    assert build_labeler(teacher).k1 == 17  # type: ignore[attr-defined]


def test_interpolations_hold_inside_a_stages_changes(mskd: DictConfig) -> None:
    config = changed(
        mskd,
        stages__teacher={"distiller": None, "neighbours": {"k1": 11}},
        stages__student={"labeler": {"k2": "${neighbours.k1}"}, "objective": {"part_weight": 0.5}},
    )
    teacher, student = make_recipe(config).stages
    assert teacher.config.labeler.k1 == 11
    assert (student.config.labeler.k1, student.config.labeler.k2) == (30, 30)
    assert student.config.distiller.part_weight == 0.5, "μ's weights follow the objective's"
    assert config.neighbours.k1 == 30, "the configuration itself stays"


# --------------------------------------------------------------------------------- protocols

#: what a method may say of what is held equal
ODD = """
defaults: [{override /labeler: jaccard_dbscan}, {override /objective: cluster_memory}]
method: {name: odd, uses_cameras: false}
images: {height: 384, width: 192, flip: 0.1, pad: 3, erase: 0.9}
batch: {identities: 4, images: 2, samples_per_bn: 8}
train: {epochs: 7, iterations: 9}
optimizer: {lr: 0.1, weight_decay: 0.2, step: 3, gamma: 0.7}
backbone: {pooling: avg}
stages: {train: {}}
"""


def test_protocol_common_wins_over_the_method_and_published_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "methods" / "odd"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(ODD)
    monkeypatch.setenv("HARNESS_PLUGINS", str(tmp_path))
    own = yaml.safe_load(ODD)
    usual = compose(["method=mskd", "protocol=common"])
    published, common = (compose(["method=odd", f"protocol={p}"]) for p in ("published", "common"))
    for section in ("images", "batch", "train", "optimizer", "backbone"):
        for key in own[section]:
            assert published[section][key] == own[section][key], f"{section}.{key}"
            assert common[section][key] == usual[section][key], f"{section}.{key}"
    last = compose(["method=odd", "protocol=common", "train.epochs=2"])
    assert last.train.epochs == 2, "the command line wins over all"


def test_synthetic_comes_with_its_own_protocol() -> None:
    assert compose(["method=mskd", "dataset=synthetic"]).protocol.name == "demo"
    chosen = compose(["method=mskd", "dataset=synthetic", "protocol=debug"])
    assert chosen.protocol.name == "debug"
    assert compose(["method=mskd", "dataset=market1501"]).protocol.name == "common"


# ---------------------------------------------------------------------------------- refusals

REFUSED: dict[str, tuple[dict[str, object], str, str]] = {
    "an unknown section": ({"lablr": {}}, "no option 'lablr'", "'labeler'"),
    "a value left open": ({"dataset__size": "???"}, "No value was given for dataset.size", "="),
    "a section that is none": ({"train": None}, "train=None must hold keys", "train.KEY"),
    "a data set that is none": ({"dataset": 3}, "dataset=3 must hold keys", "dataset.KEY"),
    "selection": ({"selection": "orcle"}, "selection=orcle must be", "'oracle'"),
    "a fraction of an epoch": ({"train__epochs": 1.5}, "train.epochs=1.5 must be a whole", ""),
    "no epoch": ({"train__epochs": 0}, "train.epochs=0 is out of range: 1 ≤ epochs ≤ 100000", ""),
    "true for a number": ({"batch__images": True}, "batch.images=true must be a whole", ""),
    "a seed below zero": ({"seed": -1}, "seed=-1 is out of range: seed ≥ 0", ""),
    "words for a seed": ({"seed": "x"}, "seed=x must be a whole number", ""),
    "no warm-up factor": ({"train__warmup_iterations": 0}, "warmup_iterations=0 is out of", ""),
    "a rate of zero": ({"optimizer__lr": 0}, "optimizer.lr=0 is out of range: lr > 0", ""),
    "a rate that is none": ({"optimizer__lr": float("nan")}, "optimizer.lr=nan", ""),
    "an infinite rate": ({"optimizer__lr": float("inf")}, "optimizer.lr=inf", ""),
    "gamma": ({"optimizer__gamma": -0.1}, "optimizer.gamma=-0.1 is out of range", ""),
    "weight decay": ({"optimizer__weight_decay": "a"}, "optimizer.weight_decay=a must be", ""),
    "a probability": ({"images__flip": 7}, "images.flip=7 is out of range: 0 ≤ flip ≤ 1", ""),
    "a word for truth": ({"evaluation__rerank": "maybe"}, "must be true or false", ""),
    "cameras maybe": ({"method__uses_cameras": 1}, "uses_cameras=1 must be true or false", ""),
    "one sample": ({"batch__samples_per_bn": 1}, "a single image has no statistics", "2 and more"),
    "one image": ({"batch__identities": 1, "batch__images": 1}, "Batches of 1 ", "2 and more"),
    "no divisor": ({"batch__samples_per_bn": 48}, "48 does not divide the batch of 256", "divisor"),
    "a stage's key": ({"stages__student": {"seed": 1}}, "stages.student.seed: a stage cannot", ""),
    "a stage's option": (
        {"stages__student": {"train": {"epoch": 3}}}, "stages.student.train.epoch",
        "'train.epochs'",
    ),
    "a stage's value": (
        {"stages__student": {"train": {"epochs": 0}}}, "stages.student: train.epochs=0", "",
    ),
    "a stage's batch": (
        {"stages__student": {"batch": {"images": 9}}}, "stages.student: batch.samples_per_bn", "",
    ),
    "a stage of another kind": ({"stages__student": 3}, "stages.student=3 must hold keys", ""),
    "no labeler": (
        {"labeler": {"_target_": None}}, "mskd trains (stage 'teacher') but has labeler=none",
        "harness list labelers",
    ),
    "no objective": (
        {"objective": {"_target_": None, "part_weight": 0}}, "has objective=none",
        "harness list objectives",
    ),
    "a reference to nothing": (
        {"labeler__k1": "${neighbours.k3}"}, "labeler.k1: Interpolation key 'neighbours.k3'",
        "labeler.k1=VALUE",
    ),
    "warm-up alone": (
        {"distiller": {"_target_": None}}, "1 warm-up epochs, but no distiller",
        "stages.student.train.warmup_epochs=0",
    ),
    "warm-up alone, of all stages": (
        {"train__warmup_epochs": 1}, "stages.teacher has 1 warm-up epochs, but no distiller",
        "offline_teacher or train.warmup_epochs=0",
    ),
    "a teacher after": (
        {"distiller__teacher": "student"}, "from stage 'student', which does not come before it",
        "distiller.teacher=RUN",
    ),
    "parts without views": (
        {"backbone__views": ["global"]}, "labeler.part_weight=0.15 needs part views",
        "backbone.views=[global,upper,lower]",
    ),
    "parts that outweigh the whole": (
        {"labeler__part_weight": 0.4, "backbone__views": ["global", "top", "middle", "bottom"]},
        "labeler.part_weight=0.4 for each of 3 part views leaves no weight", "below 0.333333",
    ),
    "parts that nothing looks at": (
        {"labeler__part_weight": 0, "objective__part_weight": 0, "stages__student": None},
        "nothing uses the part views", "objective.part_weight=0.2",
    ),
    "nothing to import": (
        {"labeler___target_": "harness.nothing.X"},
        "labeler._target_=harness.nothing.X cannot be imported", "",
    ),
    "another plug": (
        {"labeler___target_": "harness.components.objectives.ClusterMemory"},
        "is no PseudoLabeler",
        "",
    ),
    "no such sampler": (
        {"batch__sampler": "proxies"}, "batch.sampler=proxies must be", "Did you mean 'proxy'?",
    ),
    "a sampler's cameras": (
        {"batch__sampler": "proxy", "method__uses_cameras": False},
        "batch.sampler=proxy needs cameras", "batch.sampler=identity",
    ),
    "an objective's parts": (
        {"backbone__views": ["global"], "labeler__part_weight": 0,
         "objective___target_": "harness.components.objectives.PartRefinement"},
        "PartRefinement needs 1 part view or more, but backbone.views=['global']",
        "backbone.views=[global,upper,lower]",
    ),
    "an option's cameras": (
        {"objective": {"_target_": "harness.components.objectives.PartRefinement",
                       "camera_weight": 0.5, "part_weight": 0.0},
         "method__uses_cameras": False},
        "PartRefinement needs cameras, but method.uses_cameras is false",
        "method.uses_cameras=true",
    ),
    "cameras undeclared": (
        {"labeler___target_": f"{__name__}.CameraLabeler", "method__uses_cameras": False},
        "CameraLabeler needs cameras, but method.uses_cameras is false",
        "method.uses_cameras=true",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_cause_and_hint(mskd: DictConfig, case: str) -> None:
    values, cause, hint = REFUSED[case]
    config = mskd.copy()
    for key, value in values.items():
        OmegaConf.update(config, key.replace("__", ".", 1), value, merge=False, force_add=True)
    with pytest.raises(ConfigError) as refusal:
        make_recipe(config)
    assert cause in refusal.value.cause
    assert hint in refusal.value.hint


@pytest.mark.parametrize("part", ["labeler=kmeans", "objective=cluster_memory",
                                  "distiller=mean_teacher"])  # fmt: skip
def test_a_method_that_does_not_train_takes_no_parts(part: str) -> None:
    with pytest.raises(ConfigError, match=r"direct_transfer does not train: a .* do nothing"):
        make_recipe(compose(["method=direct_transfer", part]))


def test_parts_have_a_weight_as_soon_as_there_are_any() -> None:
    parts = "backbone.views=[global,upper,lower]"
    one, three, own = (
        make_recipe(compose(["method=cluster_contrast", *more])).stages[0].config
        for more in ([], [parts], [parts, "objective.part_weight=0.5"])
    )
    assert [c.objective.part_weight for c in (one, three, own)] == [0.0, 0.2, 0.5]
    usual = ["method=pplr", "distiller=mean_teacher"]  # whose objective has no such weight
    assert make_recipe(compose(usual)).stages[0].config.distiller.part_weight == 0.2


@pytest.mark.parametrize("labeler", [["labeler.part_weight=0.1"],
                                     ["labeler=kmeans", "labeler.views=mean"]])  # fmt: skip
def test_a_labeler_may_be_all_that_looks_at_parts(labeler: list[str]) -> None:
    views = ["backbone.views=[global,upper,lower]", "objective.part_weight=0"]
    make_recipe(compose(["method=cluster_contrast", *views, *labeler]))


def test_the_batch_may_be_whole_or_smaller_than_its_groups(mskd: DictConfig) -> None:
    make_recipe(changed(mskd, batch__samples_per_bn=0))
    make_recipe(changed(mskd, batch__samples_per_bn=512))


def test_an_objective_declares_cameras_only_if_its_options_want_them(mskd: DictConfig) -> None:
    options = {"_target_": "harness.components.objectives.PartRefinement", "part_weight": 0.0}
    config = mskd.copy()
    OmegaConf.update(config, "objective", {**options, "camera_weight": 0.0}, merge=False)
    make_recipe(changed(config, method__uses_cameras=False))


def test_a_missing_teacher_stage() -> None:
    with pytest.raises(ConfigError, match="'train' of cluster_contrast needs a teacher"):
        make_recipe(compose(["method=cluster_contrast", "distiller=offline_teacher"]))


def test_a_mean_teacher_comes_from_no_stage_and_no_run() -> None:
    """It begins as a copy of the student; MSKD's teacher stage is then not needed."""
    (student,) = make_recipe(compose(["method=mskd", "distiller=mean_teacher"])).stages
    assert (student.name, student.teacher_stage, student.teacher_run) == ("student", None, None)
    with pytest.raises(ConfigError, match=r"distiller\.teacher=some_run has no effect") as refusal:
        make_recipe(
            compose(["method=mskd", "distiller=mean_teacher", "+distiller.teacher=some_run"])
        )
    assert "distiller=offline_teacher" in refusal.value.hint


def test_a_mean_teacher_is_a_copy_of_the_student() -> None:
    (stage,) = make_recipe(compose(["method=mskd", "distiller=mean_teacher"])).stages
    student = small(widths=(4,), strides=(1,))
    distiller = build_distiller(stage, None, student)
    assert distiller is not None and distiller.teacher is not None
    for own, copied in zip(student.parameters(), distiller.teacher.parameters(), strict=True):
        assert torch.equal(own, copied) and own is not copied
        assert not copied.requires_grad
    assert any(parameter.requires_grad for parameter in student.parameters())


# ------------------------------------------------------------------------------------ building


def test_a_parts_options_are_checked_when_it_is_built(mskd: DictConfig) -> None:
    (stage, _) = make_recipe(changed(mskd, labeler__epss=0.5)).stages
    with pytest.raises(ConfigError, match=r"no option 'labeler\.epss'") as refusal:
        build_labeler(stage)
    assert refusal.value.hint == "Did you mean 'eps'?"
    (stage, _) = make_recipe(changed(mskd, objective__momentum=2)).stages
    with pytest.raises(
        ConfigError, match=r"objective\.momentum=2 is out of range: 0 ≤ momentum ≤ 1"
    ):
        build_objective(stage)


def test_any_failure_to_build_names_the_part() -> None:
    node = OmegaConf.create({"_target_": "operator.truediv", "_args_": [1, 0]})
    with pytest.raises(ConfigError, match="thing cannot be built: division by zero"):
        build(node, "thing")

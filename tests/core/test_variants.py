"""Variants of a method: a file that is chosen by name, and has a name of its own everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf

from harness.core import plugins
from harness.core.errors import ConfigError
from harness.core.variants import vary
from harness.experiment import registration
from harness.experiment.compose import compose
from harness.experiment.recipe import make_recipe
from harness.experiment.run import run_experiment
from harness.results.comparisons import comparisons
from harness.results.store import Run
from tests.conftest import Command
from tests.tiny import tiny_config

VARIANTS = [
    f"{plugin.name}/{variant}"
    for plugin in plugins.find()["methods"].values()
    for variant in plugin.variants
]
ABLATIONS = ["mskd/no_views", "mskd/no_distillation", "mskd/online"]


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(
    "protocol", ["common", "published", pytest.param("debug", marks=pytest.mark.slow)]
)
def test_every_variant_composes_under_its_own_name(name: str, protocol: str) -> None:
    recipe = make_recipe(compose([f"method={name}", f"protocol={protocol}", "dataset=synthetic"]))
    assert recipe.method == name.replace("/", "_")


def test_mskds_ablations_are_there() -> None:
    assert set(ABLATIONS) <= set(VARIANTS)


Ran = Callable[[str], Run]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """`ran("mskd/online")`: that tiny cell, finished; all in one store."""
    folder = tmp_path_factory.mktemp("variants")
    return lambda name: run_experiment(tiny_config(folder, f"method={name}"))


def test_ablations_are_rows_of_one_table(ran: Ran) -> None:
    runs = {name: ran(name) for name in ("mskd", *ABLATIONS)}
    for name, run in runs.items():
        assert run.name.startswith(f"{name.replace('/', '_')}-synthetic-s0-")
        assert run.record["experiment"]["method"] == name.replace("/", "_")
    (table,) = comparisons(runs["mskd"].folder.parent)
    assert sorted(table.rows["method"]) == [
        "mskd", "mskd (teacher)", "mskd_no_distillation", "mskd_no_views",
        "mskd_no_views (teacher)", "mskd_online",
    ]  # fmt: skip


def test_without_distillation_the_teacher_is_left(ran: Ran) -> None:
    """The same numbers as MSKD's own teacher, from the same draws."""
    whole, ablated = ran("mskd"), ran("mskd/no_distillation")
    assert list(ablated.record["stages"]) == ["teacher"]
    assert ablated.record["metrics"] == whole.record["stages"]["teacher"]["metrics"]
    with (
        np.load(whole.folder / "per_query.npz") as a,
        np.load(ablated.folder / "per_query.npz") as b,
    ):
        np.testing.assert_array_equal(a["teacher_ap"], b["teacher_ap"])


def test_without_views_nothing_sees_a_part(ran: Ran) -> None:
    config = ran("mskd/no_views").config()
    assert config["backbone"]["views"] == ["global"]
    weights = [config[part]["part_weight"] for part in ("labeler", "objective", "distiller")]
    assert weights == [0, 0, 0]
    assert list(ran("mskd/no_views").record["stages"]) == ["teacher", "student"]


def test_without_views_and_distillation_it_is_cluster_contrast(tmp_path: Path) -> None:
    """The same parts with the same settings: what their pages say of each other."""
    ours = compose(["method=mskd/no_views", "distiller=none"])
    theirs = compose(["method=cluster_contrast"])
    for part in ("backbone", "labeler", "objective", "distiller", "batch", "train", "optimizer"):
        assert OmegaConf.to_container(ours[part], resolve=True) == OmegaConf.to_container(
            theirs[part], resolve=True
        ), part


def test_the_online_teacher_is_no_finished_one(ran: Ran) -> None:
    run = ran("mskd/online")
    assert list(run.record["stages"]) == ["student"]
    assert run.config()["distiller"]["_target_"] == "harness.components.distillers.MeanTeacher"
    assert run.config()["distiller"]["part_weight"] == 0.2
    assert [row["epoch"] for row in run.history()] == [0, 1], "and no warm-up"


def test_a_finished_teacher_serves_the_ablation_too(ran: Ran, tmp_path: Path) -> None:
    """`no_distillation` leaves a network that MSKD takes as its teacher."""
    teacher = ran("mskd/no_distillation").folder
    run = run_experiment(tiny_config(tmp_path, "method=mskd", f"distiller.teacher={teacher}"))
    assert run.record["metrics"] == ran("mskd").record["metrics"]


def test_variants_are_listed_and_offered(command: Command) -> None:
    lines = {line.split()[0]: line for line in command("list", "methods").out.splitlines()}
    assert "MSKD without distillation" in lines["mskd/no_distillation"]
    for wrong in ("mskd/onlin", "mskd_online"):
        refused = command("run", f"method={wrong}")
        assert refused.status == 2 and "Did you mean 'mskd/online'?" in refused.err


# ------------------------------------------------------------------------------ of one's own

BASE = """
defaults: [{override /labeler: kmeans}, {override /objective: cluster_memory}]
method: {name: mine, uses_cameras: false}
labeler: {clusters: 7}
objective: {temperature: 0.1, momentum: 0.3}
stages: {one: {}, two: {train: {epochs: 3}}}
"""
OTHER = """
# Other labels. And more.
defaults: [{override /labeler: infomap}]
objective: {momentum: 0.4}
stages: {two: {}}
"""


def test_what_a_variant_changes_and_what_it_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    folder = tmp_path / "methods" / "mine"
    (folder / "variants").mkdir(parents=True)
    (folder / "config.yaml").write_text(BASE)
    (folder / "variants" / "other.yaml").write_text(OTHER)
    monkeypatch.setenv("HARNESS_PLUGINS", str(tmp_path))
    base, other = compose(["method=mine"]), compose(["method=mine/other"])
    assert base.method.name == "mine" and other.method.name == "mine_other"
    assert (base.labeler.clusters, base.objective.momentum) == (7, 0.3)
    assert "clusters" not in other.labeler and other.labeler.min_similarity == 0.5
    assert (other.objective.momentum, other.objective.temperature) == (0.4, 0.1)
    assert list(other.stages) == ["two"] and not other.stages.two
    assert compose(["method=mine/other", "labeler=kmeans"]).labeler.clusters == 500
    assert "Other labels" in command("list", "methods").out
    monkeypatch.delenv("HARNESS_PLUGINS")
    with pytest.raises(ConfigError, match="no method 'mine/other'"):
        compose(["method=mine/other"])
    (folder / "variants" / "other.yaml").write_text("- a list\n")
    monkeypatch.setenv("HARNESS_PLUGINS", str(tmp_path))
    with pytest.raises(ConfigError, match=r"variants/other\.yaml must hold keys and values"):
        registration.register()


def test_the_method_itself_stays() -> None:
    base, changes = OmegaConf.create(BASE), OmegaConf.create(OTHER)
    assert isinstance(base, DictConfig) and isinstance(changes, DictConfig)
    vary(base, changes, "mine_other")
    assert base == OmegaConf.create(BASE) and changes == OmegaConf.create(OTHER)

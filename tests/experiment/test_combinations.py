"""The table of combinations is true: what it lets pass trains, what it refuses is refused in time.

Some methods are checked here; `-m slow` checks all, runs every combination that the table has, and
compares the table with its page.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from harness.core.errors import ConfigError
from harness.experiment.combination_table import (
    GROUPS,
    MAX,
    RUN,
    SOURCE,
    Combination,
    combinations,
    options,
    page,
)
from harness.experiment.compose import compose
from harness.experiment.recipe import make_recipe
from harness.experiment.run import run_experiment
from harness.results.store import Run
from tests.conftest import Command
from tests.paths import ROOT
from tests.tiny import SOURCE as TINY_SOURCE
from tests.tiny import tiny, tiny_config

PAGE = ROOT / "docs" / "combinations.md"
#: what an option needs where there are a hundred images of twelve people
TINY_NEEDS = {"kmeans": ["labeler.clusters=8"]}
OPTIONAL = {"infomap": "infomap"}


@pytest.fixture(scope="module")
def table() -> list[Combination]:
    """All combinations of three methods, one with a teacher and one with cameras."""
    return list(combinations(("cluster_contrast", "cap", "mskd")))


@pytest.fixture(scope="module")
def whole_table() -> list[Combination]:
    return list(combinations())


Ran = Callable[[Combination], Run]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """`ran(combination)`: two tiny epochs of it, with a teacher of its views if it needs one."""
    folder = tmp_path_factory.mktemp("combinations")

    def run(combination: Combination) -> Run:
        named = ("distiller.teacher=", "source=")
        overrides = [x for x in combination.overrides if not x.startswith(named)]
        if combination.verdict == RUN:
            views = ",".join(compose([f"method={combination.method}"]).backbone.views)
            teacher = run_experiment(
                tiny_config(folder, "method=direct_transfer", f"backbone.views=[{views}]")
            )
            overrides.append(f"distiller.teacher={teacher.folder}")
        if combination.verdict == SOURCE:
            overrides += TINY_SOURCE
        return run_experiment(
            tiny_config(folder, *overrides, *TINY_NEEDS.get(combination.option, []))
        )

    return run


@pytest.mark.slow
def test_the_page_is_the_table(whole_table: list[Combination]) -> None:
    assert page(whole_table) == PAGE.read_text(encoding="utf-8"), (
        "make it anew: harness list combinations --format markdown --output docs/combinations.md"
    )


def _trains(run: Run) -> None:
    assert run.finished and run.history()
    assert all(row["loss"] == row["loss"] for row in run.history())


def _passed(table: list[Combination]) -> list[Combination]:
    """What passes, except backbones (test_contracts.py) and packages that are not installed."""
    missing = {name for name, package in OPTIONAL.items() if find_spec(package) is None}
    kept = [c for c in table if c.group != "backbone" and c.option not in missing]
    return [c for c in kept if c.verdict in ("yes", RUN, MAX, SOURCE)]


@pytest.mark.slow
def test_a_sample_of_what_passes_trains(table: list[Combination], ran: Ran) -> None:
    """Every option once, of different methods."""
    passed = _passed(table)
    for position, (group, option) in enumerate(dict.fromkeys((c.group, c.option) for c in passed)):
        fitting = [c for c in passed if (c.group, c.option) == (group, option)]
        _trains(ran(fitting[position % len(fitting)]))


@pytest.mark.slow
def test_all_that_passes_trains(whole_table: list[Combination], ran: Ran) -> None:
    for combination in _passed(whole_table):
        _trains(ran(combination))


@pytest.mark.slow
def test_every_option_passes_somewhere(whole_table: list[Combination]) -> None:
    """One that nothing could be crossed with would be no part."""
    for group in GROUPS:
        for option in options(group):
            assert any(c.verdict for c in whole_table if (c.group, c.option) == (group, option))


def test_what_is_refused_is_refused_before_any_work(
    table: list[Combination], tmp_path: Path
) -> None:
    refused = [combination for combination in table if not combination.verdict]
    assert refused
    for combination in refused:
        with pytest.raises(ConfigError) as caught:
            if combination.group == "backbone":  # which the tiny cell's settings do not fit
                make_recipe(compose(combination.overrides))
            run_experiment(tiny_config(tmp_path, *combination.overrides))
        assert combination.reason == f"{caught.value.cause} {caught.value.hint}".strip()
        assert caught.value.hint
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(find_spec("infomap") is None, reason="the package infomap is not installed")
def test_two_combinations_at_once(tmp_path: Path) -> None:
    """`labeler=infomap backbone=resnet50_views`: the views are the backbone's, and are trained."""
    small = ("backbone.widths", "backbone.strides", "backbone.weights")
    given = [x for x in tiny(tmp_path) if not x.startswith(small)]
    config = compose(
        [*given, "method=cluster_contrast", "labeler=infomap", "backbone=resnet50_views",
         "backbone.weights=none", "train.epochs=1", "train.iterations=1", "images.height=32"]
    )  # fmt: skip
    assert list(config.backbone.views) == ["global", "upper", "lower"]
    assert config.objective.part_weight == 0.2
    _trains(run_experiment(config))


# ------------------------------------------------- what only the number of images can tell


@pytest.mark.parametrize(
    ("settings", "cause", "hint"),
    [
        (["neighbours.k1=500"], "images are too few: JaccardDBSCAN (eps 0.6, min_samples 4, "
         "k1 500, k2 3) needs 500", "neighbours.k1"),
        (["labeler=kmeans"], "images are too few: KMeans (500 clusters", "settings"),
        (["labeler=bottom_up", "labeler.share=0.005"], "BottomUp", "needs 200"),
        (["labeler=kmeans", "labeler.clusters=3"], "gives 3 clusters at most, fewer than the 4",
         "batch.identities=3"),
        (["labeler=bottom_up", "objective=softmax_triplet", "objective.max_clusters=20"],
         "labels, more than the 20 that SoftmaxTriplet has room for", "objective.max_clusters=1"),
        (["labeler=self_paced", "objective=softmax_triplet", "objective.max_clusters=20"],
         "labels, more than the 20", "objective.max_clusters=1"),
    ],
)  # fmt: skip
def test_refused_once_the_images_are_counted(
    settings: list[str], cause: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        run_experiment(tiny_config(tmp_path, "method=cluster_contrast", *settings))
    assert cause in caught.value.cause
    assert hint in f"{caught.value.cause} {caught.value.hint}"
    assert not list((tmp_path / "runs").glob("*/history.json"))


def test_a_later_stage_is_refused_before_the_first_trains(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="k1 500"):
        run_experiment(tiny_config(tmp_path, "method=mskd", "stages.student.neighbours.k1=500"))
    assert not list((tmp_path / "runs").glob("*/history.json"))


# ----------------------------------------------------------------------------------- the command


def test_listed(
    table: list[Combination], command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("harness.experiment.combination_table.combinations", lambda: iter(table))
    lines = command("list", "combinations").out.splitlines()
    assert len(lines) == len(table)
    assert any(line.startswith("mskd distiller=none") and "refused: " in line for line in lines)
    assert command("list", "combinations", "--format", "markdown").out == page(table)
    command("list", "combinations", "--format", "markdown", "--output", "c.md")
    assert (tmp_path / "c.md").read_text(encoding="utf-8") == page(table)
    for wrong in (["combinations", "--output", "c.md"], ["methods", "--format", "markdown"]):
        assert command("list", *wrong).status == 2

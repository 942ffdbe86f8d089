"""The contracts of every method in `methods/`, each tested on the tiny data set.

A new method is tested as soon as its folder exists; so are variants with a labeled source. These
and methods that need one get the tiny source of `tests.tiny`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from harness.core import plugins
from harness.core.errors import ConfigError, TrainingError
from harness.core.interfaces import PseudoLabeler, PseudoLabels
from harness.core.metrics import in_tables
from harness.data.types import ReIDData
from harness.experiment import experiment as run_module
from harness.experiment import labelled_source, preflight
from harness.experiment.compose import compose
from harness.experiment.experiment import Experiment
from harness.experiment.labelled_source import reads_identities, source_stages
from harness.experiment.recipe import make_recipe
from harness.experiment.run import run_experiment
from harness.experiment.stages import Stage, build_labeler, load_data
from harness.results.comparisons import comparisons
from harness.results.store import Run
from tests.same import assert_same, weights
from tests.tiny import SOURCE, has_own_backbone, tiny_config

PLUGINS = plugins.find()["methods"]
#: variants in another setting than their method: with a labeled source
UDA = sorted(f"{name}/uda" for name, plugin in PLUGINS.items() if "uda" in plugin.variants)
METHODS = [*sorted(PLUGINS), *UDA]
#: a method's published settings (sampler, optimizer, label schedule) at a small size
OWN = ("protocol=published", "batch.identities=4", "batch.samples_per_bn=0", "train.epochs=3",
       "neighbours={k1: 10, k2: 3}")  # fmt: skip
#: methods that are rows of one table; each other one has a backbone of its own
COMPARED = [name for name in METHODS if not has_own_backbone(name)]
NO_CAMERAS = "method.uses_cameras=false"
#: methods whose own radius finds too few clusters in a tiny data set
WIDER = {"ise": ("labeler.eps=0.5",), "pass": ("labeler.min_samples=2",)}

Ran = Callable[..., Run]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs that tests share; finished experiments are not run again."""
    return tmp_path_factory.mktemp("methods")


@pytest.fixture(scope="module")
def ran(folder: Path) -> Ran:
    """`ran("mskd", "seed=1")`: that tiny experiment, finished."""

    @cache
    def run(name: str, *changes: str) -> Run:
        return run_experiment(tiny_config(folder, f"method={name}", *changes))

    return run


@cache
def as_published(name: str) -> DictConfig:
    """A method's published configuration; do not change it."""
    given = [f"method={name}", "protocol=published"]
    config = compose(given)
    needs_source = config.source is None and source_stages(make_recipe(config).stages)
    return compose([*given, *SOURCE]) if needs_source else config


TRAINED = [name for name in METHODS if as_published(name).stages]
SOURCED = [name for name in METHODS if as_published(name).source is not None]
#: methods whose last stage makes pseudo-labels
PSEUDO = [n for n in TRAINED if not reads_identities(make_recipe(as_published(n)).stages[-1])]
#: the unsupervised setting, whose methods share a table
USL = [name for name in METHODS if name not in SOURCED]
#: methods that between them have most kinds of parts and of stages. The contracts of the others are
#: slow tests
CORE = ("buc", "cap", "cluster_contrast", "dcmip", "mmt", "mskd", "spcl", "spcl/uda")


def core_first(names: Sequence[str]) -> list[Any]:
    """Names as parameters, those outside `CORE` marked as slow."""
    return [name if name in CORE else pytest.param(name, marks=pytest.mark.slow) for name in names]


def own(name: str) -> list[str]:
    """`OWN`, with two iterations per epoch unless their number depends on the images. Stages with a
    schedule of their own are as short.
    """
    config = as_published(name)
    counted = config.train.iterations == "auto"
    network = ["backbone=small"] if name in COMPARED else []
    short = [
        f"stages.{stage}.train.{key}={value}"
        for stage, changes in config.stages.items()
        for key, value in (("epochs", 3), ("iterations", 2))
        if key in ((changes or {}).get("train") or {})
    ]
    return [*OWN, *network, *([] if counted else ["train.iterations=2"]), *short]


def refused_without_cameras(name: str) -> ConfigError | None:
    """The error with `method.uses_cameras=false`, if the recipe is refused."""
    config = as_published(name).copy()
    config.method.uses_cameras = False
    config.batch.sampler = "identity"
    try:
        make_recipe(config)
    except ConfigError as error:
        return error
    return None


def check(run: Run) -> None:
    """Check a finished run: metrics in range, and a finite loss in every epoch of every stage."""
    assert 0 < run.record["metrics"]["mAP"] <= 100
    for name in run.record["stages"]:
        rows = [row for row in run.history() if row["stage"] == name]
        assert all(np.isfinite(row["loss"]) for row in rows)
        if name != "initial":
            epochs = [row["epoch"] for row in rows]
            first = min(epochs, default=0)
            assert epochs == list(range(first, max(epochs) + 1)) and max(epochs) >= 1


def on_other_data(monkeypatch: pytest.MonkeyPatch, change: Callable[[ReIDData], ReIDData]) -> None:
    """Let all further runs train on changed data; a labeled source stays as it is."""
    monkeypatch.setattr(preflight, "load_data", lambda config: change(load_data(config)))


def with_other_source(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[ReIDData], ReIDData]
) -> None:
    """Let all further runs train on a changed source."""
    monkeypatch.setattr(labelled_source, "load_data", lambda config: change(load_data(config)))


def with_train(**values: Any) -> Callable[[ReIDData], ReIDData]:
    """Other identities or cameras of the training images: arrays, or functions of the old ones."""

    def change(data: ReIDData) -> ReIDData:
        new = {k: v(getattr(data.train, k)) if callable(v) else v for k, v in values.items()}
        return replace(data, train=replace(data.train, **new))

    return change


def shuffled(array: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).permutation(array)


# --------------------------------------------------------------------------------- results


@pytest.mark.parametrize("name", METHODS)
def test_two_epochs(name: str, ran: Ran) -> None:
    run = ran(name)
    check(run)
    assert run.record["experiment"]["method"] == name.replace("/", "_")
    assert (run.folder / f"{list(run.record['stages'])[-1]}.pt").is_file()


@pytest.mark.parametrize("name", METHODS)
def test_as_its_authors_ran_it(name: str, ran: Ran) -> None:
    check(ran(name, *own(name)))


def test_smoke_leaderboard(folder: Path, ran: Ran) -> None:
    """All methods of a setting are rows of one table, because everything else is held equal. Those
    with a backbone of their own are in other tables, which name it.
    """
    for name in METHODS:
        ran(name)
    store = folder / "smoke"
    store.mkdir()
    for name in METHODS:
        run = ran(name)
        (store / run.name).symlink_to(run.folder)
    every = list(comparisons(store))
    others = [table for table in every if "test_vit" in table.card["backbone"]]
    apart = {name for other in others for name in other.rows["method"] if " (" not in name}
    assert apart == set(USL) - set(COMPARED)
    tables = {table.card.get("setting"): table for table in every if table not in others}
    expected = {
        None: [name for name in USL if name in COMPARED],
        "UDA, source synthetic": [name for name in SOURCED if name != "supervised"],
        "supervised": ["supervised"],
    }
    assert set(tables) == set(expected)
    for setting, table in tables.items():
        names = expected[setting]
        finals = [row for row in table.rows.to_dict("records") if " (" not in row["method"]]
        assert sorted(row["method"] for row in finals) == sorted(n.replace("/", "_") for n in names)
        assert {ran(name).record["protocol"]["hash"] for name in names} == {table.card["hash"]}
        for row in finals:
            assert all(0 <= row[key] <= 100 for key in in_tables())


# -------------------------------------------------------------------------- repeating and resuming


@pytest.mark.parametrize("name", core_first(METHODS))
def test_the_same_seed_gives_the_same_numbers(name: str, ran: Ran, tmp_path: Path) -> None:
    assert_same(ran(name), run_experiment(tiny_config(tmp_path, f"method={name}")))


@pytest.mark.parametrize("name", core_first(TRAINED))
def test_interrupted_in_the_middle(
    name: str,
    ran: Ran,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the last epoch of the last stage, with published settings: the checkpoint has all state,
    including labels that last for several epochs and a reset optimizer.
    """
    whole = ran(name, *own(name))
    rows = len(whole.history())
    left = Experiment._time_left

    def stop(experiment: Experiment, *arguments: Any) -> float:
        if len(experiment.progress.history) == rows:
            raise KeyboardInterrupt
        return left(experiment, *arguments)

    config = tiny_config(tmp_path, f"method={name}", *own(name))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Experiment, "_time_left", stop)
        run_experiment(config)
    capsys.readouterr()
    resumed = run_experiment(config)
    assert f"going on with epoch {whole.history()[-1]['epoch']}." in capsys.readouterr().out
    assert_same(whole, resumed)


# --------------------------------------------------------------------- identities and cameras


@pytest.mark.parametrize("name", core_first(METHODS))
def test_identities_are_not_seen(
    name: str, ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shuffled training identities change no weight, and no number but the cluster quality."""
    honest = ran(name)
    on_other_data(monkeypatch, with_train(identities=shuffled))
    blind = run_experiment(tiny_config(tmp_path, f"method={name}"))
    assert blind.record["metrics"] == honest.record["metrics"]
    kept, made = weights(honest), weights(blind)
    assert kept.keys() == made.keys() and all(torch.equal(kept[key], made[key]) for key in kept)
    for ours, theirs in zip(blind.history(), honest.history(), strict=True):
        assert ours["loss"] == theirs["loss"] and ours["clusters"] == theirs["clusters"]
    if honest.history()[-1:] and honest.history()[-1].get("ari", 0) > 0:  # else nothing to shuffle
        assert blind.history()[-1]["ari"] != honest.history()[-1]["ari"]


@pytest.mark.parametrize("name", SOURCED)
def test_identities_of_the_source_matter(
    name: str, ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_other_source(monkeypatch, with_train(identities=shuffled))
    other = run_experiment(tiny_config(tmp_path, f"method={name}"))
    assert other.history()[0]["loss"] != ran(name).history()[0]["loss"]


@pytest.mark.parametrize("name", core_first(METHODS))
def test_cameras_off(name: str, ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs with equal results for shuffled cameras, or it is refused with the reason."""
    if (error := refused_without_cameras(name)) is not None:
        assert "needs cameras, but method.uses_cameras is false" in error.cause
        assert "method.uses_cameras=true" in error.hint
        with pytest.raises(ConfigError, match="needs cameras"):
            run_experiment(tiny_config(tmp_path, f"method={name}", NO_CAMERAS))
        assert not (tmp_path / "runs").exists()
        return
    honest = ran(name, NO_CAMERAS)
    assert honest.record["protocol"]["cameras"] is False
    on_other_data(monkeypatch, with_train(cameras=shuffled))
    blind = run_experiment(tiny_config(tmp_path, f"method={name}", NO_CAMERAS))
    assert blind.record["metrics"] == honest.record["metrics"]
    assert [r["loss"] for r in blind.history()] == [r["loss"] for r in honest.history()]


def test_most_methods_run_without_cameras() -> None:
    """The contract above is not met by refusing everything."""
    refused = [name for name in METHODS if refused_without_cameras(name) is not None]
    assert all(as_published(name).method.uses_cameras for name in refused)
    assert len(refused) < len(METHODS) / 2


@pytest.mark.parametrize("name", core_first(TRAINED))
def test_one_camera(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All training images from one camera."""
    on_other_data(monkeypatch, with_train(cameras=np.zeros_like))
    check(run_experiment(tiny_config(tmp_path, f"method={name}")))


@pytest.mark.parametrize("name", core_first(TRAINED))
def test_data_without_cameras(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The method runs without cameras, or is refused before it trains."""
    on_other_data(monkeypatch, with_train(cameras=None))
    config = tiny_config(tmp_path, f"method={name}")
    try:
        run = run_experiment(config)
    except ConfigError as error:
        assert "needs cameras, but synthetic has none" in error.cause and error.hint
        assert not list((tmp_path / "runs").glob("*/history.json"))
        assert config.method.uses_cameras
    else:
        check(run)
        assert run.record["protocol"]["cameras"] is False


# --------------------------------------------------------------------------------- odd conditions


@pytest.mark.parametrize("name", core_first(TRAINED))
@pytest.mark.parametrize(
    ("identities", "images"), [(3, 5), pytest.param(1, 7, marks=pytest.mark.slow), (5, 1)]
)
def test_odd_batches(name: str, identities: int, images: int, ran: Ran) -> None:
    """P and K may be odd, or one."""
    batch = (f"batch.identities={identities}", f"batch.images={images}")
    check(ran(name, *batch, *WIDER.get(name, ())))


class Scripted(PseudoLabeler):
    """Labels written by a test: `epochs[i]` for call i, the last one for all later calls."""

    def __init__(self, *epochs: Callable[[int], Tensor]) -> None:
        self.epochs = epochs
        self.calls = 0

    def label(self, features: Tensor, cameras: Tensor | None = None) -> PseudoLabels:
        make = self.epochs[min(self.calls, len(self.epochs) - 1)]
        self.calls += 1
        return PseudoLabels(make(len(features)))

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.calls = state["calls"]


def clusters(count: int, labeled: int | None = None) -> Callable[[int], Tensor]:
    """`count` clusters of `labeled` images drawn at random (nine in ten if None), the rest -1."""

    def make(images: int) -> Tensor:
        labels = torch.full((images,), -1)
        order = torch.randperm(images, generator=torch.Generator().manual_seed(count))
        chosen = order[: images * 9 // 10 if labeled is None else labeled]
        labels[chosen] = torch.arange(len(chosen)) % count if count else -1
        return labels

    return make


def scripted(monkeypatch: pytest.MonkeyPatch, epochs: Sequence[Callable[[int], Tensor]]) -> None:
    """Let all further runs use these labels, whatever their labeler; not on a labeled source."""

    def made(stage: Stage, identities: Tensor | None = None) -> PseudoLabeler:
        return Scripted(*epochs) if identities is None else build_labeler(stage, identities)

    monkeypatch.setattr(run_module, "build_labeler", made)


def unlabelled_rows(run: Run) -> list[dict[str, Any]]:
    """The history of the stages that train on pseudo-labels."""
    return [row for row in run.history() if not row["stage"].startswith("source")]


@pytest.mark.parametrize("name", core_first(PSEUDO))
def test_labels_that_change_their_number(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More and fewer clusters from epoch to epoch."""
    numbers = (12, 5, 20)
    scripted(monkeypatch, [clusters(number) for number in numbers])
    settings = ("train.epochs=3", "train.label_every=1")
    run = run_experiment(tiny_config(tmp_path, f"method={name}", *settings))
    check(run)
    last = list(run.record["stages"])[-1]
    found = [row["clusters"] for row in run.history() if row["stage"] == last]
    assert found[:3] == list(numbers)


@pytest.mark.parametrize("name", core_first(PSEUDO))
def test_outliers_almost_everywhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five pairs of images have a label: enough for a batch, which repeats them."""
    scripted(monkeypatch, [clusters(5, labeled=10)])
    run = run_experiment(tiny_config(tmp_path, f"method={name}"))
    check(run)
    assert {r["outliers"] for r in unlabelled_rows(run)} == {run.record["dataset"]["train"] - 10}


@pytest.mark.parametrize("name", core_first(PSEUDO))
@pytest.mark.parametrize(
    ("epochs", "cause"),
    [
        ([clusters(0)], "epoch {first}: no clusters; all .* images are outliers"),
        ([clusters(8), clusters(0)], "epoch {second}: no clusters"),
        ([clusters(1)], "epoch {first}: 1 clusters .* but a batch needs"),
    ],
    ids=["outliers", "outliers later", "one cluster"],
)
def test_nothing_to_train_on(
    name: str,
    epochs: Sequence[Callable[[int], Tensor]],
    cause: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A clear error with a hint; the checkpoint of the previous epoch is kept."""
    scripted(monkeypatch, epochs)
    config = tiny_config(tmp_path, f"method={name}", "train.label_every=1")
    stages = make_recipe(config).stages
    first = -int(stages[0].config.train.warmup_epochs)
    with pytest.raises(TrainingError, match=cause.format(first=first, second=first + 1)) as caught:
        run_experiment(config)
    assert caught.value.hint
    kept = list((tmp_path / "runs").glob("*/checkpoint.pt"))
    assert bool(kept) == (len(epochs) > 1 or reads_identities(stages[0]))

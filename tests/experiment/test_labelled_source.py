"""`source=DATASET`: a labeled source beside the target, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.components.labelers import Identities
from harness.core.errors import ConfigError, DataError
from harness.core.interfaces import LabelledSet
from harness.experiment import labelled_source
from harness.experiment.compose import compose
from harness.experiment.cross_domain import load, tables
from harness.experiment.evaluate import evaluate_run
from harness.experiment.experiment import Experiment
from harness.experiment.rerun import rerun, restored
from harness.experiment.run import run_experiment
from harness.results.comparisons import comparisons
from harness.results.store import Run, Store
from harness.training.trainer import Trainer
from tests.conftest import Command
from tests.same import assert_same
from tests.tiny import SOURCE, own_images, tiny, tiny_config

UDA = "method=spcl/uda"


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_experiment(tiny_config(tmp_path_factory.mktemp("adapted"), UDA))


# --------------------------------------------------------------------------------- what a run says


def test_the_setting_and_the_source_are_recorded(adapted: Run) -> None:
    assert adapted.record["protocol"]["setting"] == "UDA, source synthetic"
    source = adapted.record["source"]
    assert source["name"] == "synthetic" and source["identities"] == 12 and not source["alone"]
    assert source["fingerprint"] != adapted.record["dataset"]["fingerprint"]
    assert adapted.config()["source"]["seed"] == 1


def test_no_path_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    table = next(w for w in own_images(tmp_path / "source") if w.startswith("dataset.csv="))
    given = ["source=folder", table.replace("dataset.", "source.")]
    run = run_experiment(
        tiny_config(tmp_path, "method=source_pretrain", *given, "batch.identities=2")
    )
    assert run.record["source"]["alone"] and run.record["source"]["identities"] == 4
    assert str(tmp_path) not in (run.folder / "record.json").read_text()
    assert "root" not in run.config()["source"]


def test_only_training_images_of_the_source_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    epochs = Trainer.epochs

    def spied(self: Trainer) -> Any:
        seen.append(self)
        return epochs(self)

    monkeypatch.setattr(Trainer, "epochs", spied)
    run = run_experiment(tiny_config(tmp_path, "method=mmt/uda"))
    pretraining, _, adaptation = seen
    assert isinstance(pretraining.data, LabelledSet) and pretraining.source is None
    assert isinstance(pretraining.components.labeler, Identities)
    assert len(pretraining.data) == run.record["source"]["train"]
    assert type(adaptation.data).__name__ == "UnlabelledSet" and adaptation.source is None
    assert not hasattr(adaptation.data, "identities")
    assert len(adaptation.data) == run.record["dataset"]["train"]


# ------------------------------------------------------------------------------- what is refused


def test_a_source_that_nothing_uses(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not use labels") as caught:
        run_experiment(tiny_config(tmp_path, "method=spcl", *SOURCE))
    assert "source_pretrain" in caught.value.hint
    assert not (tmp_path / "runs").exists()


def test_no_source(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, UDA)
    config.source = None
    with pytest.raises(ConfigError, match="trains on a labeled source") as caught:
        run_experiment(config)
    assert "source=market1501 dataset=synthetic" in caught.value.hint


def test_the_target_as_its_own_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = (*SOURCE, "source.seed=0")
    config = tiny_config(tmp_path, UDA, *given, "source.test_identities=6")
    with pytest.raises(ConfigError, match="source and dataset are both synthetic") as caught:
        run_experiment(config)
    assert "method=supervised" in caught.value.hint
    assert "source.seed=1" in caught.value.hint
    # the same persons in other images
    for other in ("source.test_identities=7", "source.difficulty=0.2", "source.size=[32,16]"):
        with pytest.raises(ConfigError, match="the same persons") as caught:
            run_experiment(tiny_config(tmp_path, UDA, *given, other))
        assert caught.value.hint == "Choose another: source.seed=1."
    with monkeypatch.context() as patch, pytest.raises(DataError) as shared:
        patch.setattr(labelled_source, "_check_persons", lambda config: None)
        run_experiment(tiny_config(tmp_path, UDA, *given, "source.test_identities=7"))
    assert "images of the source synthetic are training images" in shared.value.cause
    assert not list((tmp_path / "runs").glob("*/history.json"))


def test_test_images_of_the_target(tmp_path: Path) -> None:
    """The same files in another role: the source's training part has query images."""
    overrides = own_images(tmp_path)
    people = tmp_path / "people"
    rows = [row.split(",") for row in (people / "list.csv").read_text().splitlines()]
    for row in rows[1:]:
        test = "query" if row[2] == "0" else "gallery"
        row[3] = {"query": "train", "train": test}.get(row[3], row[3])
    (people / "source.csv").write_text("\n".join(map(",".join, rows)))
    given = [w for w in overrides if not w.startswith(("method=", "labeler."))]
    given += ["method=source_pretrain", "source=folder", f"source.csv={people}/source.csv"]
    with pytest.raises(DataError, match="4 images of the source folder are query images of folder"):
        run_experiment(compose(given))


def test_a_missing_source_is_one_of_all_problems(tmp_path: Path) -> None:
    given = tiny(tmp_path, "source=market1501", UDA)
    with pytest.raises(DataError, match="2 problems") as caught:
        run_experiment(compose([*given, "objective.momentum=7"]))
    text = str(caught.value)
    assert "objective.momentum=7" in text and "Market-1501" in text
    wrong = [*tiny(tmp_path, UDA), "seed=-1", "+source.epochs=7", "train.epochs=0"]
    with pytest.raises(ConfigError, match="3 problems") as refused:
        run_experiment(compose(wrong))
    text = str(refused.value)
    assert "source.epochs" in text and "seed=-1" in text and "train.epochs=0" in text


def without_ids(folder: Path, ids: Collection[str]) -> list[str]:
    """The overrides of a source on own images whose training identities `ids` are unknown."""
    folder.mkdir()
    own_images(folder)
    table = folder / "people" / "list.csv"
    rows = [row.split(",") for row in table.read_text().splitlines()]
    for row in rows:
        if row[1] in ids and row[3] == "train":
            row[1] = "-1"
    table.write_text("\n".join(map(",".join, rows)))
    return ["source=folder", f"source.csv={table}"]


def test_images_of_unknown_identity_are_no_person(tmp_path: Path) -> None:
    """One of four identities, with 4 of the 16 training images."""
    given = ["method=source_pretrain", *without_ids(tmp_path / "source", {"2"})]
    with pytest.raises(ConfigError, match="has 3 identities for training") as caught:
        run_experiment(tiny_config(tmp_path, *given, "batch.identities=4"))
    assert caught.value.hint.startswith("Set batch.identities=3 or fewer")
    run = run_experiment(tiny_config(tmp_path, *given, "batch.identities=2"))
    assert (run.record["source"]["train"], run.record["source"]["identities"]) == (12, 3)


def test_a_source_without_identities(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, UDA, *without_ids(tmp_path / "source", {"1", "2", "3", "4"}))
    with pytest.raises(DataError, match="no identities to learn from"):
        run_experiment(config)
    assert not list((tmp_path / "runs").glob("*/history.json"))


def test_disk_space_for_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not there for the source although the target is decoded already."""
    run_experiment(tiny_config(tmp_path, "method=direct_transfer"))
    free = 10**7
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=free))
    run_experiment(tiny_config(tmp_path, "method=direct_transfer", "seed=1"))
    many = tiny_config(tmp_path, UDA, *SOURCE, "source.total_images=8000")
    with pytest.raises(Exception, match="decoded images need"):
        run_experiment(many)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        (["batch.domain_norms=true"], "no effect without batch.joint=true"),
        (["batch.joint=true"], "does not accept a labeled source"),
        (["objective=softmax_triplet", "batch.joint=true", "distiller=mean_teacher"], "combined"),
        (["objective=softmax_triplet", "batch.joint=true", "labeler=identities"], "source alone"),
    ],
)
def test_parts_that_do_not_fit(changes: list[str], cause: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=cause):
        run_experiment(tiny_config(tmp_path, "method=cluster_contrast", *SOURCE, *changes))


# ----------------------------------------------------------------------- data sets of other folders


def test_a_plugin_is_a_source(tmp_path: Path, command: Command) -> None:
    folder = tmp_path / "mine" / "datasets" / "walkers"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("# Plain\n\nRendered people.\n")
    (folder / "config.yaml").write_text(
        "_target_: harness_plugins.datasets.walkers.dataset.Plain\nname: walkers\npeople: 12\n"
    )
    (folder / "dataset.py").write_text(
        "from harness_plugins.datasets.synthetic.dataset import Synthetic\n"
        "from harness.data.types import Dataset\n"
        "class Plain(Dataset):\n"
        "    def __init__(self, people: int = 5) -> None:\n"
        "        self.people = people\n"
        "    def load(self):\n"
        "        return Synthetic(identities=self.people, test_identities=2, cameras=3,\n"
        "                         seed=5).load()\n"
    )
    words = tiny(tmp_path, "method=source_pretrain", "source=walkers", "source.people=9")
    answer = command("run", "--plugins", str(tmp_path / "mine"), *words)
    assert answer.status == 0, answer.err
    (run,) = Store(tmp_path / "runs").runs()
    assert run.record["source"]["name"] == "walkers" and run.record["source"]["identities"] == 9
    assert run.record["protocol"]["setting"] == "UDA, source walkers"


# ------------------------------------------------------------------------ what is done with the run


def test_rerun_finds_the_source(
    adapted: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(experiment: Experiment, *_: object) -> float:
        raise OSError("a broken disk")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="broken"):
        patch.setattr(Experiment, "_time_left", end)
        run_experiment(tiny_config(tmp_path, UDA))
    (again,) = rerun(changes=["device=cpu"], store=f"{tmp_path}/runs")
    assert_same(adapted, again)
    market = restored(adapted, {"data.root": "/data", "device": "cpu"})
    assert market.source.seed == 1


def test_a_run_of_before_there_were_sources(tmp_path: Path) -> None:
    run = run_experiment(tiny_config(tmp_path, "method=spcl"))
    settings = json.loads((run.folder / "config.json").read_text())
    assert "source" not in settings and "joint" not in settings["batch"]
    assert restored(run, {"device": "cpu"}).source is None


def test_eval_embed_export_and_show(adapted: Run, command: Command, tmp_path: Path) -> None:
    """The kept network is the target's, with the usual keys."""
    store = str(adapted.folder.parent)
    root = str(adapted.folder.parent.parent / "data")
    answer = evaluate_run(adapted.name, store=store, data_root=root, device="cpu", images=True)
    assert answer["mAP"] == pytest.approx(adapted.record["metrics"]["mAP"], abs=1e-6)
    state = torch.load(adapted.folder / "train.pt", weights_only=True)
    assert not any(".source." in key for key in state)
    exported = command("export", adapted.name, "--store", store, "--output", f"{tmp_path}/m.onnx")
    assert exported.status == 0, exported.err
    shown = command("show", adapted.name, "--store", store, "--data-root", root, "--device", "cpu")
    assert shown.status == 0, shown.err


def test_tables_keep_settings_apart_and_cross_reads_source_to_target(
    adapted: Run, command: Command, tmp_path: Path
) -> None:
    data = adapted.folder.parent.parent / "data"
    changes = [f"store={tmp_path}/runs", f"data.root={data}"]
    runs = [adapted]
    for name in ("spcl", "supervised", "direct_transfer", "source_pretrain"):
        config = tiny_config(tmp_path, f"method={name}", *changes)
        runs.append(run_experiment(config))
    store = tmp_path / "runs"
    (store / adapted.name).symlink_to(adapted.folder)
    titles = {table.title: set(table.rows["name"]) for table in comparisons(store)}
    assert titles == {
        "synthetic, protocol debug": {"spcl", "direct_transfer"},
        "synthetic, supervised, with its own training labels, protocol debug": {"supervised"},
        "synthetic, domain adaptation from synthetic with labels (UDA), protocol debug":
            {"spcl_uda", "source_pretrain"},
    }  # fmt: skip
    found = load(store).set_index("method")
    assert found.loc["spcl_uda", "trained_on"] == "synthetic → synthetic"
    assert found.loc["source_pretrain", "trained_on"] == "synthetic"
    assert found.loc["spcl", "trained_on"] == "synthetic"
    assert found.loc["direct_transfer", "trained_on"] == "–"
    crossed = {table.title for table in tables(store, None, None, ("mAP",))}
    end = "trained on → tested on, protocol debug"
    assert crossed == {
        end, f"supervised, {end}", f"domain adaptation with a labeled source (UDA), {end}"
    }  # fmt: skip

    means = found["mAP"].to_dict()
    floor, ceiling, own = (means[name] for name in ("direct_transfer", "supervised", "spcl"))
    (usl,) = [t for t in comparisons(store, gap=True) if "spcl" in set(t.rows["name"])]
    if ceiling > floor:
        closed = usl.rows.set_index("method")["gap_closed"]
        assert closed["spcl"] == pytest.approx(100 * (own - floor) / (ceiling - floor))
        assert closed["direct_transfer"] == 0
    assert usl.bounds is not None
    shown = command("table", "--store", str(store), "--gap").out
    assert "Gap closed" in shown and "same backbone, weights, input" in " ".join(shown.split())
    assert "Gap closed" not in command("table", "--store", str(store)).out
    assert command("table", "--store", str(store), "--gap", "--cross").status == 2

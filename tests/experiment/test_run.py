"""One cell from end to end: record, repeatability, resume after a real kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from harness.components.objectives import ClusterMemory
from harness.core.errors import ConfigError, DataError, HarnessError
from harness.experiment.compose import compose
from harness.experiment.evaluate import evaluate_run
from harness.experiment.experiment import Experiment
from harness.experiment.finished_networks import load_network
from harness.experiment.rerun import rerun
from harness.experiment.run import run_experiment
from harness.results.run_status import state
from harness.results.store import Run, Store
from tests.conftest import Command
from tests.experiment import kills
from tests.paths import ROOT
from tests.same import assert_same, weights
from tests.tiny import tiny, tiny_config


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An uninterrupted MSKD cell."""
    return run_experiment(tiny_config(tmp_path_factory.mktemp("reference"), "method=mskd"))


def test_record_is_complete(reference: Run) -> None:
    record = reference.record
    assert record["experiment"] == {
        "method": "mskd", "dataset": "synthetic", "protocol": "debug", "seed": 0,
    }  # fmt: skip
    assert list(record["stages"]) == ["teacher", "student"]
    assert record["metrics"] == record["stages"]["student"]["metrics"]
    assert set(record["metrics"]) >= {"mAP", "rank1", "rank5", "rank10", "rank20", "mINP"}
    for stage in record["stages"].values():
        assert stage["images_per_second"] > 0
        assert set(stage["seconds"]) == {"extract", "label", "train", "test"}
    assert record["environment"]["packages"]["torch"] == torch.__version__.split("+")[0]
    assert len(record["dataset"]["fingerprint"]) == 32
    history = reference.history()
    assert [(r["stage"], r["epoch"]) for r in history] == [
        ("teacher", 0), ("teacher", 1), ("student", -1), ("student", 0), ("student", 1),
    ]  # fmt: skip
    assert {"loss", "lr", "clusters", "outliers", "ari", "nmi", "purity"} <= history[0].keys()
    with np.load(reference.folder / "per_query.npz") as arrays:
        ap = arrays["student_ap"]
        assert np.nanmean(ap) * 100 == pytest.approx(record["metrics"]["mAP"], abs=1e-4)
    assert not (reference.folder / "checkpoint.pt").exists()


def test_record_names_no_place(reference: Run) -> None:
    for name in ("record.json", "config.json", "history.json"):
        text = (reference.folder / name).read_text()
        assert str(reference.folder.parent.parent) not in text
        assert str(Path.home()) + "/" not in text


def test_a_log_beside_the_record_tells_what_happened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_experiment(tiny_config(tmp_path, "method=direct_transfer"))
    log = (run.folder / "log.txt").read_text()
    lines = log.splitlines()[1:]  # after the time
    assert lines == capsys.readouterr().out.splitlines() and "mAP" in log
    run_experiment(tiny_config(tmp_path, "method=direct_transfer"))  # is only reported
    assert (run.folder / "log.txt").read_text() == log


def test_a_finished_run_is_reported_without_the_libraries_that_train(tmp_path: Path) -> None:
    run_experiment(tiny_config(tmp_path, "method=direct_transfer"))
    code = (
        "import sys\nfrom harness.cli.main import main\nmain(sys.argv[1:])\n"
        "print(sorted({'torchvision', 'sklearn', 'torch._dynamo'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, "run", *tiny(tmp_path, "method=direct_transfer")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert "is finished already" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    overrides = ("method=direct_transfer", "name=run")
    (tmp_path / "runs" / "run" / "log.txt").mkdir(parents=True)
    assert run_experiment(tiny_config(tmp_path, *overrides)).finished


def test_same_seed_same_numbers(reference: Run, tmp_path: Path) -> None:
    assert_same(reference, run_experiment(tiny_config(tmp_path, "method=mskd")))


def test_another_seed_another_network(reference: Run, tmp_path: Path) -> None:
    other = run_experiment(tiny_config(tmp_path, "method=mskd", "seed=1"))
    assert other.name != reference.name
    assert other.record["settings"] == reference.record["settings"]
    a, b = weights(reference), weights(other)
    assert any(not torch.equal(a[key], b[key]) for key in a)


# Kills this very process at the n-th call of a function, as a power cut would.
BOMB = """
import importlib, os, signal, sys
module, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
owner = importlib.import_module(module)
*path, last = name.split(".")
for part in path:
    owner = getattr(owner, part)
original, calls = getattr(owner, last), [0]
def bomb(*args, **kwargs):
    calls[0] += 1
    if calls[0] == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **kwargs)
setattr(owner, last, bomb)
import torch
torch.set_num_threads(1)
from harness.cli.main import main
main(["run", *sys.argv[4:]])
"""


@pytest.mark.parametrize(
    ("module", "name", "count"),
    [
        ("harness.components.labelers.jaccard_dbscan", "JaccardDBSCAN.label", 2),  # while labelling
        ("harness.training.trainer", "Trainer._step", 7),  # in the student's warm-up epoch
        ("harness.core.files", "os.fsync", 5),  # in the middle of writing the first checkpoints
        ("harness.core.files", "os.fsync", 13),
        ("harness.experiment.run_files", "peak_memory", 1),  # all is done but the record
    ],
)
def test_killed_and_resumed(
    reference: Run, tmp_path: Path, module: str, name: str, count: int
) -> None:
    overrides = tiny(tmp_path, "method=mskd")
    killed = subprocess.run(
        [sys.executable, "-c", BOMB, module, name, str(count), *overrides],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    folder = tmp_path / "runs" / reference.name
    assert folder.is_dir() and not (folder / "record.json").exists()
    resumed = run_experiment(tiny_config(tmp_path, "method=mskd"))
    assert_same(reference, resumed)
    assert (resumed.folder / "log.txt").read_text().count(f"{resumed.name}: protocol") == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", kills.KINDS)
def test_killed_at_random_moments(tmp_path: Path, kind: str) -> None:
    """Ten kills and more; HARNESS_SEED chooses other moments."""
    seed = os.environ.get("HARNESS_SEED", "0")
    done = subprocess.run(
        [sys.executable, "-m", "tests.experiment.kills", tmp_path, seed, "10", kind],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, f"HARNESS_SEED={seed}\n{done.stderr[-3000:]}"


def test_killed_and_resumed_with_labels_that_grow(tmp_path: Path) -> None:
    """The second epoch's labels are merged from the first's, which only the checkpoint has."""
    settings = ("method=cluster_contrast", "labeler=bottom_up", "labeler.share=0.3")
    whole = run_experiment(tiny_config(tmp_path / "whole", *settings))
    images = whole.record["dataset"]["train"]
    assert [row["clusters"] for row in whole.history()] == [images, images - int(images * 0.3)]
    killed = subprocess.run(
        [sys.executable, "-c", BOMB, "harness.components.labelers.bottom_up", "BottomUp.label", "2",
         *tiny(tmp_path / "killed", *settings)],
        capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert_same(whole, run_experiment(tiny_config(tmp_path / "killed", *settings)))


def _interrupted_in_the_second_epoch(experiment: Experiment, *_: object) -> float:
    if len(experiment.progress.history) == 2:
        raise KeyboardInterrupt
    return 0.0


def test_killed_and_resumed_with_oracle_and_grouped_statistics(tmp_path: Path) -> None:
    settings = (
        "method=mskd", "selection=oracle", "evaluation.every=1", "batch.samples_per_bn=8",
    )  # fmt: skip
    whole = run_experiment(tiny_config(tmp_path / "whole", *settings))
    killed = subprocess.run(
        [sys.executable, "-c", BOMB, "harness.training.trainer", "Trainer._step", "8",
         *tiny(tmp_path / "killed", *settings)],
        capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert_same(whole, run_experiment(tiny_config(tmp_path / "killed", *settings)))


def test_finished_cell_is_not_run_again(
    reference: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = reference.folder.parent.parent
    before = (reference.folder / "record.json").stat().st_mtime_ns
    run_experiment(tiny_config(root, "method=mskd"))
    assert "finished already" in capsys.readouterr().out
    assert (reference.folder / "record.json").stat().st_mtime_ns == before


def test_a_name_stands_for_one_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`name=` neither answers with another cell's record nor goes on from its checkpoint."""
    named = ("method=cluster_contrast", "name=mine")
    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "write_record", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(tiny_config(tmp_path, *named))
    config = tmp_path / "runs" / "mine" / "config.json"
    begun = config.read_text()
    for other in ("seed=1", "optimizer.lr=1e-9"):
        with pytest.raises(ConfigError, match="another experiment"):
            run_experiment(tiny_config(tmp_path, *named, other))
        assert config.read_text() == begun
    run_experiment(tiny_config(tmp_path, *named))
    for other in ("seed=1", "optimizer.lr=1e-9", "method=direct_transfer"):
        with pytest.raises(ConfigError, match="another experiment"):
            run_experiment(tiny_config(tmp_path, *named, other))
    for change, problem in {
        "~backbone.weights": r"No value was given for backbone\.weights",
        "~device": "Change it instead: device=VALUE", "train=5": "must hold keys and values",
    }.items():  # fmt: skip
        with pytest.raises(ConfigError, match=problem):
            run_experiment(tiny_config(tmp_path, "method=direct_transfer", change))
    for key in ("name", "method.name", "dataset.name"):
        for value, problem in (("../x", "not a valid folder name"), ("x" * 101, "too long")):
            with pytest.raises(ConfigError, match=f"{key}=.*{problem}"):
                run_experiment(tiny_config(tmp_path, "method=direct_transfer", f"{key}='{value}'"))
    assert not list(tmp_path.glob("x*"))


def test_finished_with_other_images(tmp_path: Path) -> None:
    """A finished cell is no answer for images that have changed since."""
    overrides = _folder(tmp_path)
    run_experiment(compose(overrides))
    run_experiment(compose(overrides))
    Image.new("RGB", (16, 32)).save(tmp_path / "people" / "0_0.png")
    with pytest.raises(HarnessError, match="other images"):
        run_experiment(compose(overrides))
    for image in (tmp_path / "people").glob("*.png"):
        image.unlink()
    assert run_experiment(compose(overrides)).finished  # records are read where the images are not


def test_stage_teacher_of_another_backbone_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the student"):
        run_experiment(tiny_config(tmp_path, "method=mskd", "stages.student.backbone.widths=[8,8]"))
    assert not (tmp_path / "runs").exists()


def test_no_possible_match_is_refused_before_training(tmp_path: Path) -> None:
    overrides = _folder(tmp_path)
    table = tmp_path / "people" / "list.csv"
    rows = [row.split(",") for row in table.read_text().splitlines()]
    table.write_text("\n".join(",".join([r[0], r[1], "camera" if i == 0 else "0", r[3]])
                               for i, r in enumerate(rows)))  # fmt: skip
    with pytest.raises(HarnessError, match="No query"):
        run_experiment(compose(overrides))
    assert not list((tmp_path / "runs").glob("*/history.json"))


def test_what_a_kill_left_is_swept(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "method=direct_transfer")
    run = run_experiment(config)
    (run.folder / "record.json").unlink()
    (run.folder / "checkpoint.pt.123.tmp").write_bytes(b"half")
    assert not list(run_experiment(config).folder.glob("*.tmp"))


def test_force_runs_again(tmp_path: Path) -> None:
    config = ("method=direct_transfer",)
    first = run_experiment(tiny_config(tmp_path, *config))
    before = (first.folder / "record.json").stat().st_mtime_ns
    again = run_experiment(tiny_config(tmp_path, *config, "overwrite=always"))
    assert (again.folder / "record.json").stat().st_mtime_ns > before
    assert again.record["metrics"] == first.record["metrics"]


def test_teacher_of_another_run(reference: Run) -> None:
    """With `distiller.teacher=RUN` only the student is trained, on the same teacher."""
    root = reference.folder.parent.parent
    beginning = "mskd-synthetic-s0"  # which fits the new run's folder too, once it is there
    run = run_experiment(tiny_config(root, "method=mskd", f"distiller.teacher={beginning}"))
    assert list(run.record["stages"]) == ["student"]
    assert run.record["metrics"] == reference.record["metrics"]
    assert str(root) not in (run.folder / "config.json").read_text()


def test_teacher_of_another_backbone_is_refused(reference: Run) -> None:
    root = reference.folder.parent.parent
    teacher = f"distiller.teacher={reference.name}"
    for change, reason in (("backbone.views=[global]", "views"), ("backbone.widths=[8,8]", "8")):
        part = ["labeler.part_weight=0"] if "views" in change else []
        with pytest.raises(ConfigError, match=reason):
            run_experiment(tiny_config(root, "method=mskd", teacher, change, *part))


def test_crossing_cluster_contrast_with_a_teacher(reference: Run) -> None:
    """A part of one method serves another."""
    root = reference.folder.parent.parent
    run = run_experiment(
        tiny_config(
            root, "method=cluster_contrast", "distiller=offline_teacher",
            f"distiller.teacher={reference.folder}", "backbone.views=[global,upper,lower]",
        )
    )  # fmt: skip
    assert list(run.record["stages"]) == ["train"]


def test_oracle_selection_keeps_the_best(tmp_path: Path) -> None:
    run = run_experiment(
        tiny_config(
            tmp_path, "method=cluster_contrast", "selection=oracle", "train.epochs=3",
            "evaluation.every=1",
        )
    )  # fmt: skip
    tested = {row["epoch"]: row["mAP"] for row in run.history()}
    assert len(tested) == 3
    assert run.record["metrics"]["mAP"] == max(tested.values())
    assert tested[run.record["stages"]["train"]["epoch"]] == max(tested.values())


def test_no_clusters_is_explained_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    overrides = ("method=cluster_contrast", "labeler.min_samples=60")
    with pytest.raises(HarnessError) as caught:
        run_experiment(tiny_config(tmp_path, *overrides))
    assert "no clusters" in caught.value.cause and "eps 0.6" in caught.value.cause
    assert "labeler.eps" in caught.value.hint


def test_too_few_clusters_is_explained(tmp_path: Path) -> None:
    with pytest.raises(HarnessError) as caught:
        run_experiment(tiny_config(tmp_path, "method=cluster_contrast", "batch.identities=64"))
    assert "eps 0.6" in caught.value.cause and "outliers" in caught.value.cause


def test_loss_that_is_not_finite_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.training.trainer import Trainer

    monkeypatch.setattr(Trainer, "_step", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(HarnessError, match="not finite"):
        run_experiment(tiny_config(tmp_path, "method=cluster_contrast"))


@pytest.mark.parametrize("content", ["{", '{"schema": 99}'])
def test_a_record_that_cannot_be_used_is_kept(tmp_path: Path, content: str) -> None:
    """It is neither trained over nor believed; overwrite=always replaces it."""
    config = tiny_config(tmp_path, "method=direct_transfer")
    record = run_experiment(config).folder / "record.json"
    record.write_text(content)
    with pytest.raises(DataError, match="cannot be used") as problem:
        run_experiment(config)
    assert "overwrite=always" in problem.value.hint and record.read_text() == content
    config.overwrite = "always"
    assert run_experiment(config).finished


def stopped_before_its_record(root: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> Path:
    """The folder of a run that was stopped when all was done but the record."""
    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "write_record", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(tiny_config(root, *overrides))
    (run,) = Store(root / "runs").runs()
    return run.folder


def flip_a_bit(path: Path) -> None:
    """Flip a bit of a weight."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_of_a_damaged_checkpoint_the_one_before_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One flipped bit is noticed, and the run ends as if nothing had happened."""
    whole = run_experiment(tiny_config(tmp_path / "whole", "method=cluster_contrast"))
    folder = stopped_before_its_record(tmp_path / "cut", monkeypatch, "method=cluster_contrast")
    flip_a_bit(folder / "checkpoint.pt")
    resumed = run_experiment(tiny_config(tmp_path / "cut", "method=cluster_contrast"))
    assert "continuing from the one before" in capsys.readouterr().out
    assert_same(whole, resumed)
    assert not list(folder.glob("checkpoint*"))


def test_two_damaged_checkpoints_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stopped_before_its_record(tmp_path, monkeypatch, "method=cluster_contrast")
    (folder / "checkpoint.pt").write_bytes((folder / "checkpoint.pt").read_bytes()[:100])
    torch.save({"readable": "but no checkpoint"}, folder / "checkpoint.previous.pt")
    with pytest.raises(DataError, match=r"checkpoint\.pt is damaged"):
        run_experiment(tiny_config(tmp_path, "method=cluster_contrast"))
    run_experiment(tiny_config(tmp_path, "method=cluster_contrast", "overwrite=always"))


def test_lost_files_come_back_or_are_named(
    reference: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint has the history, networks give the per-query results, nothing the networks."""
    folder = stopped_before_its_record(tmp_path, monkeypatch, "method=mskd")
    teacher = (folder / "teacher.pt").read_bytes()
    (folder / "teacher.pt").unlink()
    with pytest.raises(DataError, match=r"teacher\.pt of the finished stage 'teacher' is missing"):
        run_experiment(tiny_config(tmp_path, "method=mskd"))
    (folder / "teacher.pt").write_bytes(teacher)
    (folder / "history.json").unlink()
    (folder / "per_query.npz").write_bytes(b"PK damaged")
    assert_same(reference, run_experiment(tiny_config(tmp_path, "method=mskd")))


def test_damaged_weights_are_refused(reference: Run, tmp_path: Path) -> None:
    """A flipped bit of the weights would be another result."""
    store = shutil.copytree(reference.folder.parent, tmp_path / "runs")
    path = store / reference.name / "student.pt"
    flip_a_bit(path)
    with pytest.raises(DataError, match=r"student\.pt cannot be read as weights .*checksum"):
        load_network(Run(path.parent), "student")


def test_every_problem_is_reported_before_any_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "harness.components.backbones.weights.imagenet_state",
        lambda arch: pytest.fail("weights were downloaded"),
    )
    config = compose([
        "method=cluster_contrast", "dataset=market1501", "labeler.eps=abc", "objective.momentum=7",
        f"store={tmp_path}/runs", f"data.root={tmp_path}/nowhere", "device=cpu",
    ])  # fmt: skip
    with pytest.raises(DataError) as found:
        run_experiment(config)
    for part in ("3 problems", "labeler.eps=abc", "objective.momentum=7", "nowhere"):
        assert part in str(found.value)
    config.seed, config.train.epochs, config.log = -1, 0, "wandb"
    with pytest.raises(DataError, match="problems") as found:
        run_experiment(config)
    for part in ("seed=-1", "train.epochs=0", "labeler.eps=abc", "objective.momentum=7", "nowhere"):
        assert part in str(found.value)


def test_a_run_without_data_is_noted_and_can_be_given_again(tmp_path: Path) -> None:
    overrides = _folder(tmp_path)
    table = tmp_path / "people" / "list.csv"
    table.rename(tmp_path / "away.csv")
    with pytest.raises(DataError, match=r"list\.csv"):
        run_experiment(compose(overrides))
    (run,) = Store(tmp_path / "runs").runs()
    assert state(run).kind == "failed" and "list.csv" in state(run).detail
    (tmp_path / "away.csv").rename(table)
    (again,) = rerun(
        changes=[f"data.root={tmp_path}/people"], failed=True, store=f"{tmp_path}/runs"
    )
    assert again.finished and again.folder == run.folder


def test_disk_space_is_checked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(free=1000, total=10**9, used=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(HarnessError, match=r"need .* GB, but the disk of .* has 0\.0 GB free"):
        run_experiment(tiny_config(tmp_path, "method=cluster_contrast"))


def test_what_a_kill_left_beside_a_record_is_swept(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "method=direct_transfer")
    run = run_experiment(config)
    for name in ("checkpoint.pt", "checkpoint.previous.pt", "record.json.1-a.tmp"):
        (run.folder / name).write_bytes(b"left")
    run_experiment(config)
    assert not [*run.folder.glob("checkpoint*"), *run.folder.glob("*.tmp")]


def test_an_edited_configuration_is_not_believed(reference: Run, tmp_path: Path) -> None:
    """Networks of a finished run are built from its config.json, which its record identifies."""
    store = shutil.copytree(reference.folder.parent, tmp_path / "runs")
    path = store / reference.name / "config.json"
    config = json.loads(path.read_text())
    config["images"]["height"] = 64
    path.write_text(json.dumps(config))
    with pytest.raises(HarnessError, match=r"config\.json has changed since the record was made"):
        evaluate_run(reference.name, store=store)


def test_checkpoints_run_no_code(tmp_path: Path) -> None:
    """`weights_only=True`: a pickled function is refused, not called."""
    run = run_experiment(tiny_config(tmp_path, "method=direct_transfer"))
    torch.save({"a": os.system}, run.folder / "initial.pt")
    with pytest.raises(HarnessError, match="cannot be read"):
        load_network(run, "initial")


def test_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(HarnessError, match="cannot be written") as caught:
        run_experiment(tiny_config(tmp_path, "method=direct_transfer"))
    assert "store=" in caught.value.hint


def _folder(folder: Path, cameras: bool = True) -> list[str]:
    """Overrides of a tiny cell of own images: 8 people of noise, 4 shots each."""
    people = folder / "people"
    people.mkdir()
    rows = ["path,id,camera,split" if cameras else "path,id,split"]
    generator = np.random.default_rng(0)
    for identity in range(8):
        for shot in range(4):
            split = "train" if identity < 4 else ("query" if shot == 0 else "gallery")
            name = f"{identity}_{shot}.png"
            pixels = generator.integers(0, 255, (32, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(people / name)
            rows.append(",".join([name, str(identity + 1), *([str(shot)] * cameras), split]))
    (people / "list.csv").write_text("\n".join(rows))
    return [
        "method=cluster_contrast", "dataset=folder", f"dataset.csv={people}/list.csv",
        "protocol=debug", "neighbours.k1=4", "neighbours.k2=1", "labeler.min_samples=1",
        "batch.identities=2", "batch.images=2", "backbone.widths=[8]", "backbone.strides=[1]",
        f"store={folder}/runs", f"data.root={folder}/data", "device=cpu",
    ]  # fmt: skip


def test_unreadable_images(tmp_path: Path) -> None:
    """An error by default; left out, and counted in the record, with on_bad_image=skip."""
    overrides = _folder(tmp_path)
    bad = tmp_path / "people" / "1_1.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(HarnessError, match=r"1_1\.png") as caught:
        run_experiment(compose(overrides))
    assert "on_bad_image=skip" in caught.value.hint
    run = run_experiment(compose([*overrides, "dataset.on_bad_image=skip"]))
    assert run.record["dataset"]["unreadable"] == ["1_1.png"]
    assert run.record["dataset"]["train"] == 15
    assert str(tmp_path) not in json.dumps(run.record) + (run.folder / "config.json").read_text()


def test_data_without_cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samplers do without and the card says so; an objective that needs cameras is refused."""
    overrides = _folder(tmp_path, cameras=False)
    run = run_experiment(compose(overrides))
    assert run.record["protocol"]["cameras"] is False
    assert run.record["metrics"]["queries_without_match"] == 0
    monkeypatch.setattr(ClusterMemory, "uses_cameras", True)
    with pytest.raises(ConfigError, match="needs cameras"):
        run_experiment(compose([*overrides, "seed=1"]))


def test_changed_images_do_not_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of other images is refused, not continued."""
    overrides = _folder(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "write_record", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(compose(overrides))
    Image.new("RGB", (16, 32)).save(tmp_path / "people" / "0_0.png")
    with pytest.raises(HarnessError, match="not those"):
        run_experiment(compose(overrides))


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_bf16_on_the_cpu(tmp_path: Path) -> None:
    """Emulated or not, it runs, and the card says so: other numbers, another protocol."""
    fp32 = run_experiment(tiny_config(tmp_path, "method=cluster_contrast"))
    bf16 = run_experiment(tiny_config(tmp_path, "method=cluster_contrast", "train.precision=bf16"))
    assert bf16.record["protocol"]["precision"] == "bf16"
    assert bf16.record["protocol"]["hash"] != fp32.record["protocol"]["hash"]
    first = [run.history()[0]["loss"] for run in (fp32, bf16)]
    assert first[0] != first[1]
    assert first[1] == pytest.approx(first[0], rel=0.2)


def test_data_without_a_test_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: Command
) -> None:
    """They train, and are not evaluated; everything says so, and nothing breaks on it."""
    overrides = _folder(tmp_path)
    listed = tmp_path / "people" / "list.csv"
    lines = listed.read_text().splitlines()
    listed.write_text("\n".join(line for line in lines if not line.endswith(("query", "gallery"))))
    untrained = [x for x in overrides if not x.startswith(("method", "labeler"))]
    for wrong, words in (
        ([*untrained, "method=direct_transfer"], "does not train"),
        ([*overrides, "selection=oracle"], "selection=oracle needs a test part"),
    ):
        with pytest.raises(ConfigError, match=words):
            run_experiment(compose(wrong))
    run = run_experiment(compose(overrides))
    assert "no test part: this run trains and is not evaluated" in capsys.readouterr().out
    assert run.finished and run.problem is None
    assert run.record["evaluated"] is False and run.record["metrics"] == {}
    assert run.record["dataset"]["query"] == 0
    assert run.record["stages"]["train"]["epoch"] == 1
    assert load_network(run, "train") is not None
    run_experiment(compose(overrides))  # finished already
    store = str(tmp_path / "runs")
    assert "trained, not evaluated" in command("list", "runs", "--store", store).out
    write = tiny(tmp_path, "method=direct_transfer")
    run_experiment(compose(write))
    table = command("table", "--store", store)
    assert table.status == 0 and "direct_transfer" in table.out and "folder" not in table.out


@pytest.mark.parametrize(
    "words",
    [("store=2024",), ("data.root=5", "dataset=market1501"), ("evaluation.label_free=5",)],
)
def test_numbers_where_text_is_expected(command: Command, words: tuple[str, ...]) -> None:
    """A folder may be called 2024; nothing ends in a traceback."""
    answer = command(
        "run", "method=cluster_contrast", "dataset=synthetic", "protocol=debug", "device=cpu",
        "train.epochs=1", *words,
    )  # fmt: skip
    assert "Traceback" not in answer.err and answer.status in (0, 2), answer.err
    assert (answer.status == 0) is (words == ("store=2024",)), answer.err

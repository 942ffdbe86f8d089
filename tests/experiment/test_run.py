"""One experiment from end to end: record, repeatability, teachers, selection, refusals."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.components.objectives import ClusterMemory
from harness.core.distributed import processes
from harness.core.errors import ConfigError, HarnessError
from harness.experiment.compose import compose
from harness.experiment.experiment import Experiment
from harness.experiment.finished_networks import load_network
from harness.experiment.run import run_experiment
from harness.results.store import Run
from tests.conftest import Command
from tests.paths import ROOT
from tests.same import assert_same, weights
from tests.tiny import own_images, tiny, tiny_config


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


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


@pytest.mark.parametrize("stopped", [False, True])
def test_the_next_run_of_the_process_finds_the_threads_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    execute, counts = Experiment.execute, []

    def counted(self: Experiment, afresh: bool) -> None:
        counts.append(torch.get_num_threads())
        if stopped:
            raise KeyboardInterrupt
        execute(self, afresh)

    monkeypatch.setattr(Experiment, "execute", counted)
    monkeypatch.setattr(processes, "cores", lambda: 2)
    with contextlib.suppress(KeyboardInterrupt):
        run_experiment(tiny_config(tmp_path, "method=direct_transfer", "threads=2"))
    assert counts == [2]
    assert torch.get_num_threads() == 1


def test_more_threads_than_processors_are_refused(tmp_path: Path) -> None:
    too_many = processes.cores() + 1
    with pytest.raises(ConfigError, match=rf"threads={too_many} must be from 1 to the"):
        run_experiment(tiny_config(tmp_path, "method=direct_transfer", f"threads={too_many}"))
    assert not any((tmp_path / "runs").glob("*"))


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


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a peak cannot be reset")
def test_a_run_has_the_memory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small run after a large one, in one process, as in a sweep."""
    work = Experiment.execute

    def large(experiment: Experiment, afresh: bool = False) -> None:
        block = np.ones(400 << 17)  # 400 MiB
        work(experiment, afresh)
        assert block[-1] == 1

    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "execute", large)
        first = run_experiment(tiny_config(tmp_path, "method=direct_transfer"))
    second = run_experiment(tiny_config(tmp_path, "method=direct_transfer", "seed=1"))
    peaks = [run.record["memory_mib"]["host"] for run in (first, second)]
    assert peaks[0] - peaks[1] > 300


def test_finished_with_other_images(tmp_path: Path) -> None:
    """A finished cell is no answer for images that have changed since."""
    overrides = own_images(tmp_path)
    run_experiment(compose(overrides))
    run_experiment(compose(overrides))
    Image.new("RGB", (16, 32)).save(tmp_path / "people" / "0_0.png")
    with pytest.raises(HarnessError, match="other images"):
        run_experiment(compose(overrides))
    for image in (tmp_path / "people").glob("*.png"):
        image.unlink()
    assert run_experiment(compose(overrides)).finished  # records are read where the images are not


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

    monkeypatch.setattr(Trainer, "train_step", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(HarnessError, match="not finite"):
        run_experiment(tiny_config(tmp_path, "method=cluster_contrast"))


def test_unreadable_images(tmp_path: Path) -> None:
    """An error by default; left out, and counted in the record, with on_bad_image=skip."""
    overrides = own_images(tmp_path)
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
    overrides = own_images(tmp_path, cameras=False)
    run = run_experiment(compose(overrides))
    assert run.record["protocol"]["cameras"] is False
    assert run.record["metrics"]["queries_without_match"] == 0
    monkeypatch.setattr(ClusterMemory, "uses_cameras", True)
    with pytest.raises(ConfigError, match="needs cameras"):
        run_experiment(compose([*overrides, "seed=1"]))


def test_changed_images_do_not_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of other images is refused, not continued."""
    overrides = own_images(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "write_record", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(compose(overrides))
    Image.new("RGB", (16, 32)).save(tmp_path / "people" / "0_0.png")
    with pytest.raises(HarnessError, match="not those"):
        run_experiment(compose(overrides))


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
    overrides = own_images(tmp_path)
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

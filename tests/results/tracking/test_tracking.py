"""Curves in TensorBoard, Weights & Biases (offline) and MLflow: complete, and no point twice."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from harness.core.errors import ConfigError
from harness.experiment.experiment import Experiment
from harness.experiment.plan import make_plan
from harness.experiment.run import run_experiment
from harness.results import tracking
from harness.results.store import Run, Store
from harness.results.tracking import check_log, make_tracker
from tests.tiny import tiny_config

METHOD = ("method=cluster_contrast", "train.epochs=3", "evaluation.every=1")
ROWS = [
    {"stage": "train", "epoch": e, "loss": 5.0 - e, "clusters": 9 + e, "lr": 0.1} for e in range(4)
]
METRICS = {"mAP": 70.0, "rank1": 80.0}

Points = dict[str, list[tuple[int, float]]]


def tensorboard_points(folder: Path) -> Points:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(point.step, point.value) for point in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def interrupted(root: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
    """A run that stops when its second epoch is logged, but not yet saved."""

    def end(experiment: Experiment, *_: object) -> float:
        if len(experiment.progress.history) == 2:
            raise KeyboardInterrupt
        return 0.0

    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "_time_left", end)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(tiny_config(root, *METHOD, *overrides))


def test_a_resumed_run_has_every_epoch_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tmp_path, monkeypatch, "log=tensorboard")
    run = run_experiment(tiny_config(tmp_path, *METHOD, "log=tensorboard"))
    assert len(list(run.folder.glob("events.out.tfevents.*"))) == 2
    points = tensorboard_points(run.folder)
    history = run.history()
    for key in ("loss", "mAP", "clusters", "seconds"):
        found = points[f"train/{key}"]
        assert [step for step, _ in found] == [0, 1, 2]
        assert [value for _, value in found] == pytest.approx([row[key] for row in history])
    ((step, value),) = points["final/mAP"]
    assert step == 3 and value == pytest.approx(run.record["metrics"]["mAP"])
    again = run_experiment(tiny_config(tmp_path, *METHOD, "log=tensorboard", "overwrite=always"))
    assert len(list(again.folder.glob("events.out.tfevents.*"))) == 1


def test_curves_of_epochs_before_logging_was_enabled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tmp_path, monkeypatch)
    run = run_experiment(tiny_config(tmp_path, *METHOD, "log=tensorboard"))
    assert [step for step, _ in tensorboard_points(run.folder)["train/loss"]] == [0, 1, 2]


def test_curves_of_a_finished_run(tmp_path: Path) -> None:
    run = run_experiment(tiny_config(tmp_path, *METHOD))
    assert not list(tracking.forget(run.folder))
    run_experiment(tiny_config(tmp_path, *METHOD, "log=tensorboard", "overwrite=backfill"))
    assert [step for step, _ in tensorboard_points(run.folder)["train/loss"]] == [0, 1, 2]


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[int]]]:
    """Service → the steps that it received. Neither package is needed."""
    steps: dict[str, list[int]] = {"wandb": [], "mlflow": []}

    class Receiver(Mock):
        def log(self, values: dict[str, float], step: int) -> None:
            steps["wandb"].append(step)

        def log_batch(self, run: str, metrics: Any = (), **_: Any) -> None:
            steps["mlflow"] += [metric[3] for metric in metrics if metric[0] == "step"]

        def get_metric_history(self, *_: Any) -> list[Any]:
            return []

    entities = SimpleNamespace(
        Metric=lambda *values: values, Param=lambda *_: None, RunTag=lambda *_: None
    )
    modules = {
        "wandb": SimpleNamespace(
            init=lambda **_: Receiver(summary={}), Settings=lambda **_: None
        ),
        "mlflow": ModuleType("mlflow"),
        "mlflow.entities": entities,
        "mlflow.tracking": SimpleNamespace(MlflowClient=Receiver),
    }  # fmt: skip
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("wandb", "mlflow"):
        monkeypatch.delitem(sys.modules, f"harness.results.tracking.{name}", raising=False)
        monkeypatch.delattr(tracking, name, raising=False)
    monkeypatch.setattr(tracking, "find_spec", lambda name: object())
    yield steps
    for name in ("wandb", "mlflow"):  # they have imported what is not there
        sys.modules.pop(f"harness.results.tracking.{name}", None)


def test_a_tracker_has_its_curves_whatever_others_have(
    tmp_path: Path, services: dict[str, list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_experiment(tiny_config(tmp_path, *METHOD, "log=tensorboard"))
    note = run.folder / "tracking.json"
    for log in ("wandb", "mlflow"):
        for _ in range(2):  # the second finds them there
            run_experiment(tiny_config(tmp_path, *METHOD, f"log={log}", "overwrite=backfill"))
        assert services[log][:3] == [0, 1, 2] and len(set(services[log])) == 3
        assert services["wandb"] == [0, 1, 2]
    assert {"wandb", "sent", "mlflow"} == json.loads(note.read_text()).keys()
    for damaged in ("{", "[]"):
        note.write_text(damaged)
        assert not tracking.has_curves("wandb", run.folder)
        make_tracker("wandb", run.folder, "run", {}, ROWS[:1])
        assert {"wandb", "sent"} == json.loads(note.read_text()).keys()
    assert "tracking.json cannot be read" in "".join(capsys.readouterr())


def test_logging_changes_no_experiment(tmp_path: Path) -> None:
    plain, logged = (tiny_config(tmp_path, *METHOD, f"log={log}") for log in ("none", "wandb"))
    assert make_plan(plain, "fp32").hash == make_plan(logged, "fp32").hash


def test_missing_packages_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    for log, line in {
        "tensorboard": "pip install tensorboard",
        "wandb": r'pip install "usl-reid-harness\[wandb\]"',
        "mlflow": r'pip install "usl-reid-harness\[mlflow\]"',
    }.items():
        with pytest.raises(ConfigError, match=line):
            run_experiment(tiny_config(tmp_path, *METHOD, f"log={log}"))
    with pytest.raises(ConfigError, match="Did you mean 'wandb'"):
        run_experiment(tiny_config(tmp_path, *METHOD, "log=wanb"))
    assert not (tmp_path / "runs").exists()
    check_log("none")


def resumed(log: str, folder: Path) -> None:
    """Three epochs, of which a kill loses the third; then the third, the fourth, and the end."""
    first = make_tracker(log, folder, "run", {"seed": 0, "labeler": {"eps": 0.5}}, [])
    for step, row in enumerate(ROWS[:3]):
        first.log(row, step)
    first.close(None)
    second = make_tracker(log, folder, "run", {"seed": 0}, ROWS[:2])
    for step, row in enumerate(ROWS[2:], start=2):
        second.log(row, step)
    second.close(METRICS)


@pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is not installed")
def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # required by new versions
    try:
        resumed("mlflow", tmp_path)
    except Exception as error:
        if "file store" not in str(error).lower() and "filesystem" not in str(error).lower():
            raise
        pytest.skip(f"this mlflow has no file store: {error}")
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    run = json.loads((tmp_path / "tracking.json").read_text())["mlflow"]
    losses = client.get_metric_history(run, "train/loss")
    assert sorted((m.step, m.value) for m in losses) == [(0, 5.0), (1, 4.0), (2, 3.0), (3, 2.0)]
    found = client.get_run(run)
    assert found.data.metrics["final/mAP"] == 70.0
    assert found.data.params["labeler.eps"] == "0.5"
    assert found.info.status == "FINISHED"


def log_records(data: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log: blocks of 32 KiB, fragments with headers of 7 bytes."""
    whole, place = b"", 7  # the file's header is part of the first block
    data = bytes(7) + data
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        whole += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole record or its last fragment
            yield whole
            whole = b""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This starts a local service; nothing leaves the machine."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    resumed("wandb", tmp_path)
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # wait for the service to finish writing
    rows: list[dict[str, Any]] = []
    for path in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb")):
        for data in log_records(path.read_bytes()[7:]):  # after the file's header
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("history"):
                items = record.history.item
                rows.append(
                    {(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in items}
                )
    assert [row["train/loss"] for row in rows if "train/loss" in row] == [5.0, 4.0, 3.0, 2.0]
    note = json.loads((tmp_path / "tracking.json").read_text())
    assert note["wandb"].startswith("run-") and note["sent"] == 3


def test_no_files_without_logging(tmp_path: Path) -> None:
    run_experiment(tiny_config(tmp_path, "method=direct_transfer"))
    (run,) = Store(tmp_path / "runs").runs()
    assert isinstance(run, Run) and not list(tracking.forget(run.folder))

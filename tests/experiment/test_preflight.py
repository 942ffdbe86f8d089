"""What is wrong is found before any work, all of it at once."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.core.errors import ConfigError, DataError, HarnessError
from harness.experiment.compose import compose
from harness.experiment.rerun import rerun
from harness.experiment.run import run_experiment
from harness.results.run_status import state
from harness.results.store import Store
from tests.tiny import own_images, tiny_config


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
    overrides = own_images(tmp_path)
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


def test_stage_teacher_of_another_backbone_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the student"):
        run_experiment(tiny_config(tmp_path, "method=mskd", "stages.student.backbone.widths=[8,8]"))
    assert not (tmp_path / "runs").exists()


def test_no_possible_match_is_refused_before_training(tmp_path: Path) -> None:
    overrides = own_images(tmp_path)
    table = tmp_path / "people" / "list.csv"
    rows = [row.split(",") for row in table.read_text().splitlines()]
    table.write_text("\n".join(",".join([r[0], r[1], "camera" if i == 0 else "0", r[3]])
                               for i, r in enumerate(rows)))  # fmt: skip
    with pytest.raises(HarnessError, match="No query"):
        run_experiment(compose(overrides))
    assert not list((tmp_path / "runs").glob("*/history.json"))


def test_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(HarnessError, match="cannot be written") as caught:
        run_experiment(tiny_config(tmp_path, "method=direct_transfer"))
    assert "store=" in caught.value.hint

"""`harness verify` passes on the vectors and fails on changed ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from harness.conformance import verify
from harness.conformance.cases import CASES, Check, Vectors, close
from harness.conformance.runner import golden_folder
from harness.core.errors import ConfigError
from harness.experiment.compose import compose
from tests.conftest import Command


def test_all_vectors_pass(command: Command) -> None:
    answer = command("verify")
    assert answer.status == 0
    assert "all passed" in answer.out
    assert "FAILED" not in answer.out
    files = {path.stem for path in golden_folder().glob("*.npz")}
    assert files == set(CASES), "a file without a case is checked by nothing"
    assert all(name in answer.out for name in files)


def tampered(folder: Path, name: str, key: str, change: float | None) -> None:
    """Write a copy of one file with one number changed, or one array left out."""
    with np.load(golden_folder() / f"{name}.npz") as file:
        arrays = {k: np.array(file[k]) for k in file.files}
    if change is None:
        del arrays[key]
    else:
        # indexing by () changes a scalar, by (0, …) the first number of an array
        arrays[key][(0,) * arrays[key].ndim] += change
    np.savez(folder / f"{name}.npz", **arrays)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "key", "change", "quantity"),
    [
        ("cluster_contrast", "cm_m10_loss1", 1e-8, "cm_m10_loss1"),
        ("cluster_contrast", "cmhard_m20_grad2", 1e-8, "cmhard_m20_grad2"),
        ("lr_schedules", "steplr20_epoch_and_lr", 1.0, "steplr20 epochs"),
        ("dbscan", "small_labels_eps030", 1, "small_labels_eps030"),
    ],
)
def test_a_changed_number_fails(
    tmp_path: Path, command: Command, name: str, key: str, change: float, quantity: str
) -> None:
    tampered(tmp_path, name, key, change)
    ((found, checks),) = verify(tmp_path)
    assert found == name
    assert quantity in [check.quantity for check in checks if not check.passed]
    answer = command("verify", str(tmp_path))
    assert answer.status == 1
    assert f"{name}: {quantity}" in answer.out
    assert "FAILED" in answer.out


def test_a_missing_array_is_a_failed_check(tmp_path: Path, command: Command) -> None:
    tampered(tmp_path, "cluster_contrast", "targets2", None)
    ((_, checks),) = verify(tmp_path)
    failed = [check for check in checks if not check.passed]
    assert len(failed) == 1
    assert "targets2" in failed[0].quantity
    assert command("verify", str(tmp_path)).status == 1


def test_constants_come_from_the_vectors(tmp_path: Path) -> None:
    """Schedules of another base rate pass, and the shipped base rate is the methods' own."""
    with np.load(golden_folder() / "lr_schedules.npz") as file:
        arrays = {key: np.array(file[key]) for key in file.files}
    for name in ("cap", "ice", "mskd"):
        config = compose([f"method={name}", "dataset=market1501", "protocol=published"])
        assert config.optimizer.lr == arrays["base_lr"]
    arrays["base_lr"] *= 2
    arrays["cap_lr_per_epoch"] *= 2
    arrays["ice_lr_per_epoch"] *= 2
    for key in ("steplr20_epoch_and_lr", "mskd_student_epoch_and_lr"):
        arrays[key][:, 1] *= 2
    np.savez(tmp_path / "lr_schedules.npz", **arrays)  # type: ignore[arg-type]
    ((_, checks),) = verify(tmp_path)
    assert len(checks) == 6 and all(check.passed for check in checks)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a file", b"no archive"])
def test_a_damaged_file_is_a_failed_check(tmp_path: Path, content: bytes) -> None:
    shutil.copy(golden_folder() / "lr_schedules.npz", tmp_path)
    (tmp_path / "cluster_contrast.npz").write_bytes(content)
    checks = dict(verify(tmp_path))
    assert [check.passed for check in checks["cluster_contrast"]] == [False]
    assert all(check.passed for check in checks["lr_schedules"]), "the other cases still run"


def test_pickled_arrays_are_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "cluster_contrast.npz", temp=np.array([{}], dtype=object))
    ((_, checks),) = verify(tmp_path)
    assert [check.passed for check in checks] == [False]


def test_a_folder_without_vectors_is_refused(tmp_path: Path, command: Command) -> None:
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ConfigError, match="no known vectors"):
        list(verify(tmp_path))
    assert command("verify", str(tmp_path)).status == 2


@pytest.mark.parametrize(
    "name", ["mmt_losses", "spcl_memory", "hhcl", "buc_loss", "dcmip", "o2cap"]
)
def test_the_same_cases_pass_in_float32(name: str) -> None:
    """Training runs in float32, for which the bound is 1e-5."""
    vectors = Vectors(golden_folder() / f"{name}.npz")
    for key, array in vectors.items():
        if array.dtype == np.float64:
            vectors[key] = array.astype(np.float32)
    checks = list(CASES[name](vectors))
    assert max(check.error for check in checks) <= 1e-5
    assert max(check.error for check in checks) > 1e-9, "it did not run in float32"


def test_what_counts_as_equal() -> None:
    nan = float("nan")
    assert close("", [1.0, nan], [1.0, nan], 0.0).passed
    assert not close("", [1.0, nan], [1.0, 2.0], 1.0).passed
    assert not close("", [1.0], [1.0, 1.0], 1.0).passed, "shapes are not broadcast"
    assert close("", [], [], 0.0).passed
    assert close("", [1, 2], [1, 2]).passed, "without a tolerance, numbers must be equal"
    assert close("", [1, 2, 3], [1, 0, 0]).error == 3
    assert not close("", [1, 2, 3], [1, 0, 0]).passed
    assert not Check("", nan, 1.0).passed

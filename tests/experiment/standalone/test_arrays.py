"""Foreign files: read to the bit in every order and dtype, refused with a reason otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.core.errors import ConfigError, DataError, HarnessError
from harness.experiment.standalone.arrays import ArrayFile, integers
from harness.experiment.standalone.features import Features, unit_features
from tests.experiment.standalone.own_features import people
from tests.paths import ROOT

UNIT = people(8, 5)
VIEWS = np.stack([UNIT, people(8, 5, seed=1), people(8, 5, seed=2)], axis=1)


def read(path: Path, views: int | None = None) -> Features:
    """The features of a file."""
    file = ArrayFile(path)
    return unit_features(file["features"], file.where("features"), views)


@pytest.mark.parametrize("name", ["q.pt", "q.npz"])
def test_a_file_of_torch_save_is_named(name: str, tmp_path: Path) -> None:
    torch.save({"features": torch.ones(2, 3)}, tmp_path / name)
    with pytest.raises(DataError, match=r"a file of torch\.save") as refusal:
        ArrayFile(tmp_path / name)
    assert "numpy.savez" in refusal.value.hint


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["npy", "npz", "compressed"])
@pytest.mark.parametrize("values", [UNIT, VIEWS], ids=["(N, D)", "(N, V, D)"])
def test_features_are_read_as_they_are(
    tmp_path: Path, dtype: str, order: str, kind: str, values: np.ndarray
) -> None:
    stored = np.array(values, dtype=dtype, order=order)  # type: ignore[call-overload]
    path = tmp_path / "features"
    with path.open("wb") as file:
        if kind == "npy":
            np.save(file, stored)
        else:
            save = np.savez if kind == "npz" else np.savez_compressed
            save(file, other=np.zeros(3), features=stored)
    features = read(path)
    expected = stored.astype(np.float32).reshape(len(values), -1, values.shape[-1])
    assert features.note == ""
    assert np.array_equal(features.values.numpy(), expected)
    assert all(view.is_contiguous() for view in features.values.unbind(dim=1))
    first = read(path, views=1)
    assert np.array_equal(first.values.numpy(), expected[:, :1])


def test_rows_are_normalised_per_view_and_that_is_said(tmp_path: Path) -> None:
    scales = np.random.default_rng(0).uniform(0.5, 30, size=(*VIEWS.shape[:2], 1))
    np.save(tmp_path / "f.npy", VIEWS * scales)
    features = read(tmp_path / "f.npy")
    assert np.allclose(features.values.numpy(), VIEWS, atol=1e-6)
    assert f"norms {scales.min():.3g} to {scales.max():.3g}" in features.note
    assert "each view" in features.note
    assert len(features.note.splitlines()) == 1


def test_numbers_beyond_float32_s_squares_are_normalised(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", UNIT * np.float32(1e30))
    values = read(tmp_path / "f.npy").values
    assert np.allclose(values[:, 0].numpy(), UNIT, atol=1e-6)


def spoilt(value: float) -> np.ndarray:
    rows = UNIT.copy()
    rows[[3, 7], 1] = value
    return rows


def without(*rows: int) -> np.ndarray:
    left = VIEWS.copy()
    left[list(rows), 1] = 0
    return left


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (UNIT.astype(np.int64), "int64; features are float16"),
        (UNIT > 0, "bool; features"),
        (UNIT.astype(np.complex64), "complex64; features"),
        (np.array([f"{x}" for x in UNIT[:, 0]]), "features are float16"),
        (UNIT[:, 0], "shape (40,); features are (N, D)"),
        (VIEWS[None], "shape (1, 40, 3, 16); features are (N, D)"),
        (np.float32(1), "shape (); features are (N, D)"),
        (UNIT[:0], "empty: its shape is (0, 16)"),
        (UNIT[:, :0], "empty: its shape is (40, 0)"),
        (spoilt(np.nan), "2 of 40 rows in f.npy are not finite (NaN or Inf), the first is row 3."),
        (spoilt(-np.inf), "2 of 40 rows in f.npy are not finite"),
        (spoilt(0).astype(np.float64) * 1e300, "not finite"),  # Inf as float32
        (without(5), "1 of 120 rows in f.npy are zero, the first is row 5 of view 1"),
    ],
)  # fmt: skip
def test_what_features_cannot_be(tmp_path: Path, stored: np.ndarray, said: str) -> None:
    np.save(tmp_path / "f.npy", stored)
    with pytest.raises(DataError) as refusal:
        read(tmp_path / "f.npy")
    assert said in refusal.value.cause
    assert refusal.value.hint


@pytest.mark.parametrize("name", ["f.npy", "f.npz"])
def test_pickled_objects_are_not_loaded(tmp_path: Path, name: str) -> None:
    """Not even where the object would be harmless."""

    ragged = np.array([[1.0], [1.0, 2.0]], dtype=object)
    path = tmp_path / name
    if name == "f.npy":
        np.save(path, ragged, allow_pickle=True)
    else:
        np.savez(path, features=ragged)
    with pytest.raises(DataError, match="pickled Python objects"):
        read(path)


def test_files_of_other_kinds(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")  # a zip, but without arrays
    with pytest.raises(DataError, match=r"a file of torch\.save, not an \.npz file"):
        ArrayFile(tmp_path / "tensor.pt")["features"]
    (tmp_path / "text.npy").write_text("0.1 0.2\n")
    with pytest.raises(DataError, match=r"neither an \.npy nor an \.npz"):
        ArrayFile(tmp_path / "text.npy")
    (tmp_path / "empty.npy").touch()
    with pytest.raises(DataError, match=r"neither an \.npy nor an \.npz"):
        ArrayFile(tmp_path / "empty.npy")
    with pytest.raises(ConfigError, match=r"gone\.npy does not exist"):
        ArrayFile(tmp_path / "gone.npy")
    with pytest.raises(ConfigError, match="is a folder"):
        ArrayFile(tmp_path)


def test_a_file_that_ends_too_early_is_refused_before_memory_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "f.npy"
    np.save(path, UNIT)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"f\.npy cannot be read.*mmap"):
        ArrayFile(path)["features"]
    path.write_bytes(whole.replace(b"(40, 16)", b"(10**9,)").replace(b"10**9", b"99999"))
    with pytest.raises(DataError, match="damaged or incomplete"):
        ArrayFile(path)["features"]
    path.write_bytes(whole[:40])
    with pytest.raises(DataError, match="cannot be read"):
        ArrayFile(path)["features"]


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    np.savez_compressed(path, features=UNIT)
    with zipfile.ZipFile(path) as archive:
        middle = archive.infolist()[0].compress_size // 2
    data = bytearray(path.read_bytes())
    data[middle : middle + 40] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"f\.npz cannot be read"):
        read(path)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"f\.npz cannot be read"):
        ArrayFile(path)


def test_memory_that_does_not_suffice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "f.npy", UNIT)

    def full(*_: int) -> None:
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(HarnessError, match="does not fit into memory"):
        read(tmp_path / "f.npy")


@pytest.mark.parametrize("name", ["f.npy", "f.npz"])
def test_damaged_headers_are_named(tmp_path: Path, name: str) -> None:
    """Any byte of a header may be another one: it is read, or refused with the file's name."""
    path = tmp_path / name
    np.save(path, UNIT) if name == "f.npy" else np.savez(path, features=UNIT)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for position in range(160):
        data = bytearray(whole)
        data[position] = rng.integers(0, 256)
        path.write_bytes(data)
        try:
            read(path)
        except DataError as error:
            refused += 1
            assert error.hint
    assert refused > 20


def test_a_header_beyond_all_memory(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", features=UNIT)
    data = (tmp_path / "f.npz").read_bytes()
    huge = data.replace(b"(40, 16), }        ", b"(9999999999999,), }")
    assert len(huge) == len(data) and huge != data
    (tmp_path / "f.npz").write_bytes(huge)
    with pytest.raises(DataError, match=r"f\.npz cannot be read"):
        read(tmp_path / "f.npz")


def test_integers() -> None:
    for values, expected in (
        (np.array([3, -1], dtype=np.int8), [3, -1]),
        (np.array([3.0, -1.0]), [3, -1]),
        (np.array(["0003", "-1"]), [3, -1]),
        (np.array(["3.0", "-1.0"]), [3, -1]),
        (np.array([2**62, 0]), [2**62, 0]),
    ):
        found = integers(values, "ids", 2)
        assert found.dtype == np.int64
        assert found.tolist() == expected
    for bad, length, said in (
        (np.array([3.0, 0.5]), 2, "'ids' is float64 and holds 0.5, which is not an integer"),
        (np.array([3.0, np.nan]), 2, "holds nan"),
        (np.array([3.0, np.inf]), 2, "holds inf"),
        (np.array([1e30, 0.0]), 2, "beyond int64"),
        (np.array([2**63, 0], dtype=np.uint64), 2, "beyond int64"),
        (np.array([True, False]), 2, "bool, not integers"),
        (np.array(["a", "1"]), 2, "words"),
        (np.array([[3], [1]]), 2, r"shape \(2, 1\), but there are 2 images"),
        (np.array([3, 1]), 3, r"shape \(2,\), but there are 3 images"),
    ):
        with pytest.raises(DataError, match=said):
            integers(bad, "'ids'", length)


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_DATA")
def test_reading_takes_no_second_copy(tmp_path: Path) -> None:
    """Float64 in Fortran order, to be normalized: only the float32 features are allocated."""
    rows = np.random.default_rng(0).standard_normal((1024, 20480), dtype=np.float32).T
    np.save(tmp_path / "f.npy", rows.astype(np.float64))
    np.save(tmp_path / "few.npy", rows[:2000].astype(np.float64))
    code = """
import re, resource, sys
from pathlib import Path
import torch
from harness.experiment.standalone.arrays import ArrayFile
from harness.experiment.standalone.features import unit_features

torch.set_num_threads(1)
unit_features(ArrayFile(sys.argv[1])["features"])  # what libraries load at their first use
used = int(re.search(r"VmData:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
# the features are 80 MiB, the float64 file is 160
resource.setrlimit(resource.RLIMIT_DATA, (used + (80 + 40) * 2**20,) * 2)
assert unit_features(ArrayFile(sys.argv[2])["features"]).note
"""
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "few.npy"), str(tmp_path / "f.npy")],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True,
    )  # fmt: skip


def test_normalized_float32_is_not_copied() -> None:
    array = UNIT.copy()
    assert np.shares_memory(unit_features(array).values.numpy(), array)
    scaled = 3 * UNIT
    features = unit_features(scaled)
    assert features.note and np.array_equal(scaled, 3 * UNIT), "the array stays as it is"

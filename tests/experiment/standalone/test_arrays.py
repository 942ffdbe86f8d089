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
from harness.experiment.standalone import arrays
from harness.experiment.standalone.arrays import ArrayFile
from harness.experiment.standalone.features import read_features
from tests.experiment.standalone.own_features import people
from tests.paths import ROOT

UNIT = people(8, 5)
VIEWS = np.stack([UNIT, people(8, 5, seed=1), people(8, 5, seed=2)], axis=1)


@pytest.fixture(params=[1 << 22, 100, 1], ids=["one piece", "pieces", "a row a piece"])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_PIECE", request.param)


@pytest.mark.usefixtures("piece")
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
    read = read_features(ArrayFile(path))
    expected = stored.astype(np.float32).reshape(len(values), -1, values.shape[-1])
    assert read.note == ""
    assert np.array_equal(read.values.numpy(), expected)
    assert all(view.is_contiguous() for view in read.values.unbind(dim=1))
    first = read_features(ArrayFile(path), views=1)
    assert np.array_equal(first.values.numpy(), expected[:, :1])


def test_rows_are_normalised_per_view_and_that_is_said(tmp_path: Path) -> None:
    scales = np.random.default_rng(0).uniform(0.5, 30, size=(*VIEWS.shape[:2], 1))
    np.save(tmp_path / "f.npy", VIEWS * scales)
    read = read_features(ArrayFile(tmp_path / "f.npy"))
    assert np.allclose(read.values.numpy(), VIEWS, atol=1e-6)
    assert f"norms {scales.min():.3g} to {scales.max():.3g}" in read.note
    assert "each view" in read.note
    assert len(read.note.splitlines()) == 1


def test_numbers_beyond_float32_s_squares_are_normalised(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", UNIT * np.float32(1e30))
    values = read_features(ArrayFile(tmp_path / "f.npy")).values
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
        read_features(ArrayFile(tmp_path / "f.npy"))
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
        read_features(ArrayFile(path))


def test_files_of_other_kinds(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")  # a zip, but without arrays
    with pytest.raises(DataError, match="no array 'features'"):
        ArrayFile(tmp_path / "tensor.pt").header("features")
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
    with pytest.raises(DataError, match=f"too early: {UNIT.nbytes - 1} bytes of {UNIT.nbytes}"):
        ArrayFile(path).header("features")
    path.write_bytes(whole.replace(b"(40, 16)", b"(10**9,)").replace(b"10**9", b"99999"))
    with pytest.raises(DataError, match="too early"):
        ArrayFile(path).header("features")
    path.write_bytes(whole[:40])
    with pytest.raises(DataError, match="cannot be read"):
        ArrayFile(path).header("features")


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    np.savez_compressed(path, features=UNIT)
    with zipfile.ZipFile(path) as archive:
        middle = archive.infolist()[0].compress_size // 2
    data = bytearray(path.read_bytes())
    data[middle : middle + 40] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"f\.npz cannot be read"):
        read_features(ArrayFile(path))
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"f\.npz cannot be read"):
        ArrayFile(path)


def test_memory_that_does_not_suffice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "f.npy", UNIT)

    def full(*_: int) -> None:
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(HarnessError, match="does not fit into memory"):
        read_features(ArrayFile(tmp_path / "f.npy"))


def test_integers(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "a.npz", good=np.array([3, -1], dtype=np.int8), real=np.array([3.0, 1.0]),
        huge=np.array([2**63, 0], dtype=np.uint64), column=np.array([[3], [1]]),
    )  # fmt: skip
    file = ArrayFile(tmp_path / "a.npz")
    good = file.integers("good", 2)
    assert good.dtype == np.int64
    assert good.tolist() == [3, -1]
    for name, length, said in (
        ("real", 2, "'real' of a.npz is float64, not integers"),
        ("huge", 2, "beyond int64"),
        ("column", 2, r"shape \(2, 1\), but there are 2 images"),
        ("good", 3, r"shape \(2,\), but there are 3 images"),
        ("goof", 2, "no array 'goof'"),
    ):
        with pytest.raises(DataError, match=said):
            file.integers(name, length)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_reading_takes_no_second_copy(tmp_path: Path) -> None:
    """Float64 in Fortran order, to be normalised: peak memory grows by the float32 features."""
    rows = np.random.default_rng(0).standard_normal((1024, 20480), dtype=np.float32).T
    np.save(tmp_path / "f.npy", rows.astype(np.float64))
    code = """
import re, sys
from pathlib import Path
from harness.experiment.standalone.arrays import ArrayFile
from harness.experiment.standalone.features import read_features

def peak():  # not ru_maxrss, which a process inherits from the one that started it
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**10

before = peak()
features = read_features(ArrayFile(sys.argv[1]))
assert features.note
print(peak() - before - features.mib)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "f.npy")],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    # the features are 80 MiB; pieces come and go, torch loads what it runs
    assert -10 < float(done.stdout) < 40

"""Where image caches are, if data are read-only and if they are not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from harness.core import errors
from harness.data.cache_folder import cache_folder
from harness.data.image_cache import build_image_cache
from harness.data.image_files import ImageFiles
from tests.conftest import Command
from tests.datasets.fakes import paint
from tests.tiny import tiny


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A read-only data root with an image cache of 64x32 that its owner has built."""
    errors._noticed.clear()
    root = paint(tmp_path / "shared", ["a.jpg", "b.jpg"])
    build_image_cache(ImageFiles(root, ["a.jpg", "b.jpg"]), (64, 32), root / ".harness")
    access = os.access
    monkeypatch.setattr(  # tests may run as root, who can write everywhere
        os, "access", lambda path, mode: root not in (path, *path.parents) and access(path, mode)
    )
    monkeypatch.delenv("HARNESS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return root


def test_beside_the_data_if_it_can_be_written(tmp_path: Path) -> None:
    assert cache_folder(tmp_path / "new/data", None) == tmp_path / "new/data/.harness"
    assert not list(tmp_path.iterdir()), "nothing is made: the data may be missing"


def test_read_only_data(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    user = tmp_path / "xdg/harness"
    assert cache_folder(root, None) == cache_folder(str(root), None) == user
    place = f"image caches are in {user} (HARNESS_CACHE=DIR)"
    assert capsys.readouterr().err == f"note: {root}/.harness cannot be written: {place}.\n"
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "own"))
    assert cache_folder(root, None) == tmp_path / "own"


def test_a_given_folder_is_never_replaced(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", "elsewhere")
    assert cache_folder(root, root / "caches") == root / "caches"
    assert not capsys.readouterr().err


def test_image_caches_of_others_are_used(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ImageFiles(root, ["a.jpg", "b.jpg"])
    before = {path: path.read_bytes() for path in (root / ".harness").iterdir()
              if path.suffix != ".lock"}  # fmt: skip
    (root / ".harness/x.npy.1-a.tmp").touch()
    for _ in range(2):
        folder = cache_folder(root, None)
    assert len(list(folder.iterdir())) == len(before)
    assert build_image_cache(source, (16, 8), folder).images.shape == (2, 16, 8, 3)
    expected = build_image_cache(source, (64, 32), root / ".harness").images
    with monkeypatch.context() as patch:
        patch.setattr(ImageFiles, "read", lambda *_: pytest.fail("decoded again"))
        np.testing.assert_array_equal(build_image_cache(source, (64, 32), folder).images, expected)
    array = next(folder.glob("*_64x32.npy"))
    array.unlink()
    array.symlink_to("gone")
    folder = cache_folder(root, None)
    np.testing.assert_array_equal(build_image_cache(source, (64, 32), folder).images, expected)
    assert {path: path.read_bytes() for path in before} == before, "nothing is written there"


def test_run_prepare_and_eval(command: Command, root: Path, tmp_path: Path) -> None:
    changes = tiny(tmp_path, f"data.root={root}", "method=direct_transfer")
    assert command("run", *changes).status == 0
    user = tmp_path / "xdg/harness"
    assert sum(path.suffix == ".npy" and not path.is_symlink() for path in user.iterdir()) == 2
    answer = command("prepare", *changes[:-1])
    assert answer.status == 0, answer.err
    assert list((user / "cards").glob("*.json"))
    name = next((tmp_path / "runs").iterdir()).name
    store = ("--store", str(tmp_path / "runs"))
    answer = command("eval", name, *store, "--data-root", str(root))
    assert answer.status == 0, answer.err
    assert sorted(p.suffix for p in (root / ".harness").iterdir()) == [".json", ".lock", ".npy"]

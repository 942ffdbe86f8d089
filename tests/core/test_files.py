"""Files are whole or not there, and the system's refusals come with a hint."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path
from typing import IO

import pytest
import torch

from harness.core import files
from harness.core.errors import HarnessError
from harness.core.files import make_folder, read_json, write_atomically, write_json, write_text


def test_text_and_json(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    write_json(path, {"µ": [1, 2.5, None]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"µ": [1, 2.5, None]}
    write_text(path, "±")
    assert path.read_bytes() == "±".encode()
    assert list(path.parent.iterdir()) == [path]


def test_not_a_number_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, float("nan"))
    assert path.read_text() == "1\n"


@pytest.mark.parametrize(
    ("raised", "becomes"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (ValueError("a bug"), ValueError),
        (RuntimeError("a bug in torch.save"), RuntimeError),
        (OSError(errno.ENOSPC, "No space left on device"), HarnessError),
    ],
)
def test_a_failing_writer_leaves_what_was_there(
    tmp_path: Path, raised: BaseException, becomes: type[BaseException]
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def write(file: IO[bytes]) -> None:
        file.write(b"half")
        raise raised

    with pytest.raises(becomes):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failing_rename_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(HarnessError):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


REFUSALS = [
    (OSError(errno.ENOSPC, "No space left on device"), "is full", "Free some space"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), "is full: Disk quota", "Free some space"),
    (OSError(errno.EFBIG, "File too large"), "larger than a file may be", "ulimit -f"),
    (PermissionError(errno.EACCES, "Permission denied"), "Permission denied", "store="),
    (OSError(errno.EROFS, "Read-only file system"), "Read-only file system", "store="),
]


@pytest.mark.parametrize(("error", "cause", "hint"), REFUSALS)
def test_errors_of_the_file_system_name_the_folder_and_a_hint(
    tmp_path: Path, error: OSError, cause: str, hint: str
) -> None:
    def write(file: IO[bytes]) -> None:
        raise error

    with pytest.raises(HarnessError) as refusal:
        write_atomically(tmp_path / "a.txt", write)
    assert str(tmp_path) in refusal.value.cause
    assert cause in refusal.value.cause
    assert hint in refusal.value.hint


@pytest.mark.parametrize(("error", "cause", "hint"), REFUSALS)
def test_torch_save_hides_the_refusal_behind_an_error_of_its_own(
    tmp_path: Path, error: OSError, cause: str, hint: str
) -> None:
    class Refusing(io.BytesIO):
        def write(self, _: object) -> int:
            raise error

    with pytest.raises(HarnessError, match=cause) as refusal:
        write_atomically(tmp_path / "a.pt", lambda _: torch.save({"a": torch.zeros(9)}, Refusing()))
    assert hint in refusal.value.hint


def test_a_limit_of_the_size_of_files(tmp_path: Path) -> None:
    """`ulimit -f`, which schedulers set: the system sends a signal that Python ignores."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(HarnessError, match=r"a\.pt in .* is larger than a file may be"):
            write_atomically(
                tmp_path / "a.pt", lambda file: torch.save({"a": torch.zeros(9000)}, file)
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_json_that_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": [{"b": 1}]})
    assert read_json(path) == {"a": [{"b": 1}]}
    for levels in (100, 900, 200_000):
        path.write_text("[" * levels + "]" * levels)
        with pytest.raises(ValueError, match="nested too deeply"):
            read_json(path)
    path.write_bytes(b'"\xff"')
    with pytest.raises(ValueError, match="utf-8"):
        read_json(path)


def test_names_that_are_not_utf8_survive_in_json(tmp_path: Path) -> None:
    path, name = tmp_path / "a.json", os.fsdecode(b"caf\xe9.jpg")
    write_json(path, [name])
    assert read_json(path) == [name]


@pytest.mark.parametrize(("error", "cause", "hint"), REFUSALS)
def test_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, cause: str, hint: str
) -> None:
    def refuse(**_: object) -> None:
        raise error

    monkeypatch.setattr(files, "TemporaryFile", refuse)
    with pytest.raises(HarnessError) as refusal:
        make_folder(tmp_path / "runs")
    assert str(tmp_path / "runs") in refusal.value.cause
    assert cause in refusal.value.cause
    assert hint in refusal.value.hint
    assert not list((tmp_path / "runs").iterdir())


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(HarnessError, match="cannot be written"):
        make_folder(tmp_path / "runs" / "run")
    with pytest.raises(HarnessError, match="cannot be written"):
        write_text(tmp_path / "runs" / "run" / "a.txt", "")


def test_make_folder_leaves_nothing_in_it(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())

"""Reads files that anyone may have made: bounded before they are parsed, and never unpickled."""

from __future__ import annotations

import hashlib
import math
import re
import stat
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from harness.core.errors import first_line
from harness.core.files import read_json

#: absolute value of a number in JSON; seconds, counts and percentages are far below
LARGEST_NUMBER = 2**53
#: characters of a string in JSON, and of a quotation in a message
LONGEST_STRING, LONGEST_QUOTE = 4096, 80
#: arrays of an .npz file, bytes of its directory, dimensions of an array, bytes of an entry
MOST_ARRAYS, LARGEST_DIRECTORY, MOST_DIMENSIONS, LARGEST_ENTRY = 128, 1 << 15, 2, 512
#: end of a zip archive: signature, …, number of entries, bytes of the directory, …
_END, _END_SIGNATURE, _ZIP64 = struct.Struct("<4s6xHI4xH"), b"PK\x05\x06", b"PK\x06\x07"


def quoted(value: object, longest: int = LONGEST_QUOTE) -> str:
    """A hostile value for a message: on one line, printable and short."""
    text = value if isinstance(value, str) else repr(value)
    text = "".join(c if c.isprintable() else "?" for c in text[: longest + 1])
    return text if len(text) <= longest else f"{text[:longest]}…"


def regular_size(path: Path) -> int | None:
    """The size of a regular file; None for links, folders, pipes and what does not exist."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def digest(path: Path) -> str:
    """SHA-256 of a file, as hex digits."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            found.update(chunk)
    return found.hexdigest()


# ------------------------------------------------------------------------------- JSON


def read_strict(path: Path) -> Any:
    """The content of a JSON file: no duplicate keys, no nan, no huge numbers or strings, not deep.

    Raises:
        OSError: it cannot be read. ValueError: it is not as it should be; says what.
    """
    return read_json(
        path, object_pairs_hook=_unique, parse_constant=_refused, parse_float=_number,
        parse_int=_whole,
    )  # fmt: skip


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice in an object")
    for key, value in pairs:
        strings = value if isinstance(value, list) else [value]
        if any(isinstance(s, str) and len(s) > LONGEST_STRING for s in (key, *strings)):
            raise ValueError(f"a string is longer than {LONGEST_STRING} characters")
    return found


def _refused(word: str) -> Any:
    raise ValueError(f"it holds {word}")


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or abs(value) > LARGEST_NUMBER:
        raise ValueError(f"the number {quoted(text, 20)} is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > 20 or abs(value := int(text)) > LARGEST_NUMBER:
        raise ValueError(f"the number {quoted(text, 20)} is too large")
    return value


# ------------------------------------------------------------------------------- arrays


def check_npz(path: Path, limit: int) -> None:
    """Check an .npz file by its directory and its arrays' headers, before any array is unpacked.

    Args:
        limit: bytes of all arrays, unpacked.

    Raises:
        OSError: it cannot be read. ValueError: it is not what numpy.savez writes, is larger, or
            holds something else than numbers and short texts; says what.
    """
    with path.open("rb") as file:
        _check_directory(file)
        try:
            with zipfile.ZipFile(file) as archive:
                _check_members(archive, limit)
        except (OSError, ValueError):
            raise
        except Exception as error:  # whatever zipfile, zlib and numpy raise
            raise ValueError(f"{type(error).__name__}: {quoted(first_line(error))}") from error


def _check_directory(file: IO[bytes]) -> None:
    """Check the size of the archive's directory, which zipfile reads as a whole."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _END.size - 20))
    tail = file.read()
    if len(tail) < _END.size:
        raise ValueError("it is no .npz file")
    signature, entries, directory, comment = _END.unpack(tail[-_END.size :])
    if signature != _END_SIGNATURE or comment:
        raise ValueError("it is no .npz file, or does not end as one")
    if tail[: -_END.size].startswith(_ZIP64) or entries > MOST_ARRAYS:
        raise ValueError(f"it has more than {MOST_ARRAYS} arrays, or another form of archive")
    if directory > LARGEST_DIRECTORY:
        raise ValueError("its directory is too large")
    file.seek(0)


def _check_members(archive: zipfile.ZipFile, limit: int) -> None:
    members = archive.infolist()
    if len({member.filename for member in members}) != len(members) or len(members) > MOST_ARRAYS:
        raise ValueError("it has an array twice, or too many")
    for member in members:
        if not re.fullmatch(r"[\w-]{1,100}\.npy", member.filename, re.ASCII):
            raise ValueError(f"it holds {quoted(member.filename)}, which is no array's name")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("it is compressed in a way that numpy does not use")
        if member.flag_bits & 1:
            raise ValueError("it is encrypted")
    if (total := sum(member.file_size for member in members)) > limit:
        raise ValueError(f"its arrays take {total:,} bytes, more than {limit:,}")
    for member in members:
        with archive.open(member) as stream:
            _check_array(stream, member)


def _check_array(stream: IO[bytes], member: zipfile.ZipInfo) -> None:
    """Check an array's header: what numpy will read must be numbers, or a short text."""
    name = quoted(member.filename.removesuffix(".npy"))
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name} has another format of numpy")
    header = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = header(stream)
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects (a pickle), which are never loaded")
    plain = (dtype.kind in "iuf" and dtype.itemsize <= 8) or (dtype.kind == "U" and not shape)
    if not plain or dtype.names is not None or dtype.itemsize > LARGEST_ENTRY:
        raise ValueError(f"{name} holds neither numbers nor a short text")
    if len(shape) > MOST_DIMENSIONS or any(count < 0 for count in shape):
        raise ValueError(f"{name} has the shape {quoted(shape)}")
    if math.prod(shape) * dtype.itemsize + stream.tell() != member.file_size:
        raise ValueError(f"{name} does not have the size that its header says")

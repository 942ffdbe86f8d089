"""Arrays in .npy and .npz files that others wrote: looked at before they are read, never unpickled.

An array is read from the file piece by piece, straight to where it is needed. So an .npz costs no
more memory than an .npy, and neither another dtype nor Fortran order needs a second copy.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from harness.core.errors import ConfigError, DataError, did_you_mean, first_line

_PIECE = 1 << 22  # bytes read at a time
_NPY, _ZIP = b"\x93NUMPY", b"PK"


@dataclass(frozen=True)
class Header:
    """What a stored array is, without its values.

    where: how to call it in an error ("features.npy", "'ids' of query.npz").
    fortran: whether values are stored in Fortran order (first index fastest).
    """

    where: str
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * self.dtype.itemsize


class ArrayFile:
    """The arrays of one file: those of an .npz by name, that of an .npy under any name.

    Args:
        path: the file; what it is, its first bytes tell and not its name.

    Raises:
        ConfigError: there is no such file.
        DataError: it cannot be read, or is neither .npy nor .npz.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            kind = "is a folder, not a file" if self.path.is_dir() else "does not exist"
            raise ConfigError(f"{self.path} {kind}.", "Name an .npy or .npz file.")
        with self._whole(), self.path.open("rb") as file:
            start = file.read(len(_NPY))
            self.single = start == _NPY
            if not self.single and not start.startswith(_ZIP):
                raise DataError(
                    f"{self.path} is neither an .npy nor an .npz file.",
                    "Write arrays with numpy.save or numpy.savez; torch tensors by .cpu().numpy().",
                )
            self.names: list[str] = []
            if not self.single:
                with zipfile.ZipFile(file) as archive:
                    names = archive.namelist()
                self.names = [name[:-4] for name in names if name.endswith(".npy")]

    def __contains__(self, name: str) -> bool:
        return not self.single and name in self.names

    def header(self, name: str) -> Header:
        """Shape, dtype and order of an array.

        Raises:
            DataError: no such array, one of Python objects, or a file that ends too early.
        """
        with self._values(name) as (header, _):
            return header

    def pieces(self, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """An array in pieces, in the order in which it is stored.

        Yields:
            (where, values) along the first axis, or along the last one in Fortran order; values
            are overwritten by the next piece.

        Raises:
            DataError: as for `header`, or the file is damaged.
        """
        with self._values(name) as (header, file):
            axes = header.shape[::-1] if header.fortran else header.shape
            row = math.prod(axes[1:]) * header.dtype.itemsize
            step = max(1, _PIECE // max(1, row))
            # one buffer for all: freed ones of this size leave holes that memory grows by
            buffer = memoryview(bytearray(min(step, axes[0]) * row))
            for start in range(0, axes[0], step):
                stop = min(start + step, axes[0])
                data = buffer[: (stop - start) * row]
                _fill(data, file)
                values = np.frombuffer(data, header.dtype).reshape(stop - start, *axes[1:])
                yield slice(start, stop), values.T if header.fortran else values

    def vector(self, name: str, length: int, kinds: str, what: str) -> np.ndarray:
        """A whole array (length,), of a dtype of one of `kinds` (numpy's letters).

        Raises:
            DataError: another shape, length or dtype; `what` says what was wanted.
        """
        header = self.header(name)
        if header.dtype.kind not in kinds:
            raise DataError(
                f"{header.where} is {header.dtype}, not {what}.", "Is it the right array?"
            )
        if header.shape != (length,):
            raise DataError(
                f"{header.where} has shape {header.shape}, but there are {length} images.",
                "One entry an image is needed, in the order of the features.",
            )
        return np.concatenate([values.copy() for _, values in self.pieces(name)])

    def integers(self, name: str, length: int) -> np.ndarray:
        """(length,) int64.

        Raises:
            DataError: as for `vector`, or numbers beyond int64.
        """
        values = self.vector(name, length, "iu", "integers")
        if values.dtype.kind == "u" and values.max() > np.iinfo(np.int64).max:
            raise DataError(f"{self._where(name)} holds numbers beyond int64.", "Number anew.")
        return values.astype(np.int64)

    def _where(self, name: str) -> str:
        return self.path.name if self.single else f"'{name}' of {self.path.name}"

    @contextmanager
    def _values(self, name: str) -> Iterator[tuple[Header, IO[bytes]]]:
        """The header, and a file that stands at the first value."""
        with self._whole():
            if self.single:
                with self.path.open("rb") as file:
                    yield self._checked(name, file, self.path.stat().st_size), file
                return
            if name not in self.names:
                raise DataError(
                    f"{self.path} holds no array '{name}'.",
                    did_you_mean(name, self.names) or "It is empty.",
                )
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{name}.npy") as member:
                yield self._checked(name, member, archive.getinfo(f"{name}.npy").file_size), member

    def _checked(self, name: str, file: IO[bytes], size: int) -> Header:
        version = npy.read_magic(file)
        # versions above 2.0 are for dtypes with named fields
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(file)
        header = Header(self._where(name), shape, dtype, bool(fortran))
        if dtype.hasobject:
            raise DataError(
                f"{header.where} holds pickled Python objects, which are never read: they can run "
                "code.",
                "Write plain numbers; rows of unequal length become objects, too.",
            )
        if size - file.tell() < header.nbytes:
            raise DataError(
                f"{header.where} ends too early: {size - file.tell()} bytes of {header.nbytes}.",
                "It was not written or copied to its end; do that again.",
            )
        return header

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Turn what a damaged file raises into an error that names it."""
        try:
            yield
        except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as e:
            raise DataError(
                f"{self.path} cannot be read: {first_line(e)}.", "Write or copy it again."
            ) from e


def _fill(buffer: memoryview, file: IO[bytes]) -> None:
    """Read as many bytes as fit; an archive's members come in smaller portions."""
    while buffer:
        count = file.readinto(buffer)  # type: ignore[attr-defined]
        if not count:
            raise EOFError("it ends too early")
        buffer = buffer[count:]

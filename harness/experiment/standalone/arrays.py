"""Arrays from .npy and .npz files, read by numpy and never unpickled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from harness.core.errors import ConfigError, DataError, did_you_mean, first_line
from harness.core.files import expanded
from harness.data.identifiers import whole_number


class ArrayFile(Mapping[str, np.ndarray]):
    """The arrays of a file: those of an .npz by name, that of an .npy under any name.

    An .npy is memory-mapped; arrays of an .npz are read when they are taken.

    Raises:
        ConfigError: there is no such file.
        DataError: it cannot be read, or is neither .npy nor .npz.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = expanded(path)
        if not self.path.is_file():
            kind = "is a folder, not a file" if self.path.is_dir() else "does not exist"
            raise ConfigError(f"{self.path} {kind}.", "Name an .npy or .npz file.")
        try:
            with self.path.open("rb") as file:
                start = file.read(6)
            self.is_single = start == b"\x93NUMPY"
            if not self.is_single and not start.startswith(b"PK"):
                raise DataError(
                    f"{self.path} is neither an .npy nor an .npz file.",
                    "Write arrays with numpy.save or numpy.savez, and torch tensors as "
                    "tensor.cpu().numpy().",
                )
            self._content = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except DataError:
            raise
        except Exception as error:  # whatever numpy raises for a damaged header or archive
            raise self._unreadable(error) from error
        self.names = [] if self.is_single else list(self._content.files)
        if any(name.endswith("/data.pkl") for name in self.names):
            raise DataError(
                f"{self.path} is a file of torch.save, not an .npz file.",
                "Write its tensors with numpy.savez(FILE, features=tensor.cpu().numpy()).",
            )

    def __getitem__(self, name: str) -> np.ndarray:
        """An array; a DataError if there is none of this name, or the file is damaged."""
        if self.is_single:
            return self._content
        if name not in self.names:
            hint = did_you_mean(name, self.names) or "It holds no arrays."
            raise DataError(f"{self.path} holds no array '{name}'.", hint)
        try:
            array = self._content[name]
        except Exception as error:
            raise self._unreadable(error) from error
        if not isinstance(array, np.ndarray):  # a member that is no .npy
            raise DataError(f"{self.where(name)} is not an array.", "Write it with numpy.savez.")
        return array

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def where(self, name: str) -> str:
        """What messages call an array: `features.npy`, or `'ids' of query.npz`."""
        return self.path.name if self.is_single else f"'{name}' of {self.path.name}"

    def _unreadable(self, error: Exception) -> DataError:
        if "allow_pickle=False" in str(error) or "Python objects" in str(error):
            return DataError(
                f"{self.path} holds pickled Python objects, which are never read: they can run "
                "code.",
                "Write plain numbers. Rows of unequal length become objects, too.",
            )
        return DataError(
            f"{self.path} cannot be read: {first_line(error).rstrip('.')}.",
            "It is damaged or incomplete. Write or copy it again.",
        )


def where(source: Mapping[str, np.ndarray], name: str) -> str:
    """What messages call an array of a file or of a plain mapping."""
    return source.where(name) if isinstance(source, ArrayFile) else f"'{name}'"


def integers(array: np.ndarray, where: str, length: int) -> np.ndarray:
    """Ids or cameras as (length,) int64. Integral floats (`-1.0`) and digits ("0002") are accepted.

    Raises:
        DataError: another shape or kind of values, or numbers beyond int64.
    """
    check_length(array, where, length)
    kind = array.dtype.kind
    hint = "Is it the right array?"
    if kind not in "iufUS":
        raise DataError(f"{where} is {array.dtype}, not integers.", hint)
    if kind in "US":  # not by floats, which are exact up to 2**53 only
        whole = list(map(whole_number, strings(array, where, length)))
        if None in whole:
            raise DataError(f"{where} holds words, not integers.", hint)
        return np.array(whole, dtype=np.int64)
    numbers = np.asarray(array)
    if numbers.dtype.kind == "f":
        bad = numbers[~np.isfinite(numbers) | (numbers != np.trunc(numbers))]
        if bad.size:
            text = f"{where} is {array.dtype} and holds {bad[0]}, which is not an integer."
            raise DataError(text, hint)
    if numbers.size and (numbers.max() >= 2**63 or numbers.min() < -(2**63)):
        raise DataError(f"{where} holds numbers beyond int64.", "Number the ids from 0.")
    return numbers.astype(np.int64)


def strings(array: np.ndarray, where: str, length: int) -> list[str]:
    """Names as a list of `length` strings.

    Raises:
        DataError: another shape or kind of values.
    """
    check_length(array, where, length)
    if array.dtype.kind not in "US":
        raise DataError(f"{where} is {array.dtype}, not strings.", "Is it the right array?")
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "replace")
    return [str(name) for name in array.tolist()]


def check_length(array: np.ndarray, where: str, length: int) -> None:
    """Raise a DataError unless an array has one entry per image."""
    if array.shape != (length,):
        raise DataError(
            f"{where} has shape {array.shape}, but there are {length} images.",
            "It needs one entry per image, in the order of the features.",
        )

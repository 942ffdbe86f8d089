"""Sources of files: a folder, a zip or a tar archive. File names are not trusted."""

from __future__ import annotations

import errno
import stat
import struct
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from harness.core.errors import DataError
from harness.data.prepare.walk import walk
from harness.data.releases import shown

#: maximum bytes of a file: images of single persons are smaller, larger ones may be a zip bomb
MAX_BYTES = 64 << 20
MAX_FILES = 5_000_000


@dataclass(frozen=True)
class Member:
    """A file of a source, as listed in its index."""

    name: str
    size: int


@dataclass
class Source(ABC):
    """Files with names and sizes that can be read one after the other."""

    path: Path

    @abstractmethod
    def members(self) -> list[Member]:
        """All files, in an order that is fast to read.

        Raises DataError if the source cannot be read, or has links, devices or names that lead out
        of it.
        """

    @abstractmethod
    def read(self, wanted: Mapping[str, int]) -> Iterator[tuple[str, IO[bytes]]]:
        """Yield (name, stream) of the wanted files (name → size), in the order of `members`."""


def open_source(path: Path) -> Source:
    """Open a folder or archive; raises DataError for a missing path or unsupported format."""
    if path.is_dir():
        return FolderSource(path)
    if not path.exists():
        raise DataError(f"There is no {path}.", "source= must be an archive or a folder.")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty (0 bytes).", "Download it again.")
    if zipfile.is_zipfile(path):
        return ZipSource(path)
    with path.open("rb") as file:
        start = file.read(6)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):  # a zip without its end
        size = path.stat().st_size
        problem = f"{path} is a zip archive that was cut off after {size:,} bytes."
        raise DataError(problem, "Download it again.")
    for magic, kind in ((b"Rar!", "rar"), (b"7z\xbc\xaf", "7z")):
        if start.startswith(magic):
            raise DataError(
                f"{path} is a {kind} archive, which is not supported.",
                "Unpack it with another program and give the folder.",
            )
    with explain_damage(path):  # a compressed one that was cut off
        is_tar = tarfile.is_tarfile(path)
    if is_tar:
        return TarSource(path)
    raise DataError(
        f"{path} is neither a folder nor a zip or tar archive.",
        "Check that it is the archive, and not a page that a browser saved in its place.",
    )


class FolderSource(Source):
    """A folder. Links to files and folders are followed."""

    def members(self) -> list[Member]:
        return [Member(name, (self.path / name).stat().st_size) for name in walk(self.path).found]

    def read(self, wanted: Mapping[str, int]) -> Iterator[tuple[str, IO[bytes]]]:
        for name in wanted:
            with (self.path / name).open("rb") as file:
                yield name, file


class ZipSource(Source):
    """A zip archive."""

    def members(self) -> list[Member]:
        with explain_damage(self.path), zipfile.ZipFile(self.path) as archive:
            infos = archive.infolist()
            _check_number(self.path, len(infos))
            for info in infos:
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise _refused(self.path, f"{info.filename} is a link")
                if info.flag_bits & 1:
                    hint = "Unpack it with its password and give the folder."
                    raise DataError(f"{self.path} is encrypted.", hint)
            files = [info for info in infos if not info.is_dir()]
            files.sort(key=lambda info: info.header_offset)
            return [Member(_safe(self.path, _zip_name(info)), info.file_size) for info in files]

    def read(self, wanted: Mapping[str, int]) -> Iterator[tuple[str, IO[bytes]]]:
        with explain_damage(self.path), zipfile.ZipFile(self.path) as archive:
            for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
                name = _zip_name(info).removeprefix("./")
                if name in wanted and not info.is_dir():
                    with archive.open(info) as file:
                        yield name, file


class TarSource(Source):
    """A tar archive, compressed or not."""

    def members(self) -> list[Member]:
        members = []
        with explain_damage(self.path), tarfile.open(self.path) as archive:
            for number, info in enumerate(archive):
                _check_number(self.path, number)
                if info.isdir():
                    continue
                if not info.isfile():
                    kind = "link" if info.issym() or info.islnk() else "device"
                    raise _refused(self.path, f"{info.name} is a {kind}")
                members.append(Member(_safe(self.path, info.name), info.size))
        return members

    def read(self, wanted: Mapping[str, int]) -> Iterator[tuple[str, IO[bytes]]]:
        with explain_damage(self.path), tarfile.open(self.path) as archive:
            for info in archive:
                name = info.name.removeprefix("./")
                if info.isfile() and name in wanted:
                    file = archive.extractfile(info)
                    assert file is not None
                    yield name, file


def _zip_name(info: zipfile.ZipInfo) -> str:
    """A member's name, in UTF-8 and with forward slashes if possible.

    Many programs write UTF-8 without setting its flag, which zipfile decodes as code page 437. Some
    write backslashes.
    """
    name = info.filename
    if not info.flag_bits & 0x800:
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name if "/" in name else name.replace("\\", "/")


def _safe(archive: Path, name: str) -> str:
    """The name without a leading `./`; raises DataError if it leads out of the target folder."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    absolute = posix.is_absolute() or windows.drive or windows.root
    if absolute or ".." in (*posix.parts, *windows.parts) or "\0" in name:
        raise _refused(archive, f"{name!r} leads out of the folder that it is unpacked to")
    return name.removeprefix("./")


def _refused(archive: Path, reason: str) -> DataError:
    hint = "Archives of data sets do not need this; get it from its authors."
    return DataError(f"{archive} is refused: {reason}.", hint)


def _check_number(archive: Path, count: int) -> None:
    if count > MAX_FILES:
        raise _refused(archive, f"it has more than {MAX_FILES:,} files")


def check_sizes(source: Path, sizes: Mapping[str, int], allow_empty: bool = False) -> None:
    """Check the sizes of image files; raises DataError if one is too large, or empty."""
    if large := [name for name, size in sizes.items() if size > MAX_BYTES]:
        raise _refused(source, f"{shown(large)} are larger than {MAX_BYTES >> 20} MiB")
    if (empty := [name for name, size in sizes.items() if size == 0]) and not allow_empty:
        problem = f"{len(empty):,} of {len(sizes):,} files are empty (0 bytes): {shown(empty)}"
        hint = "Their download or copy was cut off: get them again."
        raise DataError(f"{source}: {problem}", hint)


@contextmanager
def explain_damage(path: Path) -> Iterator[None]:
    """Turn errors of the archive modules into errors that name the archive and give a hint."""
    import lzma
    import zlib

    try:
        yield
    except NotImplementedError as error:  # raised by zipfile for unknown compression methods
        raise DataError(
            f"{path} uses an unsupported compression method ({error}).",
            "Unpack it with another program and give the folder.",
        ) from error
    except (
        zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, struct.error,
        ValueError, OSError,
    ) as error:  # fmt: skip
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # the disk; a place before the file's begin is EINVAL, and gzip gives no errno
        raise DataError(
            f"{path} is damaged or cut off ({' '.join(str(error).split())}).",
            "Download it again; files unpacked so far are kept.",
        ) from error

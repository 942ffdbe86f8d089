"""Downloads that are verified, continue where they stopped, and are never half there."""

from __future__ import annotations

import contextlib
import hashlib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

from filelock import FileLock

from harness.core.errors import DataError, say_once
from harness.core.files import explain_write_errors, make_folder

TIMEOUT = 30.0  # seconds without any byte
BLOCK = 2**20


def download(url: str, sha256: str, folder: Path) -> Path:
    """The file at an address, kept in a folder under its name and the start of its checksum.

    A file that is there already is verified, not downloaded again. An interrupted download leaves
    `NAME.part`, which the next call continues. Of several processes, one downloads.

    Args:
        sha256: 64 hex digits.

    Raises:
        DataError: the address cannot be reached, or the file has another checksum.
        HarnessError: the folder cannot be written, or its disk is full.
    """
    name = Path(urlparse(url).path).name or "download"
    path = folder / f"{Path(name).stem}-{sha256[:8]}{Path(name).suffix}"
    if path.is_file() and _sha256(path) == sha256:
        return path
    make_folder(folder)
    part = path.with_name(f"{path.name}.part")
    with FileLock(f"{path}.lock"):
        if path.is_file() and _sha256(path) == sha256:
            return path
        say_once(f"downloading {url}")
        _fetch(url, part, path)
        if (found := _sha256(part)) != sha256:
            part.unlink()
            raise DataError(
                f"{url} has another checksum than given: sha256 {found}, not {sha256}.",
                "The file at this address has changed, or the checksum is wrong. It was not used.",
            )
        part.replace(path)
    with contextlib.suppress(OSError):
        Path(f"{path}.lock").unlink()
    return path


@contextlib.contextmanager
def _explain_network_errors(url: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # a URLError is one
        raise DataError(
            f"{url} cannot be downloaded ({getattr(error, 'reason', None) or error}).",
            f"Is there internet? Without it, put the file at {path}.",
        ) from error


def _fetch(url: str, part: Path, path: Path) -> None:
    """Append what is missing of a file to `part`; servers without ranges send it from the start.

    path: where an error says that the file can be put.
    """
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with _explain_network_errors(url, path):
        try:
            answer = urllib.request.urlopen(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            if error.code == 416 and have:  # nothing is left to send
                return
            raise
    got = 0
    mode = "ab" if answer.status == 206 else "wb"
    with answer, explain_write_errors(part), part.open(mode) as file:
        expected = answer.headers.get("Content-Length")
        while True:
            with _explain_network_errors(url, path):
                block = answer.read(BLOCK)
                if not block and expected is not None and got < int(expected):
                    raise OSError(f"the connection ended after {got:,} of {int(expected):,} bytes")
            if not block:
                return
            file.write(block)
            got += len(block)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()

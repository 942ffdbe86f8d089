"""Downloads from a server of this machine: verified, resumed, and explained when they fail."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from harness.core.downloads import download
from harness.core.errors import DataError, HarnessError

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(BaseHTTPRequestHandler):
    """Serves CONTENT; `stops_after` bytes the connection ends, and `ranges` may be ignored."""

    stops_after: ClassVar[int | None] = None
    ranges: ClassVar[bool] = True
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.asked.append(wanted)
        if self.path != "/weights.pth":
            self.send_error(404)
            return
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        body = CONTENT[first:]
        if wanted and not body:
            self.send_error(416)
            return
        self.send_response(206 if wanted and self.ranges else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.stops_after])

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Server, "asked", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/weights.pth"
    server.shutdown()
    server.server_close()


def test_downloaded_once(address: str, tmp_path: Path) -> None:
    path = download(address, SHA256, tmp_path)
    assert path.name == f"weights-{SHA256[:8]}.pth" and path.read_bytes() == CONTENT
    assert download(address, SHA256, tmp_path) == path and len(Server.asked) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]
    path.write_bytes(b"damaged")
    assert download(address, SHA256, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_continues(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranges: bool
) -> None:
    monkeypatch.setattr(Server, "stops_after", 100_000)
    with pytest.raises(DataError, match="after 100,000 of 256,000 bytes"):
        download(address, SHA256, tmp_path)
    (part,) = tmp_path.glob("*.part")
    assert part.stat().st_size == 100_000
    monkeypatch.setattr(Server, "stops_after", None)
    monkeypatch.setattr(Server, "ranges", ranges)
    assert download(address, SHA256, tmp_path).read_bytes() == CONTENT
    assert Server.asked == ["", "bytes=100000-"] and not list(tmp_path.glob("*.part"))


def test_a_whole_part_is_only_verified(address: str, tmp_path: Path) -> None:
    (tmp_path / f"weights-{SHA256[:8]}.pth.part").write_bytes(CONTENT)
    assert download(address, SHA256, tmp_path).read_bytes() == CONTENT


def test_another_content_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has another checksum than given") as refusal:
        download(address, "0" * 64, tmp_path)
    assert SHA256 in refusal.value.cause
    assert not list(tmp_path.glob("*.pth")) and not list(tmp_path.glob("*.part"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no file that is always full")
def test_a_refused_write_is_no_fault_of_the_network(address: str, tmp_path: Path) -> None:
    part = tmp_path / f"weights-{SHA256[:8]}.pth.part"
    part.symlink_to("/dev/full")
    with pytest.raises(HarnessError, match=r"The disk that contains .* is full"):
        download(address, SHA256, tmp_path)
    part.unlink()
    part.mkdir()
    with pytest.raises(HarnessError, match="cannot be written: Is a directory"):
        download(address, SHA256, tmp_path)


def test_addresses_that_cannot_be_reached(address: str, tmp_path: Path) -> None:
    for wrong in (address.replace("weights", "nothing"), "http://127.0.0.1:9/weights.pth"):
        with pytest.raises(DataError, match="cannot be downloaded") as refusal:
            download(wrong, SHA256, tmp_path)
        assert "Without it, put the file at" in refusal.value.hint

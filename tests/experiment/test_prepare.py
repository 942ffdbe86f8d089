"""`harness prepare` from end to end, on small fakes in archives and folders, right and wrong."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Answer, Command
from tests.datasets.fakes import MARKET, MSMT_LISTS, in_folders, msmt17_images, picture
from tests.paths import ROOT

Files = dict[str, bytes]
SMALL = ("images.height=32", "images.width=16", "data.root=data", "dataset.check_counts=false")


def jpeg(seed: int, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture(seed, mode=mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def pictures(names: Iterable[str]) -> Files:
    return {name: jpeg(seed) for seed, name in enumerate(names)}


def market(prefix: str = "Market-1501-v15.09.15/") -> Files:
    return pictures(f"{prefix}{name}" for name in in_folders(MARKET))


def by_person(prefix: str = "Market/pytorch/", train: str = "train_all") -> Files:
    """The same images in the folders that pytorch baselines make."""
    folders = {"bounding_box_train": train, "query": "query", "bounding_box_test": "gallery"}
    files = {}
    for name, content in market("").items():
        part, image = name.split("/")
        files[f"{prefix}{folders[part]}/{image.split('_')[0]}/{image}"] = content
    return files


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return path


WRITE: dict[str, Callable[[Path, Mapping[str, bytes]], Path]] = {
    "set.zip": write_zip, "set.tar.gz": write_tar, "folder": write_folder,
}  # fmt: skip


def prepare(command: Command, source: object, *more: str, name: str = "market1501") -> Answer:
    return command("prepare", f"dataset={name}", f"source={source}", *SMALL, *more)


def refused(answer: Answer, *words: str) -> None:
    assert answer.status == 2, answer
    lines = [line for line in answer.err.splitlines() if not line.startswith("note: ")]
    assert lines[0].startswith("error: ") and "Traceback" not in answer.err
    assert len(lines) == 2, "one line of cause, one of hint"
    for word in words:
        assert word in answer.err, answer.err


# ------------------------------------------------------------------------------ what is understood


@pytest.mark.parametrize("kind", WRITE)
@pytest.mark.parametrize(
    "files",
    [market(), market("a/b c/ü/"), market(""), by_person(), by_person("x/")],
    ids=["official", "nested", "bare", "by person", "by person elsewhere"],
)
def test_layouts_come_out_the_same(
    command: Command, tmp_path: Path, kind: str, files: Files
) -> None:
    extra = {"__MACOSX/query/._0001_c1s1_001051_00.jpg": b"x", "notes/todo.txt": b"y"}
    source = WRITE[kind](tmp_path / kind, files | extra)
    answer = prepare(command, source)
    assert answer.status == 0, answer.err
    home = tmp_path / "data" / "Market-1501-v15.09.15"
    found = {p.relative_to(home).as_posix(): p.read_bytes() for p in home.rglob("*.jpg")}
    assert found == market("")
    assert "4            2         3" in answer.out  # the gallery's row: junk and nobody left out
    assert "among them: 1 junk, 1 distractors" in answer.out
    assert "all 16x32" in answer.out
    assert "NOT as published: training images: 3, not 12,936" in answer.out
    assert "ready: harness run method=mskd dataset=market1501 data.root=data" in answer.out


def test_train_and_val_are_put_together(command: Command, tmp_path: Path) -> None:
    """Where there is no `train_all`."""
    files = by_person(train="train")
    first = next(iter(files))
    files[first.replace("/train/", "/val/")] = files.pop(first)
    assert prepare(command, write_zip(tmp_path / "x.zip", files)).status == 0
    assert len(list((tmp_path / "data").rglob("bounding_box_train/*.jpg"))) == 3


def test_the_official_folders_go_before_copies_of_them(command: Command, tmp_path: Path) -> None:
    answer = prepare(command, write_zip(tmp_path / "x.zip", market() | by_person()))
    assert "in folder Market-1501-v15.09.15: 9 images" in answer.out


def test_a_zip_with_backslashes(command: Command, tmp_path: Path) -> None:
    """As some programs of Windows write it."""
    files = {name.replace("/", "\\"): content for name, content in market("a/").items()}
    answer = prepare(command, write_zip(tmp_path / "x.zip", files))
    assert answer.status == 0, answer.err
    assert "in folder a: 9 images" in answer.out


def test_msmt17_keeps_its_folders_and_lists(command: Command, tmp_path: Path) -> None:
    lists = {f"y/MSMT/{name}": "\n".join(lines).encode() for name, lines in MSMT_LISTS.items()}
    images = pictures(f"y/MSMT/{name}" for name in msmt17_images("v2"))
    answer = prepare(
        command, write_zip(tmp_path / "m.zip", lists | images), "dataset.version=v2", name="msmt17"
    )
    assert answer.status == 0, answer.err
    home = tmp_path / "data" / "MSMT17_V2"
    assert (home / "list_val.txt").is_file()
    assert sum(1 for _ in home.glob("mask_train_v2/*/*.jpg")) == 3
    assert "dataset.version=v2" in answer.out, "the command to go on with is whole"


def test_again_goes_on_and_writes_nothing_twice(command: Command, tmp_path: Path) -> None:
    source = write_zip(tmp_path / "x.zip", market())
    first = prepare(command, source)
    images = list((tmp_path / "data").rglob("*.jpg"))
    before = {path: path.stat().st_mtime_ns for path in images}
    images[0].unlink()
    images[1].write_bytes(b"another size")
    again = prepare(command, source)
    assert "2 files written" in again.out and "7 existed" in again.out
    after = {path: path.stat().st_mtime_ns for path in images}
    assert sum(after[path] != before[path] for path in images) == 2
    assert first.out.splitlines()[-9:] == again.out.splitlines()[-9:], "the same card"


KILLED = """
import os, signal, sys
import harness.data.prepare.unpack as unpack
original, calls = unpack._write, [0]
def bomb(*arguments):
    calls[0] += 1
    if calls[0] == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)
unpack._write = bomb
from harness.cli.main import main
main(sys.argv[1:])
"""


def test_killed_and_resumed(command: Command, tmp_path: Path) -> None:
    source = write_tar(tmp_path / "x.tar.gz", market())
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, "prepare", "dataset=market1501", f"source={source}", *SMALL],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list((tmp_path / "data").rglob("*.jpg"))) == 4
    answer = prepare(command, source)
    assert "5 files written" in answer.out and "4 existed" in answer.out
    assert answer.status == 0


def test_a_folder_that_lies_where_it_belongs_is_not_copied(
    command: Command, tmp_path: Path
) -> None:
    write_folder(tmp_path / "data", market())
    for source in ("data", "data/Market-1501-v15.09.15"):
        answer = prepare(command, source)
        assert answer.status == 0, answer.err
        assert "files are in place already" in answer.out
    assert command("prepare", "dataset=market1501", *SMALL).status == 0, "and without source="


def test_links_to_folders_are_followed(command: Command, tmp_path: Path) -> None:
    write_folder(tmp_path / "disk", market(""))
    (tmp_path / "own").mkdir()
    for part in MARKET:
        (tmp_path / "own" / part).symlink_to(tmp_path / "disk" / part)
    answer = prepare(command, "own")
    assert answer.status == 0, answer.err
    assert "9 files written" in answer.out


def test_json(command: Command, tmp_path: Path) -> None:
    answer = prepare(command, write_zip(tmp_path / "x.zip", market()), "--json")
    card = json.loads(answer.out)
    assert card["parts"]["query"] == {"images": 2, "identities": 2, "cameras": 2}
    assert card["image_cache"]["images"] == 3 + 2 + 3, "junk is decoded, not kept"
    assert "holds Market-1501" in answer.err


def test_a_data_set_without_anything_to_unpack(command: Command, tmp_path: Path) -> None:
    small = ["dataset.identities=2", "dataset.test_identities=2", "data.root=data"]
    answer = command("prepare", "dataset=synthetic", *small)
    assert answer.status == 0, answer.err
    assert "synthetic" in answer.out and "all 32x64" in answer.out
    refused(
        command("prepare", "dataset=synthetic", "source=x.zip", *small), "has nothing to unpack"
    )


# ---------------------------------------------------------------------------------- strange images


def test_strange_images_are_named_on_the_card(command: Command, tmp_path: Path) -> None:
    """CMYK, greyscale and turned images are images: they are told of, not refused."""
    files = market()
    names = [name for name in files if "bounding_box_train" in name]
    exif = Image.Exif()
    exif[0x0112] = 6
    files[names[0]] = jpeg(50, "CMYK")
    files[names[1]] = jpeg(51, "L")
    files[names[2]] = jpeg(52, exif=exif)
    buffer = io.BytesIO()
    picture(53, mode="L").save(buffer, "PNG")
    query, other = (name for name in files if "/query/" in name)
    files[query] = buffer.getvalue()  # a PNG that is called .jpg
    buffer = io.BytesIO()
    Image.fromarray(np.full((32, 16), 30_000, dtype=np.uint16)).save(buffer, "PNG")
    files[other] = buffer.getvalue()
    buffer = io.BytesIO()
    picture(54, mode="RGBA").save(buffer, "PNG")
    files[next(name for name in files if "/0003_c1" in name)] = buffer.getvalue()
    answer = prepare(command, write_zip(tmp_path / "x.zip", files))
    assert answer.status == 0, answer.err
    modes = re.search(r"not RGB, converted when decoded: (.*)", answer.out)
    assert modes and modes[1] in ("1 CMYK, 1 I;16, 2 L, 1 RGBA", "1 CMYK, 1 I, 2 L, 1 RGBA")
    assert "16-bit values are divided by 257 and rounded" in answer.out
    assert "transparency is dropped" in answer.out
    assert "1 images have a rotated EXIF orientation" in answer.out


@pytest.mark.parametrize("part", ["bounding_box_train", "query", "-1_"])  # the last one is junk
def test_a_truncated_image(command: Command, tmp_path: Path, part: str) -> None:
    files = market()
    name = next(name for name in files if part in name)
    files[name] = files[name][:-40]
    source = write_zip(tmp_path / "x.zip", files)
    for _ in range(2):  # and again, when image_caches are there
        answer = prepare(command, source)
        refused(answer, "1 images cannot be decoded", name.split("/", 1)[1], "on_bad_image=skip")
    skipped = prepare(command, source, "dataset.on_bad_image=skip", "--json")
    assert skipped.status == 0, skipped.err
    assert json.loads(skipped.out)["unreadable"] == [name.split("/", 1)[1]]


def test_empty_files(command: Command, tmp_path: Path) -> None:
    files = market()
    files[next(iter(files))] = b""
    source = write_zip(tmp_path / "x.zip", files)
    refused(prepare(command, source), "1 of 9 files are empty (0 bytes)", "0002_c1s1_000451_03.jpg")
    write_folder(tmp_path / "data", files)
    refused(command("prepare", "dataset=market1501", *SMALL), "1 of 9 image files are empty")
    skip = "dataset.on_bad_image=skip"
    for arguments in ([f"source={source}"], []):
        answer = command("prepare", "dataset=market1501", *SMALL, skip, *arguments)
        assert answer.status == 0, "runs leave it out, too"
        assert "LEFT OUT: 1 images cannot be decoded: bounding_box_train/0002_c1s1" in answer.out


# ---------------------------------------------------------------------------------- what is refused


def test_a_part_that_is_missing(command: Command, tmp_path: Path) -> None:
    files = {name: content for name, content in market("a/").items() if "/query/" not in name}
    refused(
        prepare(command, write_zip(tmp_path / "x.zip", files)),
        "x.zip, folder a, is Market-1501 in part",
        "There: bounding_box_train/ (3 images), bounding_box_test/ (4 images)",
        "Missing: query/.",
    )


def test_counts_are_checked_before_anything_is_written(command: Command, tmp_path: Path) -> None:
    source = write_zip(tmp_path / "x.zip", market())
    answer = prepare(command, source, "dataset.check_counts=true")
    refused(answer, "bounding_box_train/ has 3 of 12,936 images; query/ has 2 of 3,368 images")
    assert not list((tmp_path / "data").rglob("*.jpg"))


def test_something_else(command: Command, tmp_path: Path) -> None:
    refused(
        prepare(command, write_zip(tmp_path / "x.zip", {"holiday/beach.jpg": b"x", "a.txt": b"y"})),
        "holds nothing of Market-1501: a.txt, holiday",
        "Wanted, in any folder of it: bounding_box_train/, query/, bounding_box_test/",
    )
    inner = write_zip(tmp_path / "inner.zip", market()).read_bytes()
    refused(
        prepare(command, write_zip(tmp_path / "outer.zip", {"inner.zip": inner})),
        "Unpack inner.zip first",
    )


def test_msmt17_without_a_list(command: Command, tmp_path: Path) -> None:
    files = pictures(f"MSMT17_V1/{name}" for name in msmt17_images("v1"))
    refused(
        prepare(command, write_zip(tmp_path / "x.zip", files), name="msmt17"),
        "MSMT17 V1 in part",
        "Missing: list_train.txt, list_val.txt, list_query.txt, list_gallery.txt",
    )


def test_msmt17_of_the_other_version(command: Command, tmp_path: Path) -> None:
    lists = {name: "\n".join(lines).encode() for name, lines in MSMT_LISTS.items()}
    files = lists | pictures(msmt17_images("v2"))
    refused(
        prepare(command, write_zip(tmp_path / "x.zip", files), name="msmt17"),
        "is MSMT17 V2", "They are different data sets", "dataset.version=v2",
    )  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "../evil.jpg",
        "query/../../evil.jpg",
        "/etc/evil.jpg",
        "C:\\evil.jpg",
        "query\\..\\..\\x.jpg",
    ],
)
@pytest.mark.parametrize("kind", ["set.zip", "set.tar.gz"])
def test_names_that_lead_out(command: Command, tmp_path: Path, name: str, kind: str) -> None:
    source = WRITE[kind](tmp_path / kind, market() | {name: jpeg(1)})
    refused(prepare(command, source), f"{kind} is refused", "leads out of the folder")
    assert not list(tmp_path.rglob("evil*")) and not list((tmp_path / "data").rglob("*.jpg"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar(command: Command, tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("query/0001_c1s1_001051_00.jpg")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    word = "device" if kind == tarfile.CHRTYPE else "link"
    refused(prepare(command, path), "is refused", f"0001_c1s1_001051_00.jpg is a {word}")


def test_links_in_a_zip(command: Command, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", market())
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("query/link.jpg")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    refused(prepare(command, path), "query/link.jpg is a link")


def test_files_that_are_too_large(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.data.prepare.archives.MAX_BYTES", 2 << 20)
    files = market()
    files[next(iter(files))] = bytes(3 << 20)  # packed to a few kB
    refused(prepare(command, write_zip(tmp_path / "x.zip", files)), "are larger than 2 MiB")
    assert not list((tmp_path / "data").rglob("*.jpg"))


def test_a_disk_without_room(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.data.prepare.unpack.MARGIN", 1 << 60)
    answer = prepare(command, write_zip(tmp_path / "x.zip", market()))
    assert answer.status == 1 and "GB free" in answer.err and "data.root=" in answer.err


@pytest.mark.parametrize("kind", ["set.zip", "set.tar.gz"])
def test_names_that_differ_by_case_only(command: Command, tmp_path: Path, kind: str) -> None:
    files = market()
    files["Market-1501-v15.09.15/query/0001_C1s1_001051_00.jpg"] = jpeg(7)
    refused(
        prepare(command, WRITE[kind](tmp_path / kind, files)),
        "0001_c1s1_001051_00.jpg", "0001_C1s1_001051_00.jpg", "differ by case only",
    )  # fmt: skip


def test_one_image_in_two_places(command: Command, tmp_path: Path) -> None:
    files = by_person(train="train")
    first = next(iter(files))
    files[first.replace("/train/", "/val/")] = files[first]
    refused(prepare(command, write_zip(tmp_path / "x.zip", files)), "are one image of the data set")


@pytest.mark.parametrize("kind", ["set.zip", "set.tar.gz"])
def test_archives_that_were_cut_off(command: Command, tmp_path: Path, kind: str) -> None:
    source = WRITE[kind](tmp_path / kind, market())
    source.write_bytes(source.read_bytes()[: source.stat().st_size * 2 // 3])
    refused(prepare(command, source), "cut off", "Download it again")
    source.write_bytes(b"")
    refused(prepare(command, source), "is empty (0 bytes)")


def test_a_damaged_member(command: Command, tmp_path: Path) -> None:
    """A bit that flipped under way: the checksum tells."""
    source = write_zip(tmp_path / "x.zip", market())
    content = bytearray(source.read_bytes())
    with zipfile.ZipFile(source) as archive:
        offset = archive.infolist()[4].header_offset
    content[offset + 200] ^= 0xFF
    source.write_bytes(content)
    refused(prepare(command, source), "x.zip is damaged or cut off")
    assert not list((tmp_path / "data").rglob("*.part")), "nothing half is left"


def test_an_encrypted_zip(command: Command, tmp_path: Path) -> None:
    source = write_zip(tmp_path / "x.zip", market())
    content = bytearray(source.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + flags] |= 1
    source.write_bytes(content)
    refused(prepare(command, source), "is encrypted", "with its password")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<html>quota exceeded</html>", ["neither a folder nor a zip or tar", "a page that"]),
        (b"Rar!\x1a\x07\x00....", ["is a rar archive"]),
        (b"7z\xbc\xaf\x27\x1c....", ["is a 7z archive"]),
    ],
)
def test_what_is_no_archive(
    command: Command, tmp_path: Path, content: bytes, words: list[str]
) -> None:
    (tmp_path / "x.zip").write_bytes(content)
    refused(prepare(command, "x.zip"), *words)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["source=x.zip"], ["No data set was given"]),
        (["market1501"], ["'market1501' is not KEY=VALUE", "Did you mean dataset=market1501?"]),
        (["market-1501", "source=x.zip"], ["Did you mean dataset=market1501?"]),
        (["dataset=market1501", "x.zip"], ["'x.zip' is not KEY=VALUE", "source=x.zip"]),
        (["dataset=market1501", "source=x.zip"], ["There is no x.zip"]),
        (["dataset=market", "source=x.zip"], ["no dataset 'market'", "'market1501'"]),
        (["dataset=market1501", "sorce=x.zip"], ["no option 'sorce'"]),
        (["dataset=market1501"], ["is not under", "source="]),
    ],
)
def test_slips(command: Command, typed: list[str], words: list[str]) -> None:
    answer = command("prepare", *typed)
    assert answer.status == 2
    for word in words:
        assert word in answer.err, answer.err

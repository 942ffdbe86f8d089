"""Images to embed: files, folders, lists and CSV files, or arrays and Pillow images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from harness.core.distributed.processes import cores
from harness.core.errors import ConfigError, DataError
from harness.core.files import expanded
from harness.core.hashing import hexdigest
from harness.data.csv_lists import Row, lines, read_rows
from harness.data.identifiers import is_missing, whole_number
from harness.data.image_files import SUFFIXES, ImageFiles, to_rgb
from harness.data.image_source import ImageSource
from harness.data.prepare.walk import walk
from harness.data.releases import shown

SPLITS = ("train", "query", "gallery")
LISTS = (".txt", ".lst", ".list")
SKIP = "Replace them, or leave them out: --on-bad-image skip."

#: what `Model.embed` takes: a path, a Pillow image, or an array (H, W, 3) or (H, W) of uint8
AnyImage = str | os.PathLike[str] | Image.Image | np.ndarray


@dataclass(frozen=True)
class _Entry:
    """One image: its name, its file, and what a CSV says of it."""

    name: str
    file: Path
    id: str = ""
    camera: str = ""


class ImageList(ImageSource):
    """Image files in the order in which they were given; duplicates stay.

    ids, cams: (N,) int64, or text (N,) if one is a name; None where nothing is known.
    notes: what a user should know.
    """

    def __init__(self, entries: Sequence[_Entry]) -> None:
        self.entries = tuple(entries)
        self.names = [entry.name for entry in entries]
        self.notes: list[str] = []
        ids, cams = [entry.id for entry in entries], [entry.camera for entry in entries]
        self.ids = None if all(map(is_missing, ids)) else _numbers(ids)
        without = sum(map(is_missing, cams))
        self.cams = None if without else _numbers(cams)
        if 0 < without < len(cams):
            self.notes.append(f"{without} of {len(cams)} images have no camera: cams are left out.")

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, index: int) -> str:
        return self.names[index]

    def file(self, index: int) -> Path:
        return self.entries[index].file

    def read(self, index: int) -> Image.Image:
        file = self.file(index)
        return ImageFiles(file.parent, [file.name]).read(0)

    def fingerprint(self) -> str:
        """Digest of names, places, sizes and modification times, in order."""

        def content() -> Iterable[bytes]:
            for entry in self.entries:
                stat = entry.file.stat()
                facts = entry.file.absolute(), stat.st_size, stat.st_mtime_ns
                yield repr((entry.name, *map(str, facts))).encode()

        return hexdigest(content())

    def without_header(self, progress: Callable[[int, int], None] | None = None) -> list[str]:
        """Names of the files that Pillow does not even recognize as images."""
        bad = []
        with ThreadPoolExecutor(cores()) as pool:
            for index, fits in enumerate(pool.map(_has_header, [e.file for e in self.entries])):
                if not fits:
                    bad.append(self.names[index])
                if progress is not None:
                    progress(index + 1, len(self))
        return bad


def _has_header(file: Path) -> bool:
    try:
        with Image.open(file):
            return True
    except Exception:  # whatever Pillow raises for what is no image
        return False


def _numbers(texts: Sequence[str]) -> np.ndarray:
    """Texts of a CSV as `harness score` reads them: int64 if all are numbers, -1 for blanks.

    Names are not numbered: the same name in another file has to stay the same identity.
    """
    numbers = [-1 if is_missing(text) else whole_number(text) for text in texts]
    if None in numbers:
        return np.array(["-1" if is_missing(text) else text for text in texts])
    return np.array(numbers, dtype=np.int64)


def find_images(
    inputs: Sequence[str | Path], *, root: str | Path | None = None, split: str | None = None
) -> ImageList:
    """All images that some paths name, in the order of the paths.

    Args:
        inputs: image files; folders, whose images are sorted by their paths; text files with a path
            per line; CSV files with a column `path` and, optionally, `id`, `camera`, `split`.
        root: the folder that the paths in lists are relative to; by default the list's.
        split: only the rows of CSV files with this split.

    Names are relative to the folder or list, as in data sets; with several inputs, the input's
    folder precedes them.

    Raises:
        ConfigError: an input does not exist, or is no CSV though a split is wanted.
        DataError: it holds no images, or lists files that do not exist.
    """
    base = None if root is None else expanded(root)
    if base is not None and not base.is_dir():
        raise ConfigError(f"There is no folder {base}.", "Paths in lists are relative to it.")
    if split not in (None, *SPLITS):
        raise ConfigError(f"There is no split '{split}'.", f"Choose {', '.join(SPLITS)}.")
    entries: list[_Entry] = []
    for given in inputs:
        path = expanded(given)
        if split is not None and path.suffix.lower() != ".csv":
            raise ConfigError(f"{given} is no CSV, so it has no {split} images.", "Omit --split.")
        if path.is_dir():
            found = _of_folder(path)
        elif not path.is_file():
            raise ConfigError(
                f"There is no file or folder {given}.",
                "Give image files, folders, a list (.txt) or a CSV with a column path.",
            )
        elif path.suffix.lower() == ".csv":
            found = _of_csv(path, base or path.parent, split)
        elif path.suffix.lower() in LISTS:
            found = _of_list(path, base or path.parent)
        else:
            entries.append(_Entry(str(given) if len(inputs) > 1 else path.name, path))
            continue
        prefix = str(given if path.is_dir() else path.parent) if len(inputs) > 1 else ""
        entries += [_Entry(os.path.join(prefix, e.name), *_rest(e)) for e in found]  # noqa: PTH118
    if not entries:
        raise DataError("There are no images.", "Name image files, folders, lists or CSV files.")
    return ImageList(entries)


def _rest(entry: _Entry) -> tuple[Path, str, str]:
    return entry.file, entry.id, entry.camera


def _of_folder(folder: Path) -> list[_Entry]:
    names = [name for name in walk(folder).found if name.lower().endswith(SUFFIXES)]
    if not names:
        raise DataError(
            f"{folder} holds no images, not even in its folders.",
            f"Names of images end in {', '.join(SUFFIXES)}.",
        )
    return [_Entry(name, folder / name) for name in names]


def _of_list(path: Path, base: Path) -> list[_Entry]:
    try:
        texts = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file in UTF-8: {error}", "Write it again.") from None
    rows = [Row(n, text.strip(), "", "", "") for n, text in enumerate(texts, start=1)]
    return _existing([row for row in rows if row.path and row.path[0] != "#"], path, base)


def _of_csv(path: Path, base: Path, split: str | None) -> list[_Entry]:
    rows = read_rows(path, ("path",) if split is None else ("path", "split"))
    if blank := [row for row in rows if not row.path]:
        raise DataError(f"{path}, {lines(blank)}: no path", f"Correct {len(blank)} rows.")
    if split is not None:
        rows = [row for row in rows if row.split == split]
    return _existing(rows, path, base)


def _existing(rows: list[Row], source: Path, base: Path) -> list[_Entry]:
    if not rows:
        raise DataError(f"{source} lists no images.", "It needs a path per line.")
    entries = [_Entry(row.path, base / row.path, row.id, row.camera) for row in rows]
    missing = [row for row, e in zip(rows, entries, strict=True) if not e.file.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(rows)} images are not in {base}: "
            f"{shown([row.path for row in missing])} ({lines(missing)} of {source}).",
            "Paths in a list are relative to the list's folder; --root DIR sets another.",
        )
    return entries


class ImagesInMemory(ImageSource):
    """Images of several kinds, as a program has them: see `AnyImage`."""

    def __init__(self, images: Sequence[AnyImage]) -> None:
        self.images = list(images)
        for index, image in enumerate(self.images):
            self._check(index, image)

    def _check(self, index: int, image: object) -> None:
        if isinstance(image, str | os.PathLike):
            if not expanded(image).is_file():
                raise ConfigError(
                    f"Image {index}: there is no file {os.fspath(image)!s}.",
                    "Give paths of image files; of a folder: sorted(Path(FOLDER).glob('*.jpg')).",
                )
        elif isinstance(image, np.ndarray):
            fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
            if image.dtype != np.uint8 or not fits or 0 in image.shape:
                raise DataError(
                    f"Image {index} is {image.dtype} of shape {image.shape}; arrays of images are "
                    "uint8, (H, W, 3) in RGB or (H, W).",
                    "Do not normalize or resize: the model does. OpenCV's BGR: array[..., ::-1].",
                )
        elif not isinstance(image, Image.Image):
            raise DataError(
                f"Image {index} is of type {type(image).__name__}.",
                "Give paths, Pillow images, or arrays (H, W, 3) of uint8.",
            )

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        image = self.images[index]
        return os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {index}"

    def read(self, index: int) -> Image.Image:
        image = self.images[index]
        if isinstance(image, np.ndarray):
            return Image.fromarray(np.ascontiguousarray(image)).convert("RGB")
        if isinstance(image, Image.Image):
            try:
                return to_rgb(image)
            except ValueError as error:
                raise OSError(str(error)) from error
        path = expanded(image)
        return ImageFiles(path.parent, [path.name]).read(0)

    def fingerprint(self) -> str:
        raise NotImplementedError("images in memory are not cached")

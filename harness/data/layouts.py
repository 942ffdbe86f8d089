"""Folder layouts of releases, which `harness prepare` searches for in archives and folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A folder of images.

    Attributes:
        target: where it is unpacked to, relative to the layout's home; `*` stands for one folder.
        sources: alternative locations; the first one with images is used. Each is a tuple of
            folders whose images are merged (`("train/*", "val/*")`); `*` matches one folder.
        images: number of images in the official release; None if unknown.
        suffixes: of image files.
    """

    target: str
    sources: tuple[tuple[str, ...], ...]
    images: int | None = None
    suffixes: tuple[str, ...] = (".jpg",)


@dataclass(frozen=True)
class Layout:
    """One layout in which a data set is distributed.

    Attributes:
        title: name in messages.
        home: the folder under the data root that it is unpacked to.
        parts: its image folders. files: other required files, beside the folders.
        extra: optional files, unpacked if present.
        instead: if not '', finding this layout is an error, with this hint.
    """

    title: str
    home: str
    parts: tuple[Part, ...]
    files: tuple[str, ...] = ()
    extra: tuple[str, ...] = ("readme.txt", "README.txt", "ReadMe.txt")
    instead: str = ""


def part(target: str, images: int | None = None, *suffixes: str) -> Part:
    """A part whose folder has the same name in all sources."""
    return Part(target, ((target,),), images, suffixes or (".jpg",))


def market_layouts(
    title: str, home: str, parts: Mapping[str, tuple[str, int]]
) -> tuple[Layout, Layout]:
    """Layouts of a release like Market-1501: the original one, and one folder per identity.

    The latter is that of Person_reID_baseline_pytorch and projects derived from it.

    Args:
        title, home: see `Layout`. parts: train, query and gallery → (folder, images).
    """
    (train, n_train), (query, n_query), (gallery, n_gallery) = (
        parts[name] for name in ("train", "query", "gallery")
    )
    original = tuple(part(folder, count) for folder, count in parts.values())
    by_identity = (
        Part(train, (("train_all/*",), ("train/*", "val/*")), n_train),
        Part(query, (("query/*",),), n_query),
        Part(gallery, (("gallery/*",),), n_gallery),
    )
    return Layout(title, home, original), Layout(f"{title} in folders by person", home, by_identity)

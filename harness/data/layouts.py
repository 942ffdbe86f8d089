"""Folder layouts of releases, which `harness prepare` searches for in archives and folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A folder of images.

    target: where it is unpacked to, relative to the layout's home; `*` stands for one folder.
    sources: alternative locations; the first one with images is used. Each is a tuple of folders
        whose images are merged (`("train/*", "val/*")`); `*` matches one folder.
    images: number of images in the official release; None if unknown.
    """

    target: str
    sources: tuple[tuple[str, ...], ...]
    images: int | None = None
    suffixes: tuple[str, ...] = (".jpg",)


@dataclass(frozen=True)
class Layout:
    """One layout in which a data set is distributed, `title` in messages.

    home: the folder under the data root that it is unpacked to.
    parts: its image folders. files: other required files, beside the folders. extra: optional ones.
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

    The latter is that of Person_reID_baseline_pytorch and projects derived from it. `parts` maps
    train, query and gallery to (folder, images).
    """
    original = tuple(part(folder, count) for folder, count in parts.values())
    folders = {
        "train": (("train_all/*",), ("train/*", "val/*")),
        "query": (("query/*",),),
        "gallery": (("gallery/*",),),
    }
    by_identity = tuple(
        Part(parts[name][0], sources, parts[name][1]) for name, sources in folders.items()
    )
    return Layout(title, home, original), Layout(f"{title} in folders by person", home, by_identity)

"""The folders of a release, as `harness prepare` looks for them in archives and folders.

A layout names the folders of its parts. A part may have other names elsewhere (`train_all/0002/`
for `bounding_box_train/`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A folder of images.

    Attributes:
        target: where it goes, relative to the layout's home; `*` stands for one folder's name.
        sources: alternatives, the first that has images is taken. Each is a tuple of folders that
            are put together; `*` matches one folder of any name.
        images: how many the official release has; None where that is not known.
        suffixes: of its images.
    """

    target: str
    sources: tuple[tuple[str, ...], ...]
    images: int | None = None
    suffixes: tuple[str, ...] = (".jpg",)


@dataclass(frozen=True)
class Layout:
    """One way in which a data set is handed around.

    Attributes:
        title: in messages.
        home: the folder under the data root that it is unpacked to.
        parts: its folders. files: other files that it needs, beside the folders.
        extra: files that are taken along if they are there.
        instead: if not '', finding this layout is an error: what to do about it.
    """

    title: str
    home: str
    parts: tuple[Part, ...]
    files: tuple[str, ...] = ()
    extra: tuple[str, ...] = ("readme.txt", "README.txt", "ReadMe.txt")
    instead: str = ""


def part(target: str, images: int | None = None, *suffixes: str) -> Part:
    """A part whose folder is called the same everywhere."""
    return Part(target, ((target,),), images, suffixes or (".jpg",))


def market_layouts(
    title: str, home: str, parts: Mapping[str, tuple[str, int]], *suffixes: str
) -> tuple[Layout, Layout]:
    """The layouts of a release like Market-1501's: its own, and the one with a folder for each
    person that Person_reID_baseline_pytorch and its many followers make of it.

    Args:
        title, home: as `Layout` has them. parts: train, query, gallery → (folder, images).
    """
    images = suffixes or (".jpg",)
    (train, n_train), (query, n_query), (gallery, n_gallery) = (
        parts[name] for name in ("train", "query", "gallery")
    )
    own = tuple(Part(folder, ((folder,),), count, images) for folder, count in parts.values())
    by_person = (
        Part(train, (("train_all/*",), ("train/*", "val/*")), n_train, images),
        Part(query, (("query/*",),), n_query, images),
        Part(gallery, (("gallery/*",),), n_gallery, images),
    )
    return Layout(title, home, own), Layout(f"{title} in folders by person", home, by_person)

"""The card that `harness prepare` prints: contents of a data set, before training on it."""

from __future__ import annotations

import contextlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from harness.data.decoding import Progress
from harness.data.image_files import SIXTEEN_BITS
from harness.data.image_source import ImageSource
from harness.data.releases import shown
from harness.data.types import ReIDData, Split

ORIENTATION = 0x0112  # EXIF tag; 1 is upright
CHUNK = 64
SPLITS = ("train", "query", "gallery")
#: modes with transparency, and what is added to others of which some colors are transparent
ALPHA, TRANSPARENT = ("RGBA", "LA", "PA"), " with transparency"
#: notes of a data set that are settings, not counts
SETTINGS = ("seed", "renderer")


@dataclass
class Headers:
    """Contents of image file headers: (N, 2) widths and heights, and counts of color modes.

    `rotated` images have an EXIF orientation other than upright, which is not applied.
    """

    sizes: np.ndarray
    modes: Counter[str]
    rotated: int


def read_headers(sources: list[ImageSource], progress: Progress) -> Headers:
    """Read the headers of all image files; of rendered images, only the first one's size.

    Files that are not images are skipped: decoding reports them.
    """
    files = [source.file(i) for source in sources for i in range(len(source))]
    paths = [path for path in files if path is not None]
    sizes: list[tuple[int, int]] = []
    modes: Counter[str] = Counter()
    rotated = 0
    chunks = [paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK)]
    with ThreadPoolExecutor() as pool:
        for done, chunk in enumerate(pool.map(_read_chunk, chunks), start=1):
            for size, mode, orientation in chunk:
                sizes.append(size)
                modes[mode] += 1
                rotated += orientation != 1
            progress(min(done * CHUNK, len(paths)), len(paths))
    if not paths:
        first = next(source for source in sources if len(source)).read(0)
        sizes, modes = [first.size], Counter({first.mode: sum(map(len, sources))})
    return Headers(np.array(sizes, dtype=np.int64).reshape(-1, 2), modes, rotated)


def _read_chunk(paths: list[Path]) -> list[tuple[tuple[int, int], str, int]]:
    headers = []
    for path in paths:
        with contextlib.suppress(Exception), Image.open(path) as image:
            mode = image.mode + (TRANSPARENT if "transparency" in image.info else "")
            headers.append((image.size, mode, int(image.getexif().get(ORIENTATION, 1))))
    return headers


def make_card(
    data: ReIDData, fingerprint: str, headers: Headers, differences: list[str] | None
) -> dict[str, Any]:
    """The card's content, plain numbers and texts only."""
    # in a gallery, 0 is a distractor unless a query has this identity
    distractors = not (data.query.identities == 0).any()
    order = np.argsort(headers.sizes.prod(axis=1), kind="stable")
    ranks = {"smallest": 0, "median": len(order) // 2, "largest": -1} if len(order) else {}
    parts = {
        name: _counts(getattr(data, name), 1 if name == "gallery" and distractors else 0)
        for name in SPLITS
    }
    return {
        "dataset": data.name, "fingerprint": fingerprint, "parts": parts, "notes": dict(data.notes),
        "sizes": {name: headers.sizes[order[rank]].tolist() for name, rank in ranks.items()},
        "modes": dict(headers.modes), "rotated": headers.rotated,
        "published": None if data.facts is None else asdict(data.facts),
        "not_as_published": differences,
    }  # fmt: skip


def _counts(split: Split, first_identity: int) -> dict[str, int]:
    identities = split.identities[split.identities >= first_identity]
    return {
        "images": len(split.images),
        "identities": len(np.unique(identities)),
        "cameras": 0 if split.cameras is None else len(np.unique(split.cameras)),
    }


def show(card: dict[str, Any], console: Console) -> None:
    """Print a card."""
    grid = Table(title=card["dataset"], title_justify="left", box=None, pad_edge=False,
                 padding=(0, 3, 0, 0))  # fmt: skip
    grid.add_column("part")
    for column in ("images", "identities", "cameras"):
        grid.add_column(column, justify="right")
    for name, part in card["parts"].items():
        grid.add_row(name, *(f"{part[k]:,}" for k in ("images", "identities", "cameras")))
    console.print(grid)
    for line in _lines(card):
        console.print(line, markup=False, soft_wrap=True)


def _lines(card: dict[str, Any]) -> list[str]:
    """The lines below the table."""
    lines = []
    notes = {key.replace("_", " "): value for key, value in card["notes"].items()}
    settings = [f"{key} {value}" for key, value in notes.items() if key in SETTINGS]
    counts = [
        f"{value:,} {key}" if isinstance(value, int) else f"{key} {value}"
        for key, value in notes.items()
        if key not in SETTINGS
    ]
    for title, found in (("among them", counts), ("rendered with", settings)):
        if found:
            lines.append(f"{title}: {', '.join(found)}")
    sizes = {name: f"{w}x{h}" for name, (w, h) in card["sizes"].items()}
    if len(set(sizes.values())) == 1:
        lines.append(f"sizes (w x h): all {sizes['median']}")
    elif sizes:
        lines.append(f"sizes (w x h): {', '.join(f'{k} {size}' for k, size in sizes.items())}")
    other = sorted((mode, count) for mode, count in card["modes"].items() if mode != "RGB")
    if other:
        modes = ", ".join(f"{count:,} {mode}" for mode, count in other)
        lines.append(f"not RGB, converted when decoded: {modes}")
    if any(mode in SIXTEEN_BITS for mode, _ in other):
        lines.append("16-bit values are divided by 257 and rounded")
    if any(mode in ALPHA or mode.endswith(TRANSPARENT) for mode, _ in other):
        lines.append("transparency is dropped: transparent pixels keep their stored color")
    if bad := card.get("unreadable"):
        lines.append(f"LEFT OUT: {len(bad):,} images cannot be decoded: {shown(bad)}")
    if card["rotated"]:
        lines.append(
            f"{card['rotated']:,} images have a rotated EXIF orientation. It is not applied, as in "
            "all published pipelines; rotate the files if needed."
        )
    if not card["parts"]["query"]["images"]:
        lines.append("no test images: runs are trained but not evaluated")
    train = card["parts"]["train"]
    if not train["images"]:
        lines.append("no training images: for testing trained networks only")
    elif not train["cameras"]:
        lines.append("no cameras: samplers and objectives work without them")
    lines.append(f"fingerprint: {card['fingerprint']}")
    unlike = card["not_as_published"]
    if unlike:
        lines += [f"NOT as published: {line}" for line in unlike]
    elif unlike is not None:
        published = [key for key, value in card["published"].items() if value is not None]
        checked = "counts" + (", valid matches" if "matches" in published else "")
        checked += " and fingerprint" if "fingerprint" in published else ""
        lines.append(f"as published: {checked} agree")
    return lines

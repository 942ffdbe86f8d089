"""The card of a data set: what is in it, as a person wants to see it before training on it."""

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

from harness.data.image_cache import Progress
from harness.data.image_files import Files
from harness.data.image_source import ImageSource, Subset
from harness.data.joined import Joined
from harness.data.types import ReIDData

ORIENTATION = 0x0112  # the EXIF tag; 1 is upright
CHUNK = 64
#: notes of a data set that count nothing: what it is drawn with
SETTINGS = ("seed", "renderer")


@dataclass
class Headers:
    """What the headers of image files say.

    sizes: (N, 2) widths and heights. modes: colour mode → images. turned: images whose EXIF
    orientation says that they lie on a side; it is not applied, as no published pipeline does.
    """

    sizes: np.ndarray
    modes: Counter[str]
    turned: int


def read_headers(sources: list[ImageSource], progress: Progress) -> Headers:
    """The headers of all image files; images that are rendered are asked once for a size.

    Files that are no images are left out: decoding them tells what is wrong.
    """
    files = [_file(source, i) for source in sources for i in range(len(source))]
    paths = [path for path in files if path is not None]
    sizes: list[tuple[int, int]] = []
    modes: Counter[str] = Counter()
    turned = 0
    pieces = [paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK)]
    with ThreadPoolExecutor() as pool:
        for done, piece in enumerate(pool.map(_headers, pieces), start=1):
            for size, mode, orientation in piece:
                sizes.append(size)
                modes[mode] += 1
                turned += orientation != 1
            progress(min(done * CHUNK, len(paths)), len(paths))
    if not paths:
        first = next(source for source in sources if len(source)).read(0)
        sizes, modes = [first.size], Counter({first.mode: sum(map(len, sources))})
    return Headers(np.array(sizes, dtype=np.int64).reshape(-1, 2), modes, turned)


def _file(source: ImageSource, index: int) -> Path | None:
    """The file behind an image; None for images without one."""
    base = source
    while isinstance(base, Subset | Joined):
        if isinstance(base, Joined):
            part, index = base.place(index)
            base = base.sources[part]
        else:
            index, base = int(base.indices[index]), base.source
    return base.root / base.names[index] if isinstance(base, Files) else None


def _headers(paths: list[Path]) -> list[tuple[tuple[int, int], str, int]]:
    found = []
    for path in paths:
        with contextlib.suppress(Exception), Image.open(path) as image:
            found.append((image.size, image.mode, int(image.getexif().get(ORIENTATION, 1))))
    return found


def make_card(
    data: ReIDData, fingerprint: str, headers: Headers, differences: list[str] | None
) -> dict[str, Any]:
    """What `show` prints; plain numbers and texts only."""
    parts = {}
    for name in ("train", "query", "gallery"):
        split = getattr(data, name)
        # a gallery's 0 is nobody, unless a query asks for him
        first = 1 if name == "gallery" and not (data.query.identities == 0).any() else 0
        known = split.identities[split.identities >= first]
        parts[name] = {
            "images": len(split.images),
            "identities": len(np.unique(known)),
            "cameras": 0 if split.cameras is None else len(np.unique(split.cameras)),
        }
    areas = headers.sizes.prod(axis=1)
    order = np.argsort(areas, kind="stable")
    named = {"smallest": 0, "median": len(order) // 2, "largest": len(order) - 1}
    return {
        "dataset": data.name,
        "fingerprint": fingerprint,
        "parts": parts,
        "notes": dict(data.notes),
        "sizes": {k: headers.sizes[order[i]].tolist() for k, i in named.items()}
        if len(order)
        else {},
        "modes": dict(headers.modes),
        "turned": headers.turned,
        "published": None if data.facts is None else asdict(data.facts),
        "not_as_published": differences,
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
    for line in lines(card):
        console.print(line, markup=False, soft_wrap=True)


def lines(card: dict[str, Any]) -> list[str]:
    """What stands below the table."""
    found = []
    notes = {key.replace("_", " "): value for key, value in card["notes"].items()}
    among = [
        f"{value:,} {key}" if isinstance(value, int) else f"{key} {value}"
        for key, value in notes.items()
        if key not in SETTINGS
    ]
    if among:
        found.append(f"among them: {', '.join(among)}")
    drawn = [f"{key} {value}" for key, value in notes.items() if key in SETTINGS]
    if drawn:
        found.append(f"drawn with: {', '.join(drawn)}")
    sizes = card["sizes"]
    if sizes:
        shown = [f"{k} {w}x{h}" for k, (w, h) in sizes.items()]
        one = len({tuple(size) for size in sizes.values()}) == 1
        first = sizes["median"]
        found.append(f"sizes (w x h): {f'all {first[0]}x{first[1]}' if one else ', '.join(shown)}")
    other = {mode: count for mode, count in card["modes"].items() if mode != "RGB"}
    if other:
        kinds = ", ".join(f"{count:,} {mode}" for mode, count in sorted(other.items()))
        found.append(f"not RGB, converted when decoded: {kinds}")
    if card["turned"]:
        found.append(
            f"{card['turned']:,} images are marked as lying on a side (EXIF orientation); they are "
            "used as they are stored, as every published pipeline does. Turn them if that is wrong."
        )
    if not card["parts"]["query"]["images"]:
        found.append("no test part: runs train on it and are not evaluated")
    train = card["parts"]["train"]
    if not train["images"]:
        found.append("no training images: for networks that are trained already")
    elif not train["cameras"]:
        found.append("no cameras: samplers and objectives do without")
    found.append(f"fingerprint: {card['fingerprint']}")
    unlike = card["not_as_published"]
    if unlike:
        found += [f"NOT as published: {line}" for line in unlike]
    elif unlike is not None:
        known = [key for key, value in card["published"].items() if value is not None]
        checked = "counts" + (", valid matches" if "matches" in known else "")
        checked += " and fingerprint" if "fingerprint" in known else ""
        found.append(f"as published: {checked} agree with what is publicly known")
    return found

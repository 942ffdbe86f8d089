"""Small fakes of releases: the right folders and names, few images or empty files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def touch(root: Path, names: Iterable[str]) -> Path:
    """Empty files: `load` decodes nothing."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def picture(seed: int, size: tuple[int, int] = (16, 32), mode: str = "RGB") -> Image.Image:
    """Noise, (W, H)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def paint(root: Path, names: Iterable[str]) -> Path:
    """Pictures of noise, each another."""
    for seed, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(path)
    return root


MARKET = {
    "bounding_box_train": [
        "0002_c1s1_000451_03.jpg",
        "0002_c6s1_000452_01.jpg",
        "0007_c3s3_000001_10.jpg",
    ],
    "query": ["0001_c1s1_001051_00.jpg", "0003_c5s2_001051_00.jpg.jpg"],
    "bounding_box_test": [
        "-1_c3s1_000000_00.jpg",
        "0000_c2s1_000001_01.jpg",
        "0001_c2s1_000301_02.jpg",
        "0003_c1s1_000301_02.jpg",
    ],
}
DUKE = {
    "bounding_box_train": ["0001_c2_f0046182.jpg", "0007_c8_f0046185.jpg"],
    "query": ["0005_c2_f0046985.jpg"],
    "bounding_box_test": ["0005_c1_f0046985.jpg", "0005_c2_f0046999.jpg", "7140_c4_f0000001.jpg"],
}
VERI = {
    "image_train": ["0001_c001_00016450_0.jpg", "0001_c020_00016460_0.jpg"],
    "image_query": ["0002_c002_00030600_0.jpg"],
    "image_test": [
        "0002_c002_00030600_0.jpg",
        "0002_c002_00030605_1.jpg",
        "0002_c003_00030610_0.jpg",
        "0002_c003_00030615_0.jpg",
        "0009_c003_00030620_0.jpg",
    ],
}
#: list file → its lines; train and test identities start from 0 each
MSMT_LISTS = {
    "list_train.txt": [
        "0000/0000_045_12_0303morning_0006_2.jpg 0",
        "0001/0001_046_12_0303noon_0006_2_ex.jpg 1",
    ],
    "list_val.txt": ["0000/0000_013_04_0114afternoon_0020_2.jpg 0"],
    "list_query.txt": ["0000/0000_000_01_0303morning_0015_0.jpg 0"],
    "list_gallery.txt": [
        "0000/0000_008_15_0303morning_0019_2.jpg 0",
        "0001/0001_000_01_0113noon_1651_10.jpg 1",
    ],
}
MSMT_FOLDERS = {"v1": ("train", "test"), "v2": ("mask_train_v2", "mask_test_v2")}


def in_folders(parts: Mapping[str, list[str]]) -> list[str]:
    """part/name of all."""
    return [f"{part}/{name}" for part, names in parts.items() for name in names]


def msmt17_images(version: str) -> list[str]:
    """Paths of the images that the lists name."""
    train, test = MSMT_FOLDERS[version]
    folder = {"list_train.txt": train, "list_val.txt": train}
    return [
        f"{folder.get(name, test)}/{line.split()[0]}"
        for name, lines in MSMT_LISTS.items()
        for line in lines
    ]


def msmt17_lists(root: Path) -> Path:
    """The four list files."""
    root.mkdir(parents=True, exist_ok=True)
    for name, lines in MSMT_LISTS.items():
        (root / name).write_text("".join(f"{line}\n" for line in lines))
    return root

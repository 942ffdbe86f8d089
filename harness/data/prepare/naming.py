"""What names of image files say: who is on it, which camera took it, and what it is for.

Common ways of naming are tried in turn; the first that fits nearly all files is proposed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from harness.core.errors import ConfigError

#: folders that say what images are for
SPLITS = {
    "train": "train", "training": "train", "train_all": "train", "bounding_box_train": "train",
    "image_train": "train", "val": "train", "valid": "train", "validation": "train",
    "query": "query", "queries": "query", "image_query": "query", "probe": "query",
    "gallery": "gallery", "bounding_box_test": "test", "image_test": "test", "test": "test",
    "testing": "test",
}  # fmt: skip
#: a share of the files that a way of naming has to fit
ENOUGH = 0.9
_CAMERA = r"(?:c|cam|camera|kamera|view)[_\- ]?(?:\d+|[a-z])|(?:cam|camera)[_\- ]\w+"
CAMERA = rf"(?P<camera>{_CAMERA})"
FOLDER = rf"(?!(?:{_CAMERA})/)(?P<id>[^/]+)"


@dataclass(frozen=True)
class Naming:
    """A way of naming images: a regular expression over a path, with the groups `id` and `camera`
    as far as names tell them, and perhaps `split`.
    """

    title: str
    pattern: re.Pattern[str]

    @property
    def tells(self) -> tuple[str, ...]:
        """Which of its groups there are."""
        return tuple(self.pattern.groupindex)


def _naming(title: str, pattern: str) -> Naming:
    return Naming(title, re.compile(pattern, re.IGNORECASE))


#: in order of preference
NAMINGS = (
    _naming(
        "0002_c1s1_000451_03.jpg: person 0002, camera 1",
        r"(?:.*/)?(?P<id>-1|\d+)[_-]?c(?:am)?(?P<camera>\d+)(?:s\d+)?(?:[_.-][^/]*)",
    ),
    _naming(
        "0000_013_04_0114afternoon_0020_2.jpg: person 0000, camera 04",
        r"(?:.*/)?(?P<id>\d{4})_\d{3}_(?P<camera>\d{2})_\d{4}[a-z]+_[^/]*",
    ),
    _naming("PERSON/CAMERA/….jpg", rf"{FOLDER}/{CAMERA}/[^/]+"),
    _naming("CAMERA/PERSON/….jpg", rf"{CAMERA}/{FOLDER}/[^/]+"),
    _naming(
        "PERSON/…_cam1_….jpg: a folder for each person, the camera in the name",
        rf"{FOLDER}/(?:[^/]*[_-])?c(?:am)?(?P<camera>\d+)(?:[s_.-][^/]*)",
    ),
    _naming(
        "cam_a/0001_….jpg: a folder for each camera, names that begin with the person's number",
        # 000123.jpg alone is rather a frame
        rf"{CAMERA}/(?:(?:person|id|p)[_-]?|(?=\d+[_-]))(?P<id>\d+)(?:[_.-][^/]*)",
    ),
    _naming("PERSON/….jpg: a folder for each person, no cameras", rf"{FOLDER}/[^/]+"),
    _naming("0002_….jpg: names begin with the person's number, no cameras",
            r"(?P<id>\d+)[_-][^/]*"),
    _naming("CAMERA/….jpg: a folder for each camera, no identities", rf"{CAMERA}/.+"),
    _naming(
        "…cam1….jpg: the camera in the name, no identities",
        r"(?:.*/)?(?:[^/]*[_-])?(?:cam|camera)[_-]?(?P<camera>\d+)(?:[_.-][^/]*)",
    ),
)  # fmt: skip
NOTHING = Naming("names that say neither person nor camera", re.compile(r".*"))


@dataclass(frozen=True)
class Told:
    """What the name of one image tells; '' where it does not. split: as in `SPLITS`, or ''."""

    path: str
    id: str = ""
    camera: str = ""
    split: str = ""


def own(pattern: str) -> Naming:
    """A way of naming that a person describes.

    Raises:
        ConfigError: it is no regular expression, or has none of the groups.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"pattern={pattern} is no regular expression: {error}.") from error
    known = {"id", "camera", "split"}
    if not compiled.groupindex or not set(compiled.groupindex) <= known:
        raise ConfigError(
            f"pattern={pattern} needs named groups, of id, camera and split only.",
            r"For example pattern='(?P<id>\d+)_cam(?P<camera>\d+)_.*\.jpg'",
        )
    return Naming(pattern, compiled)


def read(paths: Sequence[str], naming: Naming | None = None) -> tuple[Naming, list[Told]]:
    """What the names of all images tell, by the way of naming that fits best, or by the one given.

    Args:
        paths: relative, with slashes.

    Returns:
        The way of naming, and what it tells of the images that fit.
    """
    splits, rests = _splits(paths)
    if naming is not None:
        # a person's own: searched for in the whole path
        found = [(p, s, naming.pattern.search(p)) for p, s in zip(paths, splits, strict=True)]
        told = [_told(p, s, match) for p, s, match in found if match is not None]
        return naming, told
    for candidate in NAMINGS:
        matches = [candidate.pattern.fullmatch(rest) for rest in rests]
        told = [
            _told(path, split, match)
            for path, split, match in zip(paths, splits, matches, strict=True)
            if match is not None
        ]
        if len(told) >= ENOUGH * len(paths) and _plausible(candidate, told):
            return candidate, told
    return NOTHING, [Told(path, split=split) for path, split in zip(paths, splits, strict=True)]


def _told(path: str, split: str, match: re.Match[str]) -> Told:
    groups = match.groupdict()
    said = SPLITS.get((groups.get("split") or "").casefold(), split)
    return Told(path, groups.get("id") or "", groups.get("camera") or "", said)


def _plausible(naming: Naming, told: Sequence[Told]) -> bool:
    """Whether what is taken for people can be people, and for cameras, cameras: several of each,
    people with several images, cameras with more images than there are cameras.
    """
    people = Counter(each.id for each in told)
    cameras = Counter(each.camera for each in told)
    if "id" in naming.tells and (len(people) < 2 or len(people) * 1.5 > len(told)):
        return False
    return "camera" not in naming.tells or len(cameras) * 2 <= len(told)


def _splits(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """What each image is for, as its folders say, and its path without that folder and without
    those that all images share. Nothing is said unless it is of every image.
    """
    splits, rests = [], []
    for path in paths:
        *folders, name = path.split("/")
        places = [i for i, folder in enumerate(folders) if folder.casefold() in SPLITS]
        if not places:
            splits, rests = [""] * len(paths), list(paths)
            break
        splits.append(SPLITS[folders[places[0]].casefold()])
        rests.append("/".join([*folders[: places[0]], *folders[places[0] + 1 :], name]))
    shared = _shared([rest.split("/")[:-1] for rest in rests])
    return splits, ["/".join(rest.split("/")[shared:]) for rest in rests]


def _shared(folders: Sequence[list[str]]) -> int:
    """How many folders all paths begin with."""
    if not folders:
        return 0
    first, last = min(folders), max(folders)
    same = 0
    while same < min(len(first), len(last)) and first[same] == last[same]:
        same += 1
    return same

"""Parsing of image file names: identity, camera and split.

Common naming schemes are tried in turn; the first one that fits nearly all files is proposed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.core.errors import ConfigError

#: folder names that indicate a split
SPLITS = {
    "train": "train", "training": "train", "train_all": "train", "bounding_box_train": "train",
    "image_train": "train", "val": "train", "valid": "train", "validation": "train",
    "query": "query", "queries": "query", "image_query": "query", "probe": "query",
    "gallery": "gallery", "bounding_box_test": "test", "image_test": "test", "test": "test",
    "testing": "test",
}  # fmt: skip
#: share of the files that a naming scheme has to fit
MIN_SHARE = 0.9
_CAMERA = r"(?:c|cam|camera|kamera|view)[_\- ]?(?:\d+|[a-z])|(?:cam|camera)[_\- ]\w+"
CAMERA = rf"(?P<camera>{_CAMERA})"
FOLDER = rf"(?!(?:{_CAMERA})/)(?P<id>[^/]+)"


@dataclass(frozen=True)
class Naming:
    """A naming scheme: a regular expression for paths with any of the groups id, camera, split."""

    title: str
    pattern: re.Pattern[str]


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
        # 000123.jpg alone is more likely a frame number
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
NO_NAMING = Naming("names without identity or camera", re.compile(r".*"))


@dataclass(frozen=True)
class ParsedName:
    """Identity, camera and split (train, query, gallery or test) in a path; '' if absent."""

    path: str
    id: str = ""
    camera: str = ""
    split: str = ""


def custom_naming(pattern: str) -> Naming:
    """A naming scheme from a user's regular expression, which is searched for in whole paths.

    Raises ConfigError if it is not a regular expression, or has other groups or none.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"pattern={pattern} is not a regular expression: {error}.") from error
    if not compiled.groupindex or not set(compiled.groupindex) <= {"id", "camera", "split"}:
        raise ConfigError(
            f"pattern={pattern} needs named groups: id, camera and split only.",
            r"For example pattern='(?P<id>\d+)_cam(?P<camera>\d+)_.*\.jpg'",
        )
    return Naming(pattern, compiled)


def parse_names(
    paths: Sequence[str], custom: Naming | None = None
) -> tuple[Naming, list[ParsedName]]:
    """Parse all image names (paths with slashes) with the best naming scheme, or a custom one.

    Returns the naming scheme, and the names that match it.
    """
    splits, rests = _split_folders(paths)
    if custom is not None:
        return custom, _matching(paths, splits, [custom.pattern.search(path) for path in paths])
    for naming in NAMINGS:
        parsed = _matching(paths, splits, [naming.pattern.fullmatch(rest) for rest in rests])
        if len(parsed) >= MIN_SHARE * len(paths) and _plausible(naming, parsed):
            return naming, parsed
    unparsed = zip(paths, splits, strict=True)
    return NO_NAMING, [ParsedName(path, split=split) for path, split in unparsed]


def _matching(
    paths: Sequence[str], splits: Sequence[str], matches: Sequence[re.Match[str] | None]
) -> list[ParsedName]:
    parsed = []
    for path, split, match in zip(paths, splits, matches, strict=True):
        if match is not None:
            groups = {key: value or "" for key, value in match.groupdict().items()}
            split = SPLITS.get(groups.get("split", "").casefold(), split)
            parsed.append(ParsedName(path, groups.get("id", ""), groups.get("camera", ""), split))
    return parsed


def _plausible(naming: Naming, parsed: Sequence[ParsedName]) -> bool:
    """Whether identities have several images each, and there are more images than cameras."""
    identities = len({name.id for name in parsed})
    cameras = len({name.camera for name in parsed})
    groups = naming.pattern.groupindex
    if "id" in groups and (identities < 2 or identities * 1.5 > len(parsed)):
        return False
    return "camera" not in groups or cameras * 2 <= len(parsed)


def _split_folders(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """The split of each image by its folders, and its path without that and shared folders.

    Splits are '' unless the folders of every image indicate one.
    """
    splits, rests = [], []
    for path in paths:
        *folders, name = path.split("/")
        at = next((i for i, folder in enumerate(folders) if folder.casefold() in SPLITS), None)
        if at is None:
            splits, rests = [""] * len(paths), list(paths)
            break
        splits.append(SPLITS[folders[at].casefold()])
        rests.append("/".join([*folders[:at], *folders[at + 1 :], name]))
    shared = 0  # leading folders that all images have
    for names in zip(*(rest.split("/")[:-1] for rest in rests), strict=False):
        if len(set(names)) > 1:
            break
        shared += 1
    return splits, ["/".join(rest.split("/")[shared:]) for rest in rests]

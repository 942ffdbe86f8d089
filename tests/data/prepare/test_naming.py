"""Parsing of identities, cameras and splits from image file names."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from harness.core.errors import ConfigError
from harness.data.prepare.naming import NO_NAMING, ParsedName, custom_naming, parse_names


def grid(pattern: str, identities: int = 4, cameras: int = 2, images: int = 2) -> list[str]:
    """All names of a pattern with {p}, {c}, {i}."""
    return [
        pattern.format(p=p, c=c, i=i)
        for p in range(1, identities + 1)
        for c in range(1, cameras + 1)
        for i in range(images)
    ]


def parsed(paths: Iterable[str], pattern: str | None = None) -> list[tuple[str, str, str]]:
    custom = None if pattern is None else custom_naming(pattern)
    _, names = parse_names(list(paths), custom)
    return [(name.id, name.camera, name.split) for name in names]


@pytest.mark.parametrize(
    ("pattern", "first"),
    [
        ("{p:04}_c{c}s1_{i:06}_01.jpg", ("0001", "1", "")),  # Market-1501
        ("a/b/{p:04}_c{c}_f{i:07}.jpg", ("0001", "1", "")),  # DukeMTMC-reID
        ("{p:04}_c{c:03}_{i:08}_0.jpg", ("0001", "001", "")),  # VeRi-776
        ("{p:04}C{c}T0001F{i:03}.jpg", ("", "", "")),  # MARS: not a known scheme
        ("{p:04}/{p:04}_00{i}_{c:02}_0303morning_0001_0.jpg", ("0001", "01", "")),  # MSMT17
        ("anna-{p}/cam{c}/{i}.png", ("anna-1", "cam1", "")),
        ("{p}/camera_{c}/x{i}.png", ("1", "camera_1", "")),
        ("cam_{c}/zoë {p}/{i}.jpeg", ("zoë 1", "cam_1", "")),
        ("{p}/walk_c{c}_{i}.jpg", ("1", "1", "")),
        ("{p}/{c}_{i}.jpg", ("1", "", "")),
        ("shop/2024/{p}/{c}_{i}.jpg", ("1", "", "")),
        ("cam_{c}/{p:04}_{i}.bmp", ("0001", "cam_1", "")),
        ("cam_{c}/person_{p:04}_{i}.bmp", ("0001", "cam_1", "")),
        ("{p:04}_{c}{i}.jpg", ("0001", "", "")),
        ("cam{c}/{p}{i}.jpg", ("", "cam1", "")),  # numbers of frames, not of identities
        ("frame_{p}{i}_cam{c}.jpg", ("", "1", "")),
        ("IMG{p}{c}{i}.jpg", ("", "", "")),
        ("train/{p}/{c}_{i}.jpg", ("1", "", "train")),
        ("x/bounding_box_test/{p:04}_c{c}s1_{i}.jpg", ("0001", "1", "test")),
    ],
)
def test_naming_schemes(pattern: str, first: tuple[str, str, str]) -> None:
    found = parsed(grid(pattern))
    assert len(found) == 16 and found[0] == first
    if first[0]:
        assert len({identity for identity, _, _ in found}) == 4
    if first[1]:
        assert len({camera for _, camera, _ in found}) == 2


def test_folders_indicate_splits_only_if_all_do() -> None:
    paths = grid("data/query/{p}/{i}.jpg") + grid("data/gallery/{p}/{i}.jpg")
    assert {split for _, _, split in parsed(dict.fromkeys(paths))} == {"query", "gallery"}
    mixed = parsed(dict.fromkeys(grid("train/{p}/{i}.jpg") + grid("more/{p}/{i}.jpg")))
    assert {split for _, _, split in mixed} == {""}


def test_a_few_names_that_do_not_match_are_left_out() -> None:
    paths = grid("{p:04}_c{c}_{i}.jpg", identities=10)
    naming, found = parse_names([*paths, "thumbs.jpg"])
    assert len(found) == len(paths) and naming is not NO_NAMING
    naming, found = parse_names([*paths, *(f"IMG{i}.jpg" for i in range(20))])
    assert naming is NO_NAMING and len(found) == len(paths) + 20


def test_a_custom_pattern() -> None:
    paths = grid("{p:03}-view{c}-{i}.jpg")
    found = parsed(paths, r"^(?P<id>\d+)-view(?P<camera>\d)")
    assert found[0] == ("001", "1", "")
    part = parsed(["a_test_1.jpg", "a_train_2.jpg"], r"(?P<id>\w)_(?P<split>test|train)_")
    assert [split for _, _, split in part] == ["test", "train"]
    assert parsed(["x.jpg"], r"(?P<id>\d+)") == []
    for wrong, word in (("(?P<id>", "not a regular expression"), (r"\d+", "named groups"),
                        (r"(?P<who>\d+)", "id, camera and split only")):  # fmt: skip
        with pytest.raises(ConfigError, match=word):
            custom_naming(wrong)


def test_paths_are_kept_as_they_are() -> None:
    paths = grid("ü/{p}/c{c}/人 {i}.jpg")
    _, (first, *_) = parse_names(paths)
    assert first == ParsedName(paths[0], "1", "c1")

"""What names of image files are taken to say."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from harness.core.errors import ConfigError
from harness.data.prepare.naming import NOTHING, Told, own, read


def grid(pattern: str, people: int = 4, cameras: int = 2, images: int = 2) -> list[str]:
    """All names of a pattern with {p}, {c}, {i}."""
    return [
        pattern.format(p=p, c=c, i=i)
        for p in range(1, people + 1)
        for c in range(1, cameras + 1)
        for i in range(images)
    ]


def told(paths: Iterable[str], pattern: str | None = None) -> list[tuple[str, str, str]]:
    _, found = read(list(paths), None if pattern is None else own(pattern))
    return [(each.id, each.camera, each.split) for each in found]


@pytest.mark.parametrize(
    ("pattern", "first"),
    [
        ("{p:04}_c{c}s1_{i:06}_01.jpg", ("0001", "1", "")),  # Market-1501
        ("a/b/{p:04}_c{c}_f{i:07}.jpg", ("0001", "1", "")),  # DukeMTMC-reID
        ("{p:04}_c{c:03}_{i:08}_0.jpg", ("0001", "001", "")),  # VeRi-776
        ("{p:04}C{c}T0001F{i:03}.jpg", ("", "", "")),  # MARS: nothing that is known here
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
        ("cam{c}/{p}{i}.jpg", ("", "cam1", "")),  # numbers of frames, not of people
        ("frame_{p}{i}_cam{c}.jpg", ("", "1", "")),
        ("IMG{p}{c}{i}.jpg", ("", "", "")),
        ("train/{p}/{c}_{i}.jpg", ("1", "", "train")),
        ("x/bounding_box_test/{p:04}_c{c}s1_{i}.jpg", ("0001", "1", "test")),
    ],
)
def test_ways_of_naming(pattern: str, first: tuple[str, str, str]) -> None:
    found = told(grid(pattern))
    assert len(found) == 16 and found[0] == first
    if first[0]:
        assert len({identity for identity, _, _ in found}) == 4
    if first[1]:
        assert len({camera for _, camera, _ in found}) == 2


def test_folders_say_what_images_are_for_only_if_all_do() -> None:
    paths = grid("data/query/{p}/{i}.jpg") + grid("data/gallery/{p}/{i}.jpg")
    assert {split for _, _, split in told(dict.fromkeys(paths))} == {"query", "gallery"}
    mixed = told(dict.fromkeys(grid("train/{p}/{i}.jpg") + grid("more/{p}/{i}.jpg")))
    assert {split for _, _, split in mixed} == {""}


def test_a_few_that_do_not_fit_are_left_out() -> None:
    paths = grid("{p:04}_c{c}_{i}.jpg", people=10)
    naming, found = read([*paths, "thumbs.jpg"])
    assert len(found) == len(paths) and naming is not NOTHING
    naming, found = read([*paths, *(f"IMG{i}.jpg" for i in range(20))])
    assert naming is NOTHING and len(found) == len(paths) + 20


def test_a_pattern_of_ones_own() -> None:
    paths = grid("{p:03}-view{c}-{i}.jpg")
    found = told(paths, r"^(?P<id>\d+)-view(?P<camera>\d)")
    assert found[0] == ("001", "1", "")
    part = told(["a_test_1.jpg", "a_train_2.jpg"], r"(?P<id>\w)_(?P<split>test|train)_")
    assert [split for _, _, split in part] == ["test", "train"]
    assert told(["x.jpg"], r"(?P<id>\d+)") == []
    for wrong, word in (("(?P<id>", "no regular expression"), (r"\d+", "named groups"),
                        (r"(?P<who>\d+)", "id, camera and split only")):  # fmt: skip
        with pytest.raises(ConfigError, match=word):
            own(wrong)


def test_paths_are_kept_as_they_are() -> None:
    (first, *_), paths = read(grid("ü/{p}/c{c}/人 {i}.jpg"))[1], grid("ü/{p}/c{c}/人 {i}.jpg")
    assert first == Told(paths[0], "1", "c1")

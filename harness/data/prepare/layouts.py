"""Search for a release's layout in an archive or folder, at any depth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from harness.core.errors import DataError
from harness.data.layouts import Layout, Part

#: folders of archives that do not belong to data sets
IGNORED = ("__MACOSX",)

#: path of a folder in the source, as segments
Folder = tuple[str, ...]


@dataclass(frozen=True)
class FoundLayout:
    """A layout found in a folder of a source, whose path is `prefix`.

    targets: member → where it goes, relative to the data root.
    counts: number of images of each part, by the part's target.
    missing: parts without images, and missing files.
    """

    layout: Layout
    prefix: str
    targets: Mapping[str, str]
    counts: Mapping[str, int]
    missing: Sequence[str] = ()


def find_layout(
    layouts: Sequence[Layout], members: Iterable[str], source: str, check_counts: bool = True
) -> FoundLayout:
    """The layout that fits a source best.

    Args:
        layouts: in order of preference. members: all file names in the source, with slashes.
        source: its name, for messages. check_counts: refuse unofficial numbers of images.

    Raises DataError if none fits, the numbers of images are wrong, or the layout is to be refused.
    """
    folders: dict[Folder, list[str]] = defaultdict(list)
    for member in members:
        *path, name = member.split("/")
        if not name.startswith(".") and not any(p in IGNORED or p.startswith(".") for p in path):
            folders[tuple(path)].append(name)
    candidates = [
        (found, -order)
        for order, layout in enumerate(layouts)
        for found in _search(layout, folders)
        if any(found.counts.values())
    ]
    if not candidates:
        raise _nothing_found(layouts, folders, source)

    def rank(candidate: tuple[FoundLayout, int]) -> tuple[bool, int, int, int]:
        found, preference = candidate
        images = sum(found.counts.values())
        parts = sum(bool(count) for count in found.counts.values())
        return not found.missing, parts, images if found.missing else preference, images

    best, _ = max(candidates, key=rank)
    if best.missing:
        raise _incomplete(best, source)
    if best.layout.instead:
        raise DataError(f"{source} is {best.layout.title}.", best.layout.instead)
    _check_targets(best, source)
    if check_counts:
        _check_counts(best, source)
    return best


def _search(layout: Layout, folders: Mapping[Folder, Sequence[str]]) -> Iterator[FoundLayout]:
    """The layout in every folder that has some of its parts."""
    prefixes: dict[Folder, None] = {}
    matches: dict[tuple[Part, str], dict[Folder, list[Folder]]] = {}
    for part in layout.parts:
        for pattern in {p for alternative in part.sources for p in alternative}:
            segments = pattern.split("/")
            by_prefix: dict[Folder, list[Folder]] = defaultdict(list)
            for path in folders:
                depth = len(path) - len(segments)
                if depth >= 0 and all(map(fnmatchcase, path[depth:], segments)):
                    by_prefix[path[:depth]].append(path)
                    prefixes[path[:depth]] = None
            matches[part, pattern] = by_prefix
    for prefix in prefixes:
        yield _in_prefix(layout, prefix, folders, matches)


def _in_prefix(
    layout: Layout, prefix: Folder, folders: Mapping[Folder, Sequence[str]],
    matches: Mapping[tuple[Part, str], Mapping[Folder, list[Folder]]],
) -> FoundLayout:  # fmt: skip
    targets: dict[str, str] = {}
    counts: dict[str, int] = {}
    for part in layout.parts:
        counts[part.target] = 0
        for alternative in part.sources:
            for pattern in alternative:
                for path in matches[part, pattern].get(prefix, ()):
                    folder = f"{layout.home}/{_target(part.target, pattern, path)}"
                    for name in folders[path]:
                        if name.endswith(part.suffixes):
                            targets["/".join([*path, name])] = f"{folder}/{name}"
                            counts[part.target] += 1
            if counts[part.target]:
                break
    files = set(folders.get(prefix, ()))
    for name in (*layout.files, *layout.extra):
        if name in files:
            targets["/".join([*prefix, name])] = f"{layout.home}/{name}"
    missing = [
        *(_folder_name(target) for target, count in counts.items() if not count),
        *(name for name in layout.files if name not in files),
    ]
    return FoundLayout(layout, "/".join(prefix), targets, counts, missing)


def _target(target: str, pattern: str, path: Folder) -> str:
    """The target with `*` replaced by what the pattern's `*` matched."""
    if "*" not in target:
        return target
    segments = pattern.split("/")
    return target.replace("*", path[len(path) - len(segments) + segments.index("*")])


def _folder_name(target: str) -> str:
    return f"{target.removesuffix('/*')}/"


def _check_counts(found: FoundLayout, source: str) -> None:
    wrong = []
    for part in found.layout.parts:
        folder, count = _folder_name(part.target), found.counts[part.target]
        if part.images is not None and count < part.images:
            wrong.append(f"{folder} has {count:,} of {part.images:,} images")
        elif part.images is not None and count > part.images:
            more = f"{count - part.images:,} more than the official {part.images:,}"
            wrong.append(f"{folder} has {count:,} images, {more}")
    if wrong:
        raise DataError(
            f"{source} is not {found.layout.title} as published: {'; '.join(wrong)}.",
            "Get the archive again, or accept it with dataset.check_counts=false.",
        )


def _check_targets(found: FoundLayout, source: str) -> None:
    """Refuse members with the same target, or with targets that differ by case only."""
    seen: dict[str, str] = {}
    for member, target in found.targets.items():
        other = seen.setdefault(target.casefold(), member)
        if other == member:
            continue
        if found.targets[other] == target:
            problem, reason = "are one image of the data set", "they may differ"
        else:
            problem, reason = "differ by case only", "many disks cannot store both"
        problem = f"{source} has {other} and {member}, which {problem}."
        raise DataError(problem, f"Remove one of them: {reason}.")


def _incomplete(found: FoundLayout, source: str) -> DataError:
    counted = ((_folder_name(target), count) for target, count in found.counts.items() if count)
    present = [f"{folder} ({count:,} images)" for folder, count in counted]
    where = f"{source}, folder {found.prefix}," if found.prefix else source
    return DataError(
        f"{where} is {found.layout.title} in part. There: {', '.join(present)}. "
        f"Missing: {', '.join(found.missing)}.",
        "Get the whole archive. If it consists of several, unpack all into one folder and give it.",
    )


def _nothing_found(
    layouts: Sequence[Layout], folders: Mapping[Folder, Sequence[str]], source: str
) -> DataError:
    top = sorted({path[0] for path in folders if path} | set(folders.get((), ())))
    content = ", ".join(top[:6]) + (", …" if len(top) > 6 else "") if top else "nothing"
    wanted = "; or ".join(
        ", ".join([*(f"{part.sources[0][0]}/" for part in layout.parts), *layout.files])
        for layout in layouts
        if not layout.instead
    )
    suffixes = (".zip", ".tar", ".gz", ".tgz", ".rar", ".7z")
    archives = [name for name in top if name.lower().endswith(suffixes)]
    return DataError(
        f"{source} holds nothing of {layouts[0].title}: {content}.",
        f"Unpack {archives[0]} first, and give that folder."
        if archives
        else f"Wanted, in any folder of it: {wanted}.",
    )

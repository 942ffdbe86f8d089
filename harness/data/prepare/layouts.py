"""Find a release's layout in an archive or folder, under whatever folders it lies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from harness.core.errors import DataError
from harness.data.layouts import Layout, Part

#: folders that archives hold and data sets do not
IGNORED = ("__MACOSX",)


@dataclass(frozen=True)
class Find:
    """A layout found in a folder of a source.

    placed: member → where it goes, relative to the data root.
    counts: images of each part, by its target.
    """

    layout: Layout
    prefix: str
    placed: Mapping[str, str]
    counts: Mapping[str, int]
    missing: Sequence[str] = field(default_factory=tuple)

    @property
    def complete(self) -> bool:
        """Whether every part has images and every file is there."""
        return not self.missing


def find_layout(
    layouts: Sequence[Layout], members: Iterable[str], source: str, check_counts: bool = True
) -> Find:
    """The layout that fits a source best.

    Args:
        layouts: in order of preference. members: all file names in the source, with slashes.
        source: its name, for messages. check_counts: refuse other numbers than the official ones.

    Raises:
        DataError: none fits, with a list of what is missing; the numbers of images are others; or
            it is a layout to be refused.
    """
    folders: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for member in members:
        *path, name = member.split("/")
        if not name.startswith(".") and not any(p in IGNORED or p.startswith(".") for p in path):
            folders[tuple(path)].append(name)
    found = [
        find
        for layout in layouts
        for find in _everywhere(layout, folders)
        if any(find.counts.values())
    ]
    if not found:
        raise _nothing(layouts, folders, source)
    order = {id(layout): place for place, layout in enumerate(layouts)}

    def rank(find: Find) -> tuple[bool, int, int, int]:
        return (
            find.complete,
            sum(bool(count) for count in find.counts.values()),
            sum(find.counts.values()) if not find.complete else -order[id(find.layout)],
            sum(find.counts.values()),
        )

    best = max(found, key=rank)
    if best.layout.instead and best.complete:
        raise DataError(f"{source} is {best.layout.title}.", best.layout.instead)
    if not best.complete:
        raise _incomplete(best, source)
    _check_placed(best, source)
    if check_counts:
        _check_counts(best, source)
    return best


def _everywhere(layout: Layout, folders: Mapping[tuple[str, ...], Sequence[str]]) -> Iterable[Find]:
    """The layout in every folder that has something of it."""
    prefixes: dict[tuple[str, ...], None] = {}
    matches: dict[tuple[Part, str], dict[tuple[str, ...], list[tuple[str, ...]]]] = {}
    for each in layout.parts:
        for pattern in {p for alternative in each.sources for p in alternative}:
            segments = pattern.split("/")
            here: dict[tuple[str, ...], list[tuple[str, ...]]] = defaultdict(list)
            for path in folders:
                tail = path[len(path) - len(segments) :] if len(path) >= len(segments) else ()
                if tail and all(map(fnmatchcase, tail, segments)):
                    prefix = path[: len(path) - len(segments)]
                    here[prefix].append(path)
                    prefixes[prefix] = None
            matches[each, pattern] = here
    for prefix in prefixes:
        yield _in_prefix(layout, prefix, folders, matches)


def _in_prefix(
    layout: Layout,
    prefix: tuple[str, ...],
    folders: Mapping[tuple[str, ...], Sequence[str]],
    matches: Mapping[tuple[Part, str], Mapping[tuple[str, ...], list[tuple[str, ...]]]],
) -> Find:
    placed: dict[str, str] = {}
    counts: dict[str, int] = {}
    for each in layout.parts:
        counts[each.target] = 0
        for alternative in each.sources:
            for pattern in alternative:
                for path in matches[each, pattern].get(prefix, ()):
                    target = _target(each.target, pattern, path)
                    for name in folders[path]:
                        if name.endswith(each.suffixes):
                            placed["/".join([*path, name])] = f"{layout.home}/{target}/{name}"
                            counts[each.target] += 1
            if counts[each.target]:
                break
    beside = set(folders.get(prefix, ()))
    for name in (*layout.files, *layout.extra):
        if name in beside:
            placed["/".join([*prefix, name])] = f"{layout.home}/{name}"
    missing = [
        *(f"{each.target.removesuffix('/*')}/" for each in layout.parts if not counts[each.target]),
        *(name for name in layout.files if name not in beside),
    ]
    return Find(layout, "/".join(prefix), placed, counts, missing)


def _target(target: str, pattern: str, path: tuple[str, ...]) -> str:
    """The target with its `*` filled by what the pattern's `*` matched."""
    if "*" not in target:
        return target
    segments = pattern.split("/")
    return target.replace("*", path[len(path) - len(segments) + segments.index("*")])


# --------------------------------------------------------------------------------------- errors


def _check_counts(find: Find, source: str) -> None:
    wrong = []
    for each in find.layout.parts:
        folder, count = f"{each.target.removesuffix('/*')}/", find.counts[each.target]
        if each.images is None or count == each.images:
            continue
        if count < each.images:
            wrong.append(f"{folder} has {count:,} of {each.images:,} images")
        else:
            more = f"{count - each.images:,} more than the official {each.images:,}"
            wrong.append(f"{folder} has {count:,} images, {more}")
    if wrong:
        raise DataError(
            f"{source} is not {find.layout.title} as published: {'; '.join(wrong)}.",
            "Get the archive again; dataset.check_counts=false takes it all the same.",
        )


def _check_placed(find: Find, source: str) -> None:
    """No two members may go to one place, nor to places that some disks hold for one."""
    seen: dict[str, str] = {}
    for member, target in find.placed.items():
        other = seen.setdefault(target.casefold(), member)
        if other != member:
            same = find.placed[other] == target
            raise DataError(
                f"{source} has {other} and {member}, which "
                + ("are one image of the data set." if same else "differ by case only."),
                "Remove one of them: " + ("they may differ." if same else "many disks cannot "
                "hold both."),
            )  # fmt: skip


def _incomplete(find: Find, source: str) -> DataError:
    there = [
        f"{target.removesuffix('/*')}/ ({count:,} images)"
        for target, count in find.counts.items()
        if count
    ]
    where = f"{source}, folder {find.prefix}," if find.prefix else source
    return DataError(
        f"{where} is {find.layout.title} in part. There: {', '.join(there)}. "
        f"Missing: {', '.join(find.missing)}.",
        "Get the whole archive; if it came in several, unpack all of them into one folder and give "
        "that.",
    )


def _nothing(
    layouts: Sequence[Layout], folders: Mapping[tuple[str, ...], Sequence[str]], source: str
) -> DataError:
    tops = sorted({path[0] for path in folders if path} | set(folders.get((), ())))
    holds = ", ".join(tops[:6]) + (", …" if len(tops) > 6 else "") if tops else "nothing"
    wanted = "; or ".join(
        ", ".join(
            [
                *(f"{each.sources[0][0]}/" for each in layout.parts),
                *layout.files,
            ]
        )
        for layout in layouts
        if not layout.instead
    )
    archives = [
        n for n in tops if n.lower().endswith((".zip", ".tar", ".gz", ".tgz", ".rar", ".7z"))
    ]
    return DataError(
        f"{source} holds nothing of {layouts[0].title}: {holds}.",
        f"Unpack {archives[0]} first, and give that folder."
        if archives
        else f"Wanted, in any folder of it: {wanted}.",
    )

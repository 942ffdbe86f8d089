"""What the authors' code of a method does and its paper does not say: docs/what-the-code-does.md.

The facts are bullets in the READMEs of methods, in the section `SECTION`. Its first line names the
repository and the commit; each bullet begins with its kind and ends with its place:

    Repository: [OWNER/NAME](https://github.com/OWNER/NAME) at `COMMIT`.

    - **Selection.** The best checkpoint on the test set is reported (`train.py`, `main`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from harness.core import plugins
from harness.core.errors import ConfigError, did_you_mean

SECTION = "## What the authors' code does and the paper does not say"
#: kind → what it is about, in the order of the page
KINDS = {
    "Selection": "Which networks are tested, and how the reported one is chosen.",
    "Unused term": "What is computed and not used.",
    "Cameras": "Where cameras are used.",
    "Step size": "Schedules, and factors on rates and averages.",
    "Weights": "Weights of terms, and options that do not reach them.",
    "Data": "Versions and parts of data sets.",
    "Citation": "Where published numbers come from.",
    "Normalization": "What is normalized, and over which batch.",
    "Sampler": "How batches are drawn.",
    "Memory": "What memories and classifiers start from and follow.",
    "Labels": "How pseudo-labels are made.",
    "Code": "Everything else.",
}
HEAD = """\
# What the authors' code does and the papers do not say

As of {date}.

To compare methods fairly, one has to know what was run. This page lists what the published code of
the methods here does and their papers do not say, or say otherwise. Of the methods
since 2022, only abstracts, repositories and figures were read, so their papers may say more.
The page makes no claim about intentions: a paper has few pages, and code changes after it. Many
entries are harmless, and some are improvements.

Entries were found by reading the code, and by computing its arithmetic again until the numbers
agreed (`harness verify`). Each ends with its place: repository, commit, file and function. Where an
entry says "here", it means this harness. Entries are those in the READMEs of the methods, from
which this page is generated:
`harness list findings --format markdown --output docs/what-the-code-does.md`.

**Corrections are welcome.** If an entry is wrong, outdated or unfair, open an issue that names the
method and the entry; authors of a method need no other proof than a line of their code.
"""
_REPOSITORY = re.compile(r"\[([\w.-]+/[\w.-]+)\]\(https://github\.com/\1/?\) at `([0-9a-f]{7,40})`")
_BULLET = re.compile(r"\*\*([^*]+)\.\*\* (.+)")
_PLACE = re.compile(r"(.+) \(([^()]*`[^()]*)\)\.?")


@dataclass(frozen=True)
class Finding:
    """One fact: of a method, of a kind in `KINDS`, in words, and where to see it.

    repositories: name (OWNER/NAME) → commit.
    """

    method: str
    kind: str
    text: str
    place: str
    repositories: Mapping[str, str]


def findings() -> list[Finding]:
    """The facts of all methods of this harness, those of a kind together.

    Raises:
        ConfigError: a README has a line that is not as described above; names file and line.
    """
    methods = sorted(plugins.find()["methods"].values(), key=lambda plugin: plugin.name)
    found = [
        finding
        for plugin in methods
        if plugin.origin == "built in" and (plugin.folder / "README.md").is_file()
        for finding in read(plugin.name, plugin.folder / "README.md")
    ]
    order = list(KINDS)
    return sorted(found, key=lambda finding: order.index(finding.kind))


def read(method: str, path: Path) -> Iterator[Finding]:
    """The facts in the README of one method; none if it has no such section.

    Raises:
        ConfigError: see `findings`.
    """
    repositories: dict[str, str] = {}
    for line, text in _paragraphs(path):
        where = f"{path}:{line}"
        if not repositories:
            repositories = dict(_REPOSITORY.findall(text))
            if not repositories or not text.startswith("Repositor"):
                raise ConfigError(
                    f"{where}: the section must begin with the repository and its commit.",
                    "Write: Repository: [OWNER/NAME](https://github.com/OWNER/NAME) at `COMMIT`.",
                )
        elif text.startswith("- "):
            yield _finding(method, text.removeprefix("- "), repositories, where)


def _finding(method: str, bullet: str, repositories: Mapping[str, str], where: str) -> Finding:
    kind = _BULLET.fullmatch(bullet)
    if kind is None or kind[1] not in KINDS:
        named = f"there is no kind '{kind[1]}'" if kind else "the bullet has no kind"
        hint = did_you_mean(kind[1], KINDS) if kind else f"Known: {', '.join(KINDS)}."
        raise ConfigError(f"{where}: {named}.", f"Begin with **KIND.**, in bold. {hint}")
    fact = _PLACE.fullmatch(kind[2])
    if fact is None:
        raise ConfigError(
            f"{where}: the bullet does not say where this is to be seen.",
            "End with the place in parentheses: (`FILE`, `CLASS.METHOD`).",
        )
    return Finding(method, kind[1], fact[1], fact[2], repositories)


def _paragraphs(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, text on one line) of each paragraph and bullet of the section."""
    inside, start, parts = False, 0, list[str]()
    lines = [*path.read_text(encoding="utf-8").splitlines(), "## "]
    for number, line in enumerate(lines, start=1):
        if inside and (not line.strip() or line.startswith(("- ", "## "))) and parts:
            yield start, " ".join(parts)
            parts = []
        if line.startswith("## "):
            inside = line.rstrip() == SECTION
        elif inside and line.strip():
            start = start if parts else number
            parts.append(line.strip())


def markdown(day: date) -> str:
    """docs/what-the-code-does.md, dated."""
    found = findings()
    lines = [HEAD.format(date=day.isoformat())]
    for kind, meaning in KINDS.items():
        bullets = [_line(finding) for finding in found if finding.kind == kind]
        if bullets:
            lines += [f"## {kind}", "", meaning, "", *bullets, ""]
    return "\n".join(lines).rstrip() + "\n"


def _line(finding: Finding) -> str:
    text = finding.text if finding.text.endswith((".", "!", "?")) else f"{finding.text}."
    code = " and ".join(
        f"[{name}](https://github.com/{name}/tree/{commit}) at `{commit}`"
        for name, commit in finding.repositories.items()
    )
    method = f"[`{finding.method}`](../methods/{finding.method}/README.md)"
    return f"- {method}: {text} ({code}: {finding.place})"

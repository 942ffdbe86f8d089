"""Blocks of code in Markdown pages, and how a test executes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: a comment in front of a block says why no test executes it
MARK = re.compile(r"<!-- not run: (.+?) -->\s*\Z", re.DOTALL)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    language: '' for commands. line: number of its first line in the page. reason: why it is not
    executed; '' if it has to be.
    """

    page: str
    line: int
    language: str
    text: str
    reason: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def lines(self) -> list[str]:
        """The commands: without comments, continued lines joined."""
        joined = self.text.replace("\\\n", " ").splitlines()
        return [line for line in (re.split(r"\s#\s|^#", one)[0].strip() for one in joined) if line]


def blocks(path: Path, root: Path) -> Iterator[Block]:
    """The blocks of a page, in order."""
    text = path.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        mark = MARK.search(text, 0, found.start())
        reason = mark[1] if mark and mark.end() == found.start() else ""
        line = text.count("\n", 0, found.start()) + 2
        yield Block(path.relative_to(root).as_posix(), line, found[1], found[2], reason)

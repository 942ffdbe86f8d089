"""Verdicts as a table for the terminal, as Markdown for a pull request, and as JSON."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.experiment.submissions.verdict import Check, Verdict

_STYLES = {"ok": "green", "FAILED": "bold red", "unknown": "yellow"}
_SIGNS = {"ok": "✅ ok", "FAILED": "❌ FAILED", "unknown": "❔ unknown"}


def print_verdicts(verdicts: Sequence[Verdict], console: Console) -> None:
    """A table per run with a row per check, and the verdict on all of them."""
    for verdict in verdicts:
        for run, checks in _by_run(verdict):
            grid = Table("Check", "", "Why", title=Text(run or verdict.submission))
            for check in checks:
                # Text: reasons quote hostile values, which must not be read as markup
                outcome = Text(check.outcome, style=_STYLES[check.outcome])
                grid.add_row(check.name, outcome, Text(check.reason))
            console.print(grid)
        console.print(Text(str(verdict), style="green" if verdict.passes else "bold red"))


def as_markdown(verdicts: Iterable[Verdict]) -> str:
    """A summary for a pull request: the verdict, failures first, and all checks."""
    parts = []
    for verdict in verdicts:
        sign = _SIGNS["ok" if verdict.passes else "FAILED"].split(" ")[0]
        lines = [f"### {sign} {_escaped(str(verdict))}", ""]
        for run, checks in _by_run(verdict):
            lines += [f"**{_escaped(run or 'submission')}**", "", "| check | | why |",
                      "| --- | --- | --- |"]  # fmt: skip
            lines += [
                f"| {check.name} | {_SIGNS[check.outcome]} | {_escaped(check.reason)} |"
                for check in checks
            ]
            lines.append("")
        parts.append("\n".join(lines))
    return "\n".join(parts).rstrip() + "\n"


def as_json(verdicts: Iterable[Verdict]) -> str:
    """All checks, machine-readable."""
    content = [
        {
            "submission": verdict.submission, "passes": verdict.passes,
            "checks": [vars(check) for check in verdict.checks],
        }
        for verdict in verdicts
    ]  # fmt: skip
    return json.dumps(content, indent=1)


def _by_run(verdict: Verdict) -> Iterable[tuple[str, list[Check]]]:
    return ((run, list(some)) for run, some in groupby(verdict.checks, lambda check: check.run))


def _escaped(text: str) -> str:
    """Hostile text as plain words: no tables, links, mentions, images or HTML."""
    plain = html.escape(" ".join(text.split()), quote=False)
    plain = re.sub(r"([\\`*_{}\[\]()#+!|~])", r"\\\1", plain)
    return plain.replace("@", "&#64;").replace("://", "&#58;//")

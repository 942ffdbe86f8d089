"""Settings: from which labels a run learned. A line of the protocol card; USL cards have none.

- USL: unsupervised learning, no labels.
- UDA: unsupervised domain adaptation, the identities of a labeled source; the card names it.
- supervised: the training identities of the data set itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

USL, UDA, SUPERVISED = "USL", "UDA", "supervised"
_FROM = f"{UDA}, source "


def line(setting: str, source: str) -> str:
    """The line `setting` of a card with this source."""
    return f"{_FROM}{source}" if setting == UDA else setting


def of_card(card: Mapping[str, Any]) -> str:
    """The line `setting` of a card, USL where it has none."""
    return str(card.get("setting", USL))


def source_of(line: str) -> str:
    """The labeled source that a line names; '' if it names none."""
    return line.removeprefix(_FROM) if line.startswith(_FROM) else ""


def kind(line: str) -> str:
    """USL, UDA or supervised."""
    return UDA if source_of(line) else line


def in_words(line: str, data: str = "") -> str:
    """What a title says of a setting; '' for USL, the usual one.

    data: the fingerprint of the source, where its name does not say which it is.
    """
    if source := source_of(line):
        told = f" (data {data})" if data else ""
        return f"domain adaptation from {source}{told} with labels (UDA)"
    return "supervised, with its own training labels" if line == SUPERVISED else ""

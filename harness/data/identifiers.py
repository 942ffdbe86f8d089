"""Identities and cameras as people write them: numbers, names, blanks."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from harness.data.types import DISTRACTOR, JUNK

#: pandas writes whole numbers as 3.0 as soon as one is missing. Longer numbers do not fit int64.
_WHOLE = re.compile(r"(-?\d{1,18})(?:\.0*)?")
#: a float that is missing, as Python and numpy write it
_MISSING = ("", "nan", "NaN")


def is_missing(text: str) -> bool:
    """Whether a cell is blank."""
    return text.strip() in _MISSING


def whole_number(text: str) -> int | None:
    """The value of a whole number, also of an integral float (`-1.0`); None for other texts."""
    match = _WHOLE.fullmatch(text.strip())
    return None if match is None else int(match[1])


def number_identities(texts: Sequence[str]) -> np.ndarray:
    """(N,) int64: numbers are kept; if one is a name, all are numbered from 1 in sorted order.

    Junk (-1) and distractors (0) keep their numbers; blanks are junk.
    """
    known = {text: whole_number(text) for text in set(texts) if not is_missing(text)}
    if None in known.values():
        names = {text: text.strip() if n is None else str(n) for text, n in known.items()}
        ordered = sorted(set(names.values()) - {str(JUNK), str(DISTRACTOR)})
        numbers = {name: i for i, name in enumerate(ordered, start=1)}
        numbers |= {str(JUNK): JUNK, str(DISTRACTOR): DISTRACTOR}
        known = {text: numbers[name] for text, name in names.items()}
    return np.array([known.get(text, JUNK) for text in texts], dtype=np.int64)


def number_cameras(texts: Sequence[str]) -> np.ndarray:
    """(N,) int64, numbered from 0 in sorted order: by value if all are whole numbers."""
    known = {text: whole_number(text) for text in set(texts)}
    if None in known.values():
        keys = {text: (0, text.strip() if n is None else str(n)) for text, n in known.items()}
    else:
        keys = {text: (n or 0, "") for text, n in known.items()}
    number = {key: i for i, key in enumerate(sorted(set(keys.values())))}
    return np.array([number[keys[text]] for text in texts], dtype=np.int64)

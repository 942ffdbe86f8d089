"""What is publicly known of a data set, and whether the one at hand agrees.

A paper's numbers can be compared only if its images, junk and correct answers were the same. The
counts are public for most sets; the fingerprint is that of a copy on which the counts were checked.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import fields

import numpy as np

from harness.data.types import Facts, ReIDData, Split

__all__ = ["WORDS", "Facts", "compared", "differences", "measure", "valid_matches"]

#: what each number counts, for messages
WORDS = {
    "train": "training images",
    "train_identities": "training identities",
    "query": "queries",
    "query_identities": "query identities",
    "gallery": "gallery images",
    "junk": "junk boxes",
    "distractors": "distractors",
    "cameras": "cameras",
    "matches": "valid matches",
    "fingerprint": "fingerprint",
}


def measure(data: ReIDData, fingerprint: str | None = None) -> Facts:
    """The facts of a data set as loaded. Identity 0 counts as a distractor where no query has it.

    Args:
        fingerprint: of `data`, if it is known already; computing it asks the disk for every file.
    """
    gallery, query = data.gallery, data.query
    nobody = not (query.identities == 0).any()
    cameras = [s.cameras for s in (data.train, query, gallery) if s.cameras is not None]
    return Facts(
        train=len(data.train.images),
        train_identities=_people(data.train),
        query=len(query.images),
        query_identities=_people(query),
        gallery=int((gallery.identities >= 0).sum()),
        junk=int((gallery.identities < 0).sum()),
        distractors=int((gallery.identities == 0).sum()) if nobody else 0,
        cameras=len(np.unique(np.concatenate(cameras))) if cameras else 0,
        matches=valid_matches(query, gallery),
        fingerprint=fingerprint or data.fingerprint(),
    )


def differences(known: Facts, found: Facts) -> list[str]:
    """One line for each fact that does not agree: 'queries: 3,367, not 3,368'."""
    lines = []
    for field in fields(Facts):
        expected, actual = getattr(known, field.name), getattr(found, field.name)
        if expected is not None and expected != actual:
            a, b = (f"{v:,}" if isinstance(v, int) else str(v)[:8] for v in (actual, expected))
            lines.append(f"{WORDS[field.name]}: {a}, not {b}")
    return lines


def compared(data: ReIDData, fingerprint: str | None = None) -> list[str] | None:
    """What of a data set is not as publicly known, a line each; None where nothing is known of it.
    Of several at once each is looked at on its own, in whole.

    Args:
        fingerprint: of `data`, if it is known already.
    """
    if not data.parts:
        return None if data.facts is None else differences(data.facts, measure(data, fingerprint))
    found = {part.name: compared(part) for part in data.parts}
    if all(lines is None for lines in found.values()):
        return None
    return [f"{name}: {line}" for name, lines in found.items() for line in lines or []]


def valid_matches(query: Split, gallery: Split) -> int:
    """Pairs of a query and a gallery image of its identity, of another camera if there are any."""
    people = Counter(gallery.identities.tolist())
    total = sum(people[i] for i in query.identities.tolist() if i >= 0)
    if query.cameras is None or gallery.cameras is None:
        return total
    seen = Counter(zip(gallery.identities.tolist(), gallery.cameras.tolist(), strict=True))
    own = zip(query.identities.tolist(), query.cameras.tolist(), strict=True)
    return total - sum(seen[pair] for pair in own if pair[0] >= 0)


def _people(split: Split) -> int:
    """How many identities, junk not counted."""
    return len(np.unique(split.identities[split.identities >= 0]))

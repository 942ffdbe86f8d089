"""Comparison of a data set with its published counts.

Results are comparable with a paper's only on the same images, junk and correct matches. Counts are
published for most data sets; fingerprints come from copies that match these counts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import fields

import numpy as np

from harness.data.types import DatasetFacts, ReIDData, Split

#: names of the facts in messages, where they differ from the fields'
FACT_NAMES = {
    "train": "training images", "train_identities": "training identities", "query": "queries",
    "query_identities": "query identities", "gallery": "gallery images", "junk": "junk boxes",
    "matches": "valid matches",
}  # fmt: skip


def measure(data: ReIDData, fingerprint: str | None = None) -> DatasetFacts:
    """The facts of a loaded data set. Identity 0 counts as a distractor unless a query has it.

    `fingerprint` is that of `data`, if known; computing it reads the size of every file.
    """
    gallery, query = data.gallery, data.query
    has_distractors = not (query.identities == 0).any()
    cameras = [s.cameras for s in (data.train, query, gallery) if s.cameras is not None]
    return DatasetFacts(
        train=len(data.train.images),
        train_identities=_count_identities(data.train),
        query=len(query.images),
        query_identities=_count_identities(query),
        gallery=int((gallery.identities >= 0).sum()),
        junk=int((gallery.identities < 0).sum()),
        distractors=int((gallery.identities == 0).sum()) if has_distractors else 0,
        cameras=len(np.unique(np.concatenate(cameras))) if cameras else 0,
        matches=valid_matches(query, gallery),
        fingerprint=fingerprint or data.fingerprint(),
    )


def differences(published: DatasetFacts, measured: DatasetFacts) -> list[str]:
    """One line for each fact that differs: 'queries: 3,367, not 3,368'."""
    lines = []
    for field in fields(DatasetFacts):
        expected, actual = getattr(published, field.name), getattr(measured, field.name)
        if expected is not None and expected != actual:
            a, b = (f"{v:,}" if isinstance(v, int) else str(v)[:8] for v in (actual, expected))
            lines.append(f"{FACT_NAMES.get(field.name, field.name)}: {a}, not {b}")
    return lines


def compare_with_published(data: ReIDData, fingerprint: str | None = None) -> list[str] | None:
    """Differences from the published facts, one line each; None if nothing is published.

    Joined data sets are compared one by one, each as a whole. `fingerprint` is that of `data`, if
    already known.
    """
    if not data.parts:
        return None if data.facts is None else differences(data.facts, measure(data, fingerprint))
    compared = {part.name: compare_with_published(part) for part in data.parts}
    if all(lines is None for lines in compared.values()):
        return None
    return [f"{name}: {line}" for name, lines in compared.items() for line in lines or []]


def valid_matches(query: Split, gallery: Split) -> int:
    """Pairs of a query and a gallery image of its identity, from another camera if known."""
    images = Counter(gallery.identities.tolist())
    total = sum(images[i] for i in query.identities.tolist() if i >= 0)
    if query.cameras is None or gallery.cameras is None:
        return total
    seen = Counter(zip(gallery.identities.tolist(), gallery.cameras.tolist(), strict=True))
    queries = zip(query.identities.tolist(), query.cameras.tolist(), strict=True)
    return total - sum(seen[pair] for pair in queries if pair[0] >= 0)


def _count_identities(split: Split) -> int:
    """The number of identities without junk."""
    return len(np.unique(split.identities[split.identities >= 0]))

"""Names of a backbone's views; apart from the interfaces, since composing needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

#: the view of the global features before their neck; it is no part and always the last view
POOLED = "pooled"


def count_parts(views: Sequence[str]) -> int:
    """The number of views that are parts of the image: all but the global one and `pooled`."""
    return len(views) - 1 - (POOLED in views)

"""What the names of a backbone's views mean, for those that only count them."""

from __future__ import annotations

from collections.abc import Sequence

#: the global view before its neck: no part of an image, and always the last
POOLED = "pooled"


def count_parts(views: Sequence[str]) -> int:
    """How many of the views are of parts: all but the global one and `pooled`."""
    return len(views) - 1 - (POOLED in views)

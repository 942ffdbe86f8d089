"""What the network of a record has seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def trained_on(record: Mapping[str, Any]) -> str:
    """What a run was trained on; with `init=RUN`, what that was trained on before it."""
    name = str(record["experiment"]["dataset"])
    before = record.get("init", {}).get("trained_on")
    trained = any(result["epoch"] is not None for result in record["stages"].values())
    if not trained:
        return str(before) if before else "–"
    return f"{before} → {name}" if before else name

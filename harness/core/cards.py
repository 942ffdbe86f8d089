"""The hash of a protocol card: what says that two rows may stand in one table."""

from __future__ import annotations

import hashlib
import json
from typing import Any

#: lines of a card that are columns of every table, and so not under its hash
UNHASHED = ("cameras", "selection", "tuned", "hash")


def card_hash(card: dict[str, Any]) -> str:
    """8 hex digits over all that is held equal."""
    held = {key: value for key, value in card.items() if key not in UNHASHED}
    text = json.dumps(held, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()

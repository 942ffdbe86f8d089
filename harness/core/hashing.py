"""Hashes that identify protocols, data sets and caches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

#: protocol card entries that tables show as columns; they are not hashed
UNHASHED = ("cameras", "selection", "tuned", "hash")


def hexdigest(chunks: Iterable[bytes], size: int = 16) -> str:
    """BLAKE2b digest of the concatenated chunks, `size` bytes written as hex digits."""
    digest = hashlib.blake2b(digest_size=size)
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def settings_digest(settings: Any) -> str:
    """Digest of settings as JSON: of the configuration in config.json, which its record keeps, and
    of the setting of a measurement.
    """
    return hexdigest([json.dumps(settings, sort_keys=True).encode()])


def card_hash(card: dict[str, Any]) -> str:
    """Hash of a protocol card, 8 hex digits: rows with equal hashes may share a table."""
    held_equal = {key: value for key, value in card.items() if key not in UNHASHED}
    text = json.dumps(held_equal, sort_keys=True, ensure_ascii=True)
    return hexdigest([text.encode()], size=4)

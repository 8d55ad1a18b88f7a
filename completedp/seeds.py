"""Independent seeds for everything random, all derived from one seed."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, purpose: str, number: int = 0) -> int:
    """A 31-bit seed that depends only on `seed`, `purpose` and `number`."""
    text = f"{seed}/{purpose}/{number}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1

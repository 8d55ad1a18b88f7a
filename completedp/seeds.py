"""Seeds of their own for everything random that one seed decides."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, purpose: str, number: int = 0) -> int:
    """A 31-bit seed that depends on a seed, the purpose and a number only."""
    text = f"{seed}/{purpose}/{number}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1

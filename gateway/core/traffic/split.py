"""The split: which variant a request is assigned to.

A request is given a point in [0, 10 000) and goes to the canary when the point lies below the weight in basis points.
Without a sticky key the point is an independent uniform draw per request, which is what the verdict's statistics
assume. With one it is a keyed hash of the key, so that

* a key keeps its variant while the weight stands still (sticky),
* raising the weight only ever moves keys from stable to canary (monotone), and
* routes with different salts split independently (a new rollout can reshuffle by a new salt).
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from gateway.core.types import WEIGHT_BP_MAX, Variant

_RANGE: Final = 1 << 64
# A look at an enumeration's member costs a search through its classes.
_STABLE: Final = Variant.STABLE
_CANARY: Final = Variant.CANARY


def bucket_of_key(key: bytes, salt: str) -> float:
    """The point in [0, 10 000) of a sticky key, uniform over keys and independent between salts."""
    digest = blake2b(key, digest_size=8, key=salt.encode()[:64]).digest()
    return int.from_bytes(digest) * WEIGHT_BP_MAX / _RANGE


def variant_for(point: float, weight_bp: int) -> Variant:
    """The variant of a request at ``point`` in [0, 10 000) under ``weight_bp``."""
    return _CANARY if point < float(weight_bp) else _STABLE

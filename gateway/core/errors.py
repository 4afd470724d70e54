"""Who is to blame, and the one tree of errors.

Rules:

1. Every error knows its *blame*. Only ``UPSTREAM`` counts against a variant: a client that hangs up or a fault of the
   gateway itself must never convict a canary.
2. Every error says what is wrong, where, and how to mend it.
3. Foreign exceptions are mapped into this tree at one boundary per library.
"""

from __future__ import annotations

import difflib
import enum
from collections.abc import Iterable


class Blame(enum.StrEnum):
    """Whose fault a failed exchange is."""

    NONE = "none"
    DOWNSTREAM = "downstream"
    UPSTREAM = "upstream"
    INTERNAL = "internal"


class GatewayError(Exception):
    """Root of all errors that the gateway raises on purpose."""


class InvalidValueError(GatewayError, ValueError):
    """A value outside its domain, with the name of the value and the domain in the message."""


class EvidenceError(GatewayError):
    """Counts that cannot be true: they went backwards, more events than trials, an epoch from the future."""


class TransitionError(GatewayError):
    """An operator's wish that the rollout's present phase does not allow."""


class NotFoundError(GatewayError):
    """A route, backend or rollout that does not exist."""


class ConflictError(GatewayError):
    """A wish that contradicts something already under way."""


class JournalError(GatewayError):
    """The journal could not be read or written; serving goes on, exposure must not grow."""


def nearest(word: str, known: Iterable[str]) -> str:
    """``did you mean 'x'? `` with the nearest known word, or nothing when none is near."""
    found = difflib.get_close_matches(word[:80], list(known), n=1, cutoff=0.6)
    return f"did you mean {found[0]!r}? " if found else ""

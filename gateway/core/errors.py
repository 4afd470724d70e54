"""Who is to blame, and the one tree of errors.

Rules:

1. Every error knows its *blame*. Only ``UPSTREAM`` counts against a variant: a client that hangs up or a fault of the
   gateway itself must never convict a canary.
2. Every error says what is wrong, where, and how to fix it.
3. Foreign exceptions are mapped into this tree at one boundary per library.
"""

from __future__ import annotations

import enum


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
    """An operator's command that the rollout's phase does not allow."""


class NotFoundError(GatewayError):
    """A route, backend or rollout that does not exist."""


class ConflictError(GatewayError):
    """A command that contradicts something already under way."""


class JournalError(GatewayError):
    """The journal could not be read or written; serving goes on, exposure must not grow."""

"""What the store holds, as values, and how values are written as text and read again.

Values are JSON with the event's type in ``type``; infinities are written as Python's json does.
"""

from __future__ import annotations

import json
import math
from typing import Any, TypeVar

import msgspec

from gateway.config.stored import Stored
from gateway.core.analysis.bursts.past import StablePast
from gateway.core.analysis.types import Analysis
from gateway.core.errors import InvalidValueError
from gateway.core.rollout import Event, Rollout

T = TypeVar("T")


class JournalEntry(msgspec.Struct, frozen=True):
    """One decision: the event, the state after it, and the analysis that caused it, if one did."""

    seq: int
    rollout_id: str
    wall_time_s: float
    kind: str
    event: Event
    state: Rollout
    analysis: Analysis | None


class PastRollout(msgspec.Struct, frozen=True):
    """One rollout as lists show it: its last state and analysis, and its times; ``opened`` is the seq of its start."""

    rollout: Rollout
    analysis: Analysis | None
    started_s: float
    updated_s: float
    opened: int


def search_text(rollout: Rollout) -> str:
    """What people know a rollout by, in lower case."""
    one = rollout
    return f"{one.rollout_id} {one.route} {one.stable} {one.canary} {one.phase} {one.reason} {one.by}".lower()


def search_words(search: str) -> list[str]:
    """The words that `search_text` must have, each."""
    return search.lower().split()


class Snapshot(msgspec.Struct, frozen=True):
    """What the analysis of a rollout knew when the journal stood at ``seq``, as the bytes that were given."""

    rollout_id: str
    seq: int
    wall_time_s: float
    analysis_state: bytes
    evidence: bytes


class HandWeight(msgspec.Struct, frozen=True):
    """A weight set by hand on a route without a rollout, and the backends that it was meant for."""

    route: str
    stable: str
    canary: str
    weight_bp: int
    by: str
    wall_time_s: float


class Roles(msgspec.Struct, frozen=True):
    """The backend that promotion ``rollout_id`` made stable on a route whose configured stable is ``configured``."""

    route: str
    configured: str
    stable: str
    rollout_id: str
    wall_time_s: float


# The failure classes that never occurred, among a route's pasts.
NEVER = ""


class RoutePast(msgspec.Struct, frozen=True):
    """What the backend ``stable`` did while it was served, by failure class; those that never occurred share one."""

    stable: str = ""
    classes: dict[str, StablePast] = {}


class KeptPast(msgspec.Struct, frozen=True):
    """What is stored of one route's stable; ``damage`` says why it cannot be read."""

    route: str
    past: RoutePast | None
    damage: str = ""


class ConfigurationRevision(msgspec.Struct, frozen=True):
    """A configuration given at run time, None for what the file says; ``damage`` says why it cannot be read."""

    revision: int
    stored: Stored | None
    damage: str = ""


class KeptAnswer(msgspec.Struct, frozen=True):
    """What the request with an idempotency key was answered with. Times are wall-clock seconds."""

    principal: str
    key: str
    fingerprint: str
    status: int
    headers: dict[str, str]
    body: str
    at_s: float


class AuditEntry(msgspec.Struct, frozen=True):
    """One request: who (``principal`` is authenticated, ``actor`` is claimed), from where, what, and its result.

    ``problem`` is the name of the problem it was answered with. ``said`` is what the request asked for, in short.
    """

    id: int
    at: str
    principal: str
    actor: str
    address: str
    method: str
    path: str
    status: int
    problem: str | None = None
    said: str = ""
    suppressed: int = 0


def encoded(value: msgspec.Struct) -> str:
    """A value as a row holds it."""
    # Not msgspec.json: it writes infinities as null, which no float field can read again.
    return json.dumps(msgspec.to_builtins(value, enc_hook=_number), separators=(",", ":"))


def _number(value: Any) -> Any:
    """Turn a number of numpy's kind into Python's: a stray one in a finding must not stop a rollback's record."""
    if hasattr(value, "item"):
        return value.item()
    raise NotImplementedError(f"the journal cannot store a {type(value).__name__}")


def decoded(text: str, kind: type[T] | Any) -> T:
    """A value that `encoded` wrote. Raises ValueError or msgspec.ValidationError when it is not a ``kind``."""
    value: T = msgspec.convert(json.loads(text), kind)
    return value


def finite(wall_time_s: float) -> float:
    """A wall time that can be kept, in seconds. Raises InvalidValueError for one that is not finite."""
    if not math.isfinite(wall_time_s):
        raise InvalidValueError(f"wall_time_s must be a finite number of seconds, not {wall_time_s!r}")
    return float(wall_time_s)

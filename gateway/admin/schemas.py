"""The JSON that goes out. What comes in is in `request_schemas`; a plan is the configuration's section in both.

Rules:

1. Answers may gain fields, never lose any.
2. JSON knows no infinity and no NaN: such a number in an analysis is null.
3. Bodies that equal the control plane's views are those views. What clients read as values is declared in
   api_types.py; here is the rest.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.api_types import AnalysisBody, FindingBody, RolloutBody, RolloutList, RouteList, StoryBody
from gateway.control.journal.rows import AuditEntry
from gateway.control.views import AlarmView, BackendView, WorkerView

__all__ = [
    "AlarmList",
    "AnalysisBody",
    "AuditList",
    "BackendList",
    "FindingBody",
    "GatewayState",
    "Health",
    "HookState",
    "LabelsTaken",
    "RolloutBody",
    "RolloutList",
    "RouteList",
    "StoryBody",
    "WebhookTaken",
    "WorkerList",
    "encode",
]


class LabelsTaken(msgspec.Struct, frozen=True):
    """How many labels were taken. What became of them is in `gateway_labels_total` of the metrics."""

    accepted: int


class WebhookTaken(msgspec.Struct, frozen=True):
    """The webhook's delivery was taken, now or before."""

    accepted: bool


class WorkerList(msgspec.Struct, frozen=True):
    """The connected workers, by their index."""

    workers: tuple[WorkerView, ...]


class BackendList(msgspec.Struct, frozen=True):
    """All backends, in the order of the configuration."""

    backends: tuple[BackendView, ...]


class AlarmList(msgspec.Struct, frozen=True):
    """What is wrong right now, in the order in which it came up."""

    alarms: tuple[AlarmView, ...]


class HookState(msgspec.Struct, frozen=True):
    """What became of one hook's messages since the gateway's start; ``pending`` are owed."""

    name: str
    pending: int
    delivered: int
    dropped: int
    failed_attempts: int


class GatewayState(msgspec.Struct, frozen=True):
    """How the gateway itself is doing: readiness, whether decisions can be stored, and what is owed to hooks.

    ``table_source`` says where the routing table came from when this control process began.
    """

    ready: bool
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    state_kept: bool
    table_source: str
    version: str
    hooks: tuple[HookState, ...]


class AuditList(msgspec.Struct, frozen=True):
    """A page of the audit trail, newest first; ``next_before`` is the ``before`` of the next page, null at the end."""

    entries: tuple[AuditEntry, ...]
    next_before: int | None = None


class Health(msgspec.Struct, frozen=True):
    """The process lives."""

    alive: bool


def encode(body: Any) -> bytes:
    """JSON in UTF-8; numbers that are not finite become null."""
    return msgspec.json.encode(body)

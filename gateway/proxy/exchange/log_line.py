"""How an exchange becomes a line of the access log."""

from __future__ import annotations

from typing import Final

from gateway.core.errors import Blame
from gateway.core.stats.counts import EpochCounts
from gateway.core.traffic.table import Route
from gateway.core.types import percent_from_weight_bp
from gateway.proxy.access_log import STATUS_ABORTED, AccessLog, Line, path_text, text
from gateway.proxy.heads.field_policy import FieldPolicy
from gateway.proxy.heads.gateway_errors import Fault
from gateway.proxy.heads.request import Request

# So much of an unknown target is shown to its client.
_SHOWN_MAX: Final = 200


class LogRecord:
    """The fields of an exchange that only the access log needs: made for each one where there is a log."""

    __slots__ = (
        "attempts",
        "counted",
        "counted_us",
        "fault",
        "in_tunnel_bytes",
        "left",
        "lease_us",
        "out_bytes",
        "rescue_refused",
    )

    def __init__(self) -> None:
        self.attempts = 0
        self.lease_us = -1
        """How long the newest attempt waited for its connection; -1: it got none."""
        self.counted = ""
        """The class that was entered as evidence; empty: none was."""
        self.counted_us = -1
        """The latency that was."""
        self.left = False
        """The client left while the latency that is judged was not over."""
        self.fault = ""
        self.rescue_refused: str | None = None
        self.in_tunnel_bytes = 0
        self.out_bytes = 0


def line_of(access: AccessLog, request: Request, peer: bytes, policy: FieldPolicy, status: int) -> Line:
    """The line of a request that ends now: who asked for what."""
    line = Line(access.now(), status, client=text(peer), method=text(request.method))
    head = request.head
    if head is not None:
        line.request_id = text(policy.id_of(head.id_line))
        line.trace_id = text(head.trace_id)
    line.path = path_text(request.target if access.query else request.target.partition(b"?")[0])
    line.tunnel = status == 101
    return line


def add_route(line: Line, route: Route, evidence: EpochCounts) -> None:
    """What the route was, and under which table."""
    line.route = route.name
    line.epoch = evidence.epoch
    line.weight_percent = percent_from_weight_bp(evidence.weight_bp)
    line.stable, line.canary = route.stable, route.canary
    line.sticky = route.sticky is not None


def add_record(line: Line, record: LogRecord, fault: Fault | None) -> None:
    """What became of it: ``fault`` is the error that the client got, the record has the attempts before."""
    if line.status == STATUS_ABORTED:
        line.blame = Blame.DOWNSTREAM.value
    elif fault is not None:
        line.blame = fault.blame.value
    line.fault = fault.reason if fault is not None else record.fault or None
    if fault is not None:
        line.detail = fault.detail or None
    if record.counted:
        line.counted, line.counted_ms = record.counted, milliseconds(record.counted_us)
        line.counted_left = record.left
    line.connect_ms = milliseconds(record.lease_us)
    line.out_bytes = record.out_bytes
    line.tries = record.attempts
    line.rescue_refused = record.rescue_refused


def add_times(line: Line, began_s: float, head_s: float, now_s: float) -> None:
    """How long it took to the answer's head, if that came, and in all."""
    if head_s:
        line.first_byte_ms = round((head_s - began_s) * 1000, 3)
    if began_s:
        line.total_ms = round((now_s - began_s) * 1000, 3)


def milliseconds(us: int) -> float | None:
    """A time of a record; -1: there is none."""
    return us / 1000 if us >= 0 else None


def unrouted(request: Request) -> str:
    """The error for a request that no route matches."""
    head = request.head
    host = b"" if head is None else head.host
    return f"no route matches the path {text(request.path[:_SHOWN_MAX])!r} on the host {text(host[:_SHOWN_MAX])!r}"

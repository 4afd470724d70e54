"""How an exchange becomes a line of the access log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.core.errors import Blame
from gateway.core.types import percent_from_weight_bp
from gateway.proxy.access_log import STATUS_ABORTED, Line, Record, path_text, text
from gateway.proxy.exchange.settlement import Settlement
from gateway.proxy.heads import gateway_errors
from gateway.proxy.heads.gateway_errors import Fault

if TYPE_CHECKING:
    from gateway.proxy.heads.message_head import RequestHead

# Of a target that nobody serves this much is shown to the client that asked for it.
_SHOWN_MAX: Final = 200


def milliseconds(us: int) -> float | None:
    """A time of a record; -1: there is none."""
    return us / 1000 if us >= 0 else None


class Logged(Settlement):
    """The part of an exchange that writes its line."""

    __slots__ = ("_head", "_path", "_target")

    _head: RequestHead
    _target: bytes
    _path: bytes

    def _log(self, record: Record, status: int, *, failed: bool) -> None:
        """Write the request's line. Called once, at its end."""
        access = self._worker.access
        if access is None:
            return
        line = Line(access.now(), status, client=text(self._downstream.peer), method=text(self.method))
        head = self._head_if_read
        if head is not None:
            line.request_id = text(self._worker.fields.id_of(head.id_line))
            line.trace_id = text(head.trace_id)
        line.path = path_text(self._target if access.query else self._target.partition(b"?")[0])
        if self.tally is not None:
            self._log_choice(line)
        elif self.route is not None:  # refused before it was sent anywhere
            line.route = self.route.name
        fault = self.fault
        if status == STATUS_ABORTED:
            line.blame = Blame.DOWNSTREAM.value
        elif fault is not None:
            line.blame = fault.blame.value
        line.fault = fault.reason if fault is not None else record.fault
        if fault is not None:
            line.detail = fault.detail or None
        if record.counted:
            line.counted, line.counted_ms = record.counted, milliseconds(record.counted_us)
            line.counted_left = record.left
        line.connect_ms = milliseconds(record.lease_us)
        if self._first_byte_s:
            line.first_byte_ms = round((self._first_byte_s - self._duration_from_s) * 1000, 3)
        if self._duration_from_s:
            line.total_ms = round((self._worker.now_s() - self._duration_from_s) * 1000, 3)
        line.in_bytes = self.request_body.received + record.in_tunnel_bytes
        line.out_bytes = record.out_bytes
        line.tries = record.tries
        line.rescued, line.forced = self.rescued, self.forced
        line.rescue_refused = record.rescue_refused
        line.tunnel = status == 101
        access.write(line, failed=failed or self.rescued)

    def _detail(self, fault: Fault) -> str:
        if fault is not gateway_errors.NO_ROUTE:
            return ""
        host, path = text(self._head.host[:_SHOWN_MAX]), text(self._path[:_SHOWN_MAX])
        return f"no route matches the path {path!r} on the host {host!r}"

    def _named(self) -> bytes:
        head = self._head_if_read
        return b"" if head is None else head.id_line

    @property
    def _head_if_read(self) -> RequestHead | None:
        """None for a request that was refused before its head was read."""
        return self._head

    def _log_choice(self, line: Line) -> None:
        tally, route = self.tally, self.route
        assert tally is not None  # the caller has looked
        line.route = route.name
        line.assigned, line.variant = self.assigned.label, self.variant.label
        line.epoch = tally.evidence.epoch
        line.weight_percent = percent_from_weight_bp(tally.evidence.weight_bp)
        line.stable, line.canary = route.stable, route.canary
        line.backend = route.canary if self.variant else route.stable
        line.sticky = route.sticky is not None

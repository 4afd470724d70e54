"""What few requests ask for: a protocol upgrade, trailers, leave to send their body, an end to being forwarded.

Rules:

1. An exchange has an `Extra` only when its head asks for one of these; all others pay a look at an attribute.
2. **Upgrade** (RFC 9110, 7.8). Passed on only for a protocol that the route allows, for a request of HTTP/1.1 without a
   body; the client's connection then ends with the exchange, whatever the answer, since what follows the request may
   be of either protocol. The tunnel begins after a 101 that names the very protocol; its handshake is the outcome.
   Any other wish to upgrade is not passed on, and the request is served as if it had not been there.
3. **Trailers** (trailers.py) pass only where the client said ``TE: trailers``.
4. **Expect: 100-continue** (RFC 9110, 10.1.1). Passed on; the backend's 100 is the client's leave. A backend that says
   nothing does not know the expectation: after a moment the gateway gives the leave itself. A final answer instead is
   passed on, and the connection ends.
5. **Max-Forwards** (RFC 9110, 7.6.2) counts down on OPTIONS; at 0 the gateway is the last recipient and says so.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from gateway.core.traffic.table import HALF_CLOSE_S
from gateway.proxy.access_log import Record
from gateway.proxy.exchange.log_line import Logged
from gateway.proxy.heads import gateway_errors, headers, trailers
from gateway.proxy.heads.gateway_errors import Fault
from gateway.proxy.heads.message_head import RawHeaders, RequestHead
from gateway.proxy.heads.response_head import read_response

if TYPE_CHECKING:
    from gateway.proxy.http1.client_connection import UpstreamConnection
    from gateway.proxy.http1.tunnel import Tunnel

# How long a client waits for leave to send its body that its backend does not give.
_CONTINUE_S: Final = 0.5
_NO_WEIGHT: Final = re.compile(rb"q=0(?:\.0{0,3})?")
_NUMBER: Final = re.compile(rb"[0-9]{1,9}\Z")
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Extra:
    """What one such exchange has to remember. ``upgrade`` is the protocol that was passed on, in lower case."""

    __slots__ = (
        "announced",
        "awaits_continue",
        "may_switch",
        "record",
        "switched",
        "takes_trailers",
        "to_client",
        "trailers_in",
        "trailers_out",
        "upgrade",
        "upgrades",
    )

    def __init__(self) -> None:
        self.upgrades: list[bytes] = []
        self.upgrade = b""
        self.may_switch = False
        self.switched = False
        self.to_client = b""
        self.takes_trailers = False
        self.announced: list[bytes] = []
        self.trailers_in: list[tuple[bytes, bytes]] = []
        self.trailers_out: list[tuple[bytes, bytes]] = []
        self.awaits_continue = False
        self.record: Record | None = None


class Extras(Logged):
    """The part of an exchange that few need."""

    __slots__ = ("_extra",)

    _extra: Extra | None

    def _admit_extras(self, head: RequestHead) -> None:
        """Look at what the head asks for."""
        rare = head.rare
        if rare is not None and rare.max_forwards is not None:
            self._limit_forwards(rare.max_forwards)
        if self._version != "1.1":
            return
        extra = Extra()
        if rare is not None:
            extra.takes_trailers = any(_accepts_trailers(value) for value in rare.te)
            extra.announced = rare.trailer
            extra.upgrades = [token for value in rare.upgrade for token in _tokens(value)]
        if extra.takes_trailers or extra.upgrades or head.expects_continue:
            self._extra = extra

    def asks_to_switch(self) -> bool:
        """Connection nominates Upgrade (llhttp has looked). False for a request with a body: see `reframe`."""
        if self.fault is not None:
            # How the rest is framed does not matter any more, as long as nobody reads it.
            self._keep_alive = False
            return True
        if self._head.chunked or self._head.content_length:
            return False
        if self._extra is not None:
            self._extra.may_switch = True
        return True

    @property
    def ends_with_half_close(self) -> bool:
        """Whether a client that ends its sending side has given up this request."""
        if self.tally is None:
            return False
        whole_for_s = self._worker.now_s() - self._asked_s if self.request_body.complete else 0.0
        return whole_for_s >= self.route.half_close_s

    @property
    def may_be_asked(self) -> bool:
        """Whether an interim answer may be sent to find out if the client is still there."""
        begun = self.tally is None or self._relayed
        return not begun and self._version == "1.1" and self.route.half_close_s <= HALF_CLOSE_S

    @property
    def refused_unread(self) -> bool:
        """Whether the backend has answered with a refusal, and may not have read the request's body."""
        return self._status >= 400 and self.request_body.received > 0

    @property
    def may_be_resent(self) -> bool:
        """Whether the request can be sent again, should a kept connection turn out to be stale."""
        return self.route.rescue.replayable

    @property
    def wants_fresh(self) -> bool:
        """Whether it has met a stale connection, and wants no kept one again."""
        return self._fresh_tried

    @property
    def body_length(self) -> int | None:
        """The length of the request's body; None for one in chunks."""
        return self._head.content_length

    def _limit_forwards(self, value: bytes) -> None:
        if self.method != b"OPTIONS":
            self._head.lines.append(b"max-forwards: %b\r\n" % value)
        elif _NUMBER.match(value) is None:
            self.fault = gateway_errors.BAD_REQUEST
        elif int(value) == 0:
            self.fault = gateway_errors.LAST_RECIPIENT
        else:
            self._head.lines.append(b"max-forwards: %d\r\n" % (int(value) - 1))

    def _extra_lines(self, extra: Extra, *, body_here: bool) -> bytes:
        """The lines that a try's head has besides, for the present route."""
        options: list[bytes] = []
        lines: list[bytes] = []
        allowed = self.route.upgrades
        wishes = extra.upgrades if extra.may_switch else ()
        extra.upgrade = next((wish for wish in wishes if wish.decode("latin-1") in allowed), b"")
        extra.switched = False
        extra.trailers_out.clear()
        if extra.upgrade:
            self._keep_alive = False
            options.append(b"upgrade")
            lines.append(b"upgrade: %b\r\n" % extra.upgrade)
        if extra.takes_trailers:
            options.append(b"te")
            lines.append(b"te: trailers\r\n")
            if self._head.chunked:
                lines += [b"trailer: %b\r\n" % value for value in extra.announced]
        if options:
            lines.append(b"connection: %b\r\n" % b", ".join(options))
        if self._head.expects_continue and not body_here:
            extra.awaits_continue = True
            lines.append(b"expect: 100-continue\r\n")
        return b"".join(lines)

    # leave to send the body

    def _await_continue(self, now_s: float) -> None:
        self._set_deadline_at(now_s + min(_CONTINUE_S, self.route.timeouts.first_byte_s), gateway_errors.NO_CONTINUE)

    def give_leave(self) -> None:
        """Let the client send its body."""
        extra = self._extra
        if extra is not None and extra.awaits_continue:
            extra.awaits_continue = False
            self._head.expects_continue = False
            if self.request_body.received or self.request_body.complete:
                return  # it did not wait
            self._downstream.write(CONTINUE)
            self._set_deadline(self.route.timeouts.idle_s, gateway_errors.BODY_TIMEOUT)

    # trailers

    def request_trailer(self, name: bytes, value: bytes) -> bool:
        """A field behind the request's body; False when there are too many."""
        return self._trailer(None if self._extra is None else self._extra.trailers_in, name, value)

    def response_trailer(self, name: bytes, value: bytes) -> bool:
        """A field behind the response's body; False when there are too many."""
        return self._trailer(None if self._extra is None else self._extra.trailers_out, name, value)

    def _trailer(self, kept: list[tuple[bytes, bytes]] | None, name: bytes, value: bytes) -> bool:
        if kept is None or self._extra is None or not self._extra.takes_trailers:
            self._worker.counts.trailers_dropped += 1
            return True
        kept.append((name, value))
        return len(kept) <= self._worker.limits.header_fields_max

    def _last_chunk(self, fields: list[tuple[bytes, bytes]]) -> bytes:
        lines = trailers.permitted(fields)
        self._worker.counts.trailers_passed += len(lines)
        self._worker.counts.trailers_dropped += len(fields) - len(lines)
        return trailers.last_chunk(lines)

    # upgrade

    def upstream_agrees(self, fields: RawHeaders) -> bool:
        """A 101 has come: whether it is the one that was asked for."""
        extra = self._extra
        if extra is None or not extra.upgrade:
            return False
        named = [value for name, value in fields if name.lower() == b"upgrade"]
        options = [token for name, value in fields if name.lower() == b"connection" for token in _tokens(value)]
        if len(named) != 1 or named[0].strip().lower() != extra.upgrade or b"upgrade" not in options:
            return False
        head = read_response(fields, self._worker.fields)
        if isinstance(head, Fault):
            return False
        extra.switched = True
        lines = (*head.lines, b"connection: upgrade\r\nupgrade: ", named[0], b"\r\n", self._head.id_line)
        extra.to_client = b"HTTP/1.1 101 Switching Protocols\r\n" + b"".join(lines)
        return True

    @property
    def switched(self) -> bool:
        """Whether the backend has agreed to another protocol."""
        return self._extra is not None and self._extra.switched

    def upstream_switched(self, connection: UpstreamConnection, rest: bytes) -> None:
        """From here on it is a tunnel; ``rest`` is what already came of it."""
        extra = self._extra
        assert extra is not None  # only who asked is switched
        self._first_byte_s = self._worker.now_s()
        self._status = 101
        self._relayed = True
        self._connection = None
        self._worker.counts.tunnels += 1
        self._worker.counts.tunnels_open += 1
        variant = b"%b: %b\r\n\r\n" % (headers.VARIANT_HEADER, self.variant.label.encode())
        connection.exchange = None
        self._downstream.begin_tunnel(self, connection, extra.to_client + variant, rest)
        self._completed()

    def tunnel_ended(self, tunnel: Tunnel) -> None:
        """Both ends are gone: the request's line can be written."""
        self._worker.counts.tunnels_open -= 1
        extra = self._extra
        if extra is not None and extra.record is not None:
            extra.record.in_tunnel_bytes = tunnel.downstream.moved_bytes
            extra.record.out_bytes += tunnel.upstream.moved_bytes
            super()._log(extra.record, 101, failed=False)

    def _log(self, record: Record, status: int, *, failed: bool) -> None:
        if self._extra is not None and self._extra.switched:
            self._extra.record = record  # its line waits for the tunnel's end
        else:
            super()._log(record, status, failed=failed)


def _tokens(value: bytes) -> list[bytes]:
    return [token.partition(b";")[0].strip().lower() for token in value.split(b",")]


def _accepts_trailers(te: bytes) -> bool:
    """Whether a TE field accepts trailers: a weight of zero declines them (RFC 9110, 10.1.4 and 12.4.2).

    >>> [_accepts_trailers(te) for te in (b"trailers", b"gzip, Trailers;q=0.1", b"trailers;q=0", b"trailers; Q=0.000")]
    [True, True, False, False]
    """
    for coding in te.split(b","):
        name, _, parameters = coding.partition(b";")
        if name.strip().lower() == b"trailers":
            return _NO_WEIGHT.fullmatch(parameters.strip().lower()) is None
    return False

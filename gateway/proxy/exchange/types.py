"""The interfaces between an exchange, its attempts and its client: small abstract classes (upstream/types.py)."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Callable

from gateway.proxy.context import OpenConnection, OpenExchange
from gateway.proxy.exchange.request_body import RequestBody
from gateway.proxy.exchange.trailers import Trailers
from gateway.proxy.exchange.upgrade import Upgrade
from gateway.proxy.heads.gateway_errors import Fault
from gateway.proxy.heads.message_head import RawHeaders, ResponseHead
from gateway.proxy.heads.request import Request
from gateway.proxy.routes.route_runtime import RouteRuntime
from gateway.proxy.upstream.types import UpstreamConnection

TunnelEnded = Callable[[int, int], None]
"""Both ends are gone; so many bytes came from the client, and went to it."""


class Settling(OpenExchange):
    """The delivery's view of its exchange: its times and its deadline, and how it ends."""

    __slots__ = ("asked_s", "began_s")

    def __init__(self) -> None:
        super().__init__()
        self.began_s = 0.0
        """When its turn came."""
        self.asked_s = 0.0
        """Since when an answer is waited for: its turn, or the end of its body."""

    @abstractmethod
    def wait(
        self, phase: int, route: RouteRuntime, limit_s: float, now_s: float, *, whole: bool, blocked: bool
    ) -> None:
        """Set the deadline of this phase (deadlines.py). ``limit_s`` is the present attempt's for its first byte."""

    @abstractmethod
    def answer(self, fault: Fault) -> None:
        """Answer with the error, or cut the answer that has begun; and settle."""

    @abstractmethod
    def settle(self, status: int, *, keep: bool, cut: bool = False) -> None:
        """It is over, with this status. ``keep``: the client's connection may go on."""

    @abstractmethod
    def tunnel_ended(self, from_client_bytes: int, to_client_bytes: int) -> None:
        """Both ends of the tunnel that it became are gone."""


class AttemptOwner(metaclass=ABCMeta):
    """Who makes attempts and takes their answers: the delivery of an exchange.

    A copy of a request whose answer goes nowhere would be another.
    """

    __slots__ = ("body", "request", "trailers", "upgrade")

    def __init__(self, request: Request, body: RequestBody, upgrade: Upgrade | None, trailers: Trailers | None) -> None:
        self.request = request
        """What is sent, with ``body``."""
        self.body = body
        self.upgrade = upgrade
        self.trailers = trailers

    @abstractmethod
    def attempt_queued(self) -> None:
        """The attempt waits for a connection."""

    @abstractmethod
    def attempt_connected(self, connection: UpstreamConnection, now_s: float) -> None:
        """The attempt has a connection: send the request."""

    @abstractmethod
    def attempt_refused(self, fault: Fault) -> None:
        """The attempt got no connection."""

    @abstractmethod
    def attempt_failed(self, fault: Fault) -> None:
        """The attempt came to nothing; its connection is given back or gone."""

    @abstractmethod
    def attempt_stale(self) -> None:
        """The kept connection had been closed by the backend, before any of the answer came."""

    @abstractmethod
    def attempt_blocked(self) -> None:
        """The backend takes no more of the request for now."""

    @abstractmethod
    def attempt_unblocked(self) -> None:
        """The backend takes more."""

    @abstractmethod
    def answer_interim(self, status: int, reason: bytes, fields: RawHeaders) -> None:
        """An interim answer has come."""

    @abstractmethod
    def answer_switches(self, fields: RawHeaders) -> bool:
        """A 101 has come: whether it is the one that was asked for."""

    @abstractmethod
    def answer_switched(self, connection: UpstreamConnection, rest: bytes) -> None:
        """The backend has switched protocols; ``rest`` is what came of the new one."""

    @abstractmethod
    def answer_head(self, reason: bytes, head: ResponseHead, *, bodyless: bool) -> None:
        """The answer's head has come; its status is the attempt's."""

    @abstractmethod
    def answer_body(self, piece: bytes) -> None:
        """A piece of the answer's body has come."""

    @abstractmethod
    def answer_trailer(self, name: bytes, value: bytes) -> bool:
        """A field behind the answer's body; False when there are too many."""

    @abstractmethod
    def answer_read(self, fault: Fault | None, *, complete: bool) -> None:
        """All that came at once has been looked at: pass it on, and act on its end."""

    @abstractmethod
    def answer_ended(self) -> None:
        """The connection's end was the answer's."""

    @abstractmethod
    def answer_is_long(self) -> None:
        """What the client does not take is to be kept in small measure from now on."""


class Downstream(OpenConnection):
    """The client's side of one exchange at a time: takes the answer apart into bytes, and says how to send them.

    ``stalled``: the client takes no more of the answer for now.
    """

    __slots__ = ("peer", "stalled", "tls", "trusted")

    def __init__(self) -> None:
        super().__init__()
        self.peer = b""
        self.trusted = False
        self.tls = False
        self.stalled = False

    @property
    @abstractmethod
    def last(self) -> bool:
        """Whether the exchange whose turn it is will be the connection's last one."""

    @abstractmethod
    def write_interim(self, status: int, reason: bytes, lines: list[bytes]) -> None:
        """Pass an interim answer on."""

    @abstractmethod
    def write_continue(self) -> None:
        """Let the client send its body."""

    @abstractmethod
    def write_head(
        self,
        request: Request,
        status: int,
        reason: bytes,
        head: ResponseHead,
        lines: bytes,
        *,
        bodyless: bool,
        trailers: bool,
    ) -> None:
        """Begin the answer to ``request``; ``lines`` are further ones of its head. Nothing goes out before `flush`.

        ``trailers``: the client takes them.
        """

    @abstractmethod
    def write_body(self, piece: bytes) -> None:
        """A piece of the answer's body."""

    @abstractmethod
    def write_end(self, trailers: list[bytes]) -> None:
        """The answer's body is whole, with these trailer lines behind it."""

    @abstractmethod
    def flush(self) -> int:
        """Send what was written since; returns how many bytes that were."""

    @abstractmethod
    def discard(self) -> None:
        """Drop what was written and not flushed: it is not going to be the answer."""

    @abstractmethod
    def write_problem(
        self, fault: Fault, *, keep: bool, head_only: bool = False, detail: str = "", lines: bytes = b""
    ) -> int:
        """Send an answer of the gateway's own; returns its size. ``lines`` are further ones of its head."""

    @abstractmethod
    def pause_reading(self) -> None:
        """Read no more from the client until `resume_reading`."""

    @abstractmethod
    def resume_reading(self) -> None:
        """Read on."""

    @abstractmethod
    def keep_unsent_small(self) -> None:
        """Keep little of what the client does not take."""

    @abstractmethod
    def begin_tunnel(
        self, connection: UpstreamConnection, head: bytes, rest: bytes, idle_s: float, ended: TunnelEnded
    ) -> None:
        """Send ``head`` and ``rest``, and pass on what either side sends from now on."""

    @abstractmethod
    def exchange_done(self, exchange: Settling, *, keep: bool, cut: bool) -> None:
        """An exchange has settled. ``keep``: the connection may go on; ``cut``: the answer could not be completed."""

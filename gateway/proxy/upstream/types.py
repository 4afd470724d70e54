"""The interfaces between a pool, its connections and their users: small abstract classes, and no protocol.

Rules:

1. A codec (http1/) turns bytes into calls on an `UpstreamUser`, and its user's calls into bytes. Neither a pool nor an
   exchange knows which codec it is: a second one implements `UpstreamConnection`.
2. They are native classes and no typing.Protocol: compiled, a call on one costs no more than one look-up in a table
   (docs/decisions/0014). So each of their implementations has one base.
"""

from __future__ import annotations

import asyncio
from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from typing import Final

from gateway.proxy.heads.gateway_errors import Fault
from gateway.proxy.heads.message_head import RawHeaders, ResponseHead
from gateway.proxy.heads.request import Request

# What a user waits for at a pool.
NOTHING: Final = 0
UPLOAD_SHARE: Final = 1  # one of the connections that uploads may have
CONNECTION: Final = 2


class UpstreamUser(metaclass=ABCMeta):
    """Who asks for a connection and reads one answer on it: an attempt of an exchange.

    ``waits_for`` and ``has_share`` (of the connections for uploads) are the pool's to set.
    """

    __slots__ = (
        "connect_s",
        "has_share",
        "head_only",
        "resendable",
        "since_s",
        "uploading",
        "waits_for",
        "wants_fresh",
    )

    def __init__(self, since_s: float, connect_s: float, *, resendable: bool, uploading: bool, head_only: bool) -> None:
        self.since_s = since_s
        """Since when it is under way."""
        self.connect_s = connect_s
        """How long a connection may take to come about."""
        self.resendable = resendable
        """Whether its request can be sent again, should a kept connection turn out to be stale."""
        self.wants_fresh = False
        """It had a stale connection, and must get a new one."""
        self.uploading = uploading
        """The body of its request is still coming."""
        self.head_only = head_only
        """Its answer has no body whatever the head says: it asked with HEAD."""
        self.waits_for = NOTHING
        self.has_share = False

    # from the pool

    @abstractmethod
    def leased(self, connection: UpstreamConnection) -> None:
        """Here is the connection that was waited for."""

    @abstractmethod
    def refused(self, fault: Fault) -> None:
        """There is no connection to be had."""

    @abstractmethod
    def queued(self) -> None:
        """It has a share for its upload now, and waits for a connection."""

    # from the connection, in the order of an answer

    @abstractmethod
    def on_interim(self, status: int, reason: bytes, fields: RawHeaders) -> None:
        """An interim answer (1xx) other than 101."""

    @abstractmethod
    def may_switch(self, fields: RawHeaders) -> bool:
        """A 101 has come with these fields: whether it is the one that was asked for."""

    @abstractmethod
    def on_switched(self, rest: bytes) -> None:
        """The connection speaks another protocol from here on; ``rest`` is what came of it already."""

    @abstractmethod
    def on_head(self, status: int, reason: bytes, head: ResponseHead, *, bodyless: bool) -> None:
        """The head is whole and sound; nothing is written before `on_read`."""

    @abstractmethod
    def on_body(self, piece: bytes) -> None:
        """A piece of the body, without framing."""

    @abstractmethod
    def on_trailer(self, name: bytes, value: bytes) -> bool:
        """A field behind the body; False when there are too many."""

    @abstractmethod
    def on_read(self, fault: Fault | None, *, complete: bool) -> None:
        """All that came at once has been parsed: act on it."""

    @abstractmethod
    def on_long_answer(self) -> None:
        """The answer is long: what the client does not take is to be kept in small measure."""

    @abstractmethod
    def on_end(self) -> None:
        """The connection is gone, which ends a body that nothing else delimits."""

    @abstractmethod
    def on_lost(self, fault: Fault) -> None:
        """The connection is gone before the answer was whole."""

    @abstractmethod
    def on_blocked(self) -> None:
        """The backend takes no more of the request for now."""

    @abstractmethod
    def on_unblocked(self) -> None:
        """The backend takes more."""

    @property
    @abstractmethod
    def refused_unread(self) -> bool:
        """Whether the backend has answered with a refusal, and may not have read the request's body."""


class UpstreamConnection(metaclass=ABCMeta):
    """A connection to an endpoint, leased or idle. ``user`` is who leases it, None when idle or draining."""

    __slots__ = ("address", "closing", "draining", "idle_since_s", "reused", "transport", "user")

    def __init__(self) -> None:
        self.address = ""
        """What the endpoint's name led to when the connection was made."""
        self.transport: asyncio.Transport | None = None
        self.user: UpstreamUser | None = None
        self.reused = False
        self.closing = False
        self.draining = False
        self.idle_since_s = 0.0

    @property
    @abstractmethod
    def usable(self) -> bool:
        """Whether it may be leased: its end has not been seen."""

    @property
    @abstractmethod
    def readable(self) -> bool:
        """Whether something has come on an idle connection that the loop has not looked at yet: most likely its end."""

    @abstractmethod
    def send(
        self,
        user: UpstreamUser,
        request: Request,
        host: bytes,
        lines: bytes,
        pieces: list[bytes],
        size: int,
        trailers: list[bytes] | None,
    ) -> None:
        """Lease it to ``user`` and write the request's head, with further ``lines``, and these pieces of its body.

        ``size`` is that of all pieces; ``trailers`` end the body, None: more of it comes.
        """

    @abstractmethod
    def send_body(self, piece: bytes) -> None:
        """Write one more piece of the body."""

    @abstractmethod
    def send_end(self, trailers: list[bytes]) -> None:
        """The body is whole."""

    @abstractmethod
    def detach(self, *, sent: bool, drain: bool = False) -> None:
        """Its user needs no more of the answer. ``sent``: the request was written to its end.

        ``drain`` reads a small rest of the answer so that the connection lives.
        """

    @abstractmethod
    def end_drain(self) -> None:
        """Wait no longer for the rest of an answer that nobody wants."""

    @abstractmethod
    def pause_reading(self) -> None:
        """Read no more of the answer until `resume_reading`."""

    @abstractmethod
    def resume_reading(self) -> None:
        """Read on."""

    @abstractmethod
    def close(self) -> None:
        """Close at once, dropping what was not sent."""

    @abstractmethod
    def tunnel_lost(self, exc: Exception | None) -> None:
        """The connection was a tunnel's, and is gone."""


class ConnectionOwner(metaclass=ABCMeta):
    """The callbacks of a connection to its pool."""

    __slots__ = ()

    @abstractmethod
    def release(self, connection: UpstreamConnection, *, reusable: bool) -> None:
        """Its user is done with it."""

    @abstractmethod
    def drain(self, connection: UpstreamConnection) -> None:
        """It reads the rest of an unwanted answer, for a while."""

    @abstractmethod
    def unleased(self) -> None:
        """A connection was lost while it was leased; `closed` follows."""

    @abstractmethod
    def closed(self, connection: UpstreamConnection) -> None:
        """Its socket is gone. Called exactly once per connection that was made."""


Connect = Callable[[ConnectionOwner], UpstreamConnection]
"""Makes the protocol of a new connection."""

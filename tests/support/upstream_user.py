"""Somebody who asks a pool for a connection, and only remembers what comes of it."""

from __future__ import annotations

from gateway.proxy.heads.gateway_errors import Fault
from gateway.proxy.heads.message_head import RawHeaders, ResponseHead
from gateway.proxy.upstream.types import CONNECTION, UpstreamConnection, UpstreamUser


class Asking(UpstreamUser):
    """``got`` are its connections, ``faults`` what it was refused for, ``said`` what a connection called, in order."""

    def __init__(self, *, resendable: bool = True, uploading: bool = False, fresh: bool = False) -> None:
        super().__init__(0.0, 5.0, resendable=resendable, uploading=uploading, head_only=False)
        self.wants_fresh = fresh
        self.got: list[UpstreamConnection] = []
        self.faults: list[Fault] = []
        self.said: list[str] = []

    @classmethod
    def in_line(cls) -> Asking:
        """One whose connection is in the making."""
        asking = cls()
        asking.waits_for = CONNECTION
        return asking

    def leased(self, connection: UpstreamConnection) -> None:
        """Remember."""
        self.got.append(connection)

    def refused(self, fault: Fault) -> None:
        """Remember."""
        self.faults.append(fault)

    def queued(self) -> None:
        """Remember."""
        self.said.append("queued")

    def on_interim(self, status: int, reason: bytes, fields: RawHeaders) -> None:
        """Remember."""
        self.said.append(f"interim {status}")

    def may_switch(self, fields: RawHeaders) -> bool:
        """It never asked."""
        return False

    def on_switched(self, rest: bytes) -> None:
        """Remember."""
        self.said.append("switched")

    def on_head(self, status: int, reason: bytes, head: ResponseHead, *, bodyless: bool) -> None:
        """Remember."""
        self.said.append(f"head {status}")

    def on_body(self, piece: bytes) -> None:
        """Remember."""
        self.said.append(f"body {piece.decode()}")

    def on_trailer(self, name: bytes, value: bytes) -> bool:
        """There may be any number."""
        self.said.append(f"trailer {name.decode()}")
        return True

    def on_read(self, fault: Fault | None, *, complete: bool) -> None:
        """Remember."""
        self.said.append(fault.reason if fault else "complete" if complete else "read")

    def on_long_answer(self) -> None:
        """Remember."""
        self.said.append("long")

    def on_end(self) -> None:
        """Remember."""
        self.said.append("end")

    def on_lost(self, fault: Fault) -> None:
        """Remember."""
        self.said.append(f"lost {fault.reason}")

    def on_blocked(self) -> None:
        """Remember."""
        self.said.append("blocked")

    def on_unblocked(self) -> None:
        """Remember."""
        self.said.append("unblocked")

    @property
    def refused_unread(self) -> bool:
        """It has no body."""
        return False

"""What every receiver of hooks is, and how it fails: webhook.py and command.py are the two kinds.

Rules:

1. Delivered means a 2xx response, or a command that exits with status 0, in time. Anything else may be tried again,
   except a 410: the receiver says that it is gone for good.
"""

from __future__ import annotations

from typing import Protocol

from gateway.hooks.envelope import Message


class NotDeliveredError(Exception):
    """An attempt failed. ``again`` says whether another may succeed, ``after_s`` when the receiver wants it."""

    def __init__(self, why: str, *, again: bool = True, after_s: float = 0.0) -> None:
        super().__init__(why)
        self.again = again
        self.after_s = after_s


class Receiver(Protocol):
    """Where messages go."""

    async def deliver(self, message: Message) -> None:
        """Deliver, or raise NotDeliveredError."""

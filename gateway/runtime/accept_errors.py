"""Accepting without descriptors: said once a minute.

asyncio goes on accepting after it has failed for want of descriptors, once for each place in the listen queue, and logs
each failure with a traceback: two thousand a second. That buries the log, and keeps the loop busy, of a process that is
in need already.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

_MESSAGE: Final = "socket.accept() out of system resource"
_EVERY_S: Final = 60.0
_log = logging.getLogger("gateway.accept")


def say_accept_errors_once(loop: asyncio.AbstractEventLoop) -> None:
    """Be this loop's exception handler; all else is logged as by default."""
    said_s = -_EVERY_S

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal said_s
        if context["message"] != _MESSAGE:
            loop.default_exception_handler(context)
        elif loop.time() - said_s >= _EVERY_S:
            said_s = loop.time()
            _log.error("accept: new connections wait: %s; raise the limit of open files", context["exception"])

    loop.set_exception_handler(handle)

"""Telling systemd how the service is doing (sd_notify(3)): a datagram to the socket that ``NOTIFY_SOCKET`` names.

Where there is none, nothing is sent: the gateway runs the same under any other supervisor. States that are used:
``READY=1``, ``RELOADING=1`` with ``MONOTONIC_USEC``, ``STOPPING=1``, ``WATCHDOG=1`` and ``STATUS=`` for people.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping


def notify(*states: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send the states; False without a receiver. Never raises."""
    name = environ.get("NOTIFY_SOCKET", "")
    # A name that begins with @ is in the abstract name space, which the kernel writes with a NUL.
    if not name.startswith(("/", "@")):
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.sendto("\n".join(states).encode(), "\0" + name[1:] if name[0] == "@" else name)
    except OSError:
        return False
    return True


def reloading() -> tuple[str, str]:
    """The states that announce a reload; ``READY=1`` ends it."""
    return "RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"


def watchdog_interval_s(environ: Mapping[str, str] = os.environ) -> float | None:
    """How often to send ``WATCHDOG=1``: twice in the time that systemd allows; None when it does not watch."""
    try:
        allowed_us = int(environ.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    if allowed_us <= 0 or environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return allowed_us / 2e6

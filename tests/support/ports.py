"""A port for what needs one in advance: two processes with the same, or a program that does not print its own."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path


def free_port() -> int:
    """A port that is free, and that the kernel gives to nobody who does not ask for this very one."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    while True:
        port = random.randrange(10_000, first)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port

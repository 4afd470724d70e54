"""The listening sockets: bound here, or inherited from whoever started the gateway (``--fd``, systemd).

Rules:

1. Bound by us: one SO_REUSEPORT socket per worker, so that the kernel spreads connections evenly. The first bind is
   exclusive, so that a port in use is said at once.
2. Inherited: one socket, shared by all workers. Whoever holds it keeps its queue through restarts of the gateway.
3. systemd's protocol (sd_listen_fds(3)): LISTEN_PID is our process id, LISTEN_FDS how many, from descriptor 3 on. The
   first is the listener for requests, the second, if there is one, the admin's.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

BACKLOG = 2048
_FIRST_INHERITED = 3


def listen(host: str, port: int, count: int) -> list[socket.socket]:
    """``count`` listening sockets on one address; the kernel spreads connections over them (SO_REUSEPORT).

    Raises OSError with the address in ``filename``.
    """
    listeners: list[socket.socket] = []
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # Sharing the port among our own sockets would also let a second gateway in; so the first bind is exclusive.
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            bound = probe.getsockname()
        for _ in range(count):
            listener = socket.socket(family)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if count > 1:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(bound)
            listener.listen(BACKLOG)
            listeners.append(listener)
    except OSError as error:
        for listener in listeners:
            listener.close()
        reason = error.strerror or str(error)
        raise OSError(
            error.errno,
            f"cannot listen ({reason})",
            f"{host}:{port}: stop what listens there, or choose another address",
        ) from error
    return listeners


def inherited(fd: int) -> socket.socket:
    """The listening socket that this process was given as descriptor ``fd``.

    Raises OSError, with the descriptor in ``filename``, when it is not a listening TCP socket.
    """
    try:
        listener = socket.socket(fileno=fd)
        if listener.type != socket.SOCK_STREAM or listener.family not in (socket.AF_INET, socket.AF_INET6):
            listener.detach()
            raise OSError(0, "it is not a TCP socket")
        if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            listener.detach()
            raise OSError(0, "it does not listen")
    except OSError as error:
        problem = f"cannot use the inherited descriptor ({error.strerror})"
        raise OSError(error.errno, problem, f"{fd}: give a listening TCP socket") from error
    return listener


def from_systemd(environ: Mapping[str, str]) -> list[int]:
    """The descriptors that systemd passed to this very process; none when it was not started through a socket unit."""
    try:
        if int(environ.get("LISTEN_PID", "0")) != os.getpid():
            return []
        count = int(environ.get("LISTEN_FDS", "0"))
    except ValueError:
        return []
    return list(range(_FIRST_INHERITED, _FIRST_INHERITED + count))


def address_of(listener: socket.socket) -> str:
    """``host:port`` of a listening socket, IPv6 in brackets."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

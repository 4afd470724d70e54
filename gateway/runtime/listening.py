"""The listening sockets: bound here, or inherited from the parent process (``--fd``, systemd).

Rules:

1. Bound by us: one SO_REUSEPORT socket per worker, so that the kernel spreads connections evenly. The first bind is
   exclusive, so that a port in use is said at once.
2. Inherited: one socket, shared by all workers. What holds it keeps its queue through restarts of the gateway.
3. systemd's protocol (sd_listen_fds(3)): LISTEN_PID is our process id, LISTEN_FDS how many, from descriptor 3 on. The
   first is the listener for requests, the second, if there is one, the admin's.
4. A Unix socket (the admin's alone) has mode 0600: access to the file is access to the API. One that a dead gateway
   left is replaced, one with a listener is not.
5. Where the gateway before this one was killed, its processes may hold an address for a moment longer, whether or not
   they can be seen (orphans.py): the kernel closes the sockets of a process after it has hidden them. So an address
   that is in use is tried again for a while then; otherwise that is an error at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
BACKLOG = 2048
_AGAIN_S = 0.02
_FIRST_INHERITED = 3


def listen(host: str, port: int, count: int, wait_until_s: float = 0.0) -> list[socket.socket]:
    """``count`` listening sockets on one address; the kernel spreads connections over them (SO_REUSEPORT).

    An address that is in use is tried again until ``wait_until_s`` (monotonic; rule 5). Raises OSError with the address
    in ``filename``.
    """
    return _while_in_use(lambda: _listen(host, port, count), wait_until_s)


def _while_in_use(bind: Callable[[], T], wait_until_s: float) -> T:
    """What ``bind`` returns, tried again while the address is in use."""
    while True:
        try:
            return bind()
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= wait_until_s:
                raise
        time.sleep(_AGAIN_S)


def _listen(host: str, port: int, count: int) -> list[socket.socket]:
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


@contextlib.contextmanager
def unix_socket(path: Path, wait_until_s: float = 0.0) -> Iterator[socket.socket]:
    """A listening Unix socket at ``path`` that this user alone may open; its file goes at the end.

    A path that is in use is tried again until ``wait_until_s``. Raises OSError with the path in ``filename``.
    """
    listener = _while_in_use(lambda: _listen_unix(path), wait_until_s)
    ours = _mark(path)
    try:
        yield listener
    finally:
        listener.close()
        if _mark(path) == ours:
            path.unlink(missing_ok=True)


def _mark(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _listen_unix(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    umask = os.umask(0o177)
    try:
        _clear(path)
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"cannot listen ({reason})", f"unix:{path}: {_hint(error)}") from error
    finally:
        os.umask(umask)
    return listener


def _clear(path: Path) -> None:
    """Take away a socket that nobody listens at any more. Raises OSError for whatever else is there."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "a file that is not a socket exists there")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # a full queue is somebody's, too
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except FileNotFoundError:
            pass  # the listener has just gone
        except BlockingIOError:
            raise OSError(errno.EADDRINUSE, "another process listens there") from None
        else:
            raise OSError(errno.EADDRINUSE, "another process listens there")


def _hint(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "stop it, or choose another path"
    if error.errno == errno.EEXIST:
        return "remove it, or choose another path"
    if error.errno == errno.ENOENT:
        return "create its directory first"
    return "choose a path in a directory that this user may write to"


def inherited(fd: int, *, unix: bool = False) -> socket.socket:
    """The listening socket that this process was given as descriptor ``fd``; ``unix``: a Unix socket will do.

    Raises OSError, with the descriptor in ``filename``, when it is not a listening TCP socket.
    """
    families = (socket.AF_INET, socket.AF_INET6, *((socket.AF_UNIX,) if unix else ()))
    try:
        listener = socket.socket(fileno=fd)
        if listener.type != socket.SOCK_STREAM or listener.family not in families:
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


def private(listener: socket.socket) -> bool:
    """Whether only this machine can reach it."""
    return listener.family == socket.AF_UNIX or ip_address(listener.getsockname()[0]).is_loopback


def address_of(listener: socket.socket) -> str:
    """``host:port`` of a listening socket, IPv6 in brackets; the path of a Unix socket."""
    if listener.family == socket.AF_UNIX:
        return str(listener.getsockname())
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

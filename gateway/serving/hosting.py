"""A model server's process: its socket, its signals, and the line that says that it is ready."""

from __future__ import annotations

import signal
import socket
import sys
from types import FrameType

import uvicorn
from starlette.applications import Starlette

KEEP_ALIVE_S = 75
"""Longer than proxies keep idle connections: they close them first, so that none goes stale in a pool."""
GRACE_S = 2
"""How long a stop waits for requests under way; those that hang are then cut off."""


def run(app: Starlette, host: str, port: int, served: str) -> int:
    """Serve until SIGTERM or SIGINT; port 0 takes a free one. Returns the exit status, 1 for an address in use.

    When ready, one line on stdout has what is ``served`` and the address.
    """
    try:
        listener = _listen(host, port)
    except OSError as error:
        return complain(f"cannot listen on {host} port {port}: {error.strerror or error}; choose another --port", 1)
    with listener:
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listener.getsockname()[1]}"
        return _run(app, listener, f"model-server: {served} ready on {address}")


class _Announcing(uvicorn.Server):
    """A uvicorn server that says when it is ready."""

    def __init__(self, config: uvicorn.Config, announcement: str) -> None:
        super().__init__(config)
        self._announcement = announcement

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self._announcement, flush=True)


def _run(app: Starlette, listener: socket.socket, announcement: str) -> int:
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="critical",  # failures are logged where they happen; uvicorn would log cut-off requests as errors
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(
            signum, _leave
        )  # uvicorn stops gracefully on these, then raises them again for the earlier handlers
    try:
        _Announcing(config, announcement).run(sockets=[listener])
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1
    return 0


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)  # here, not in uvicorn: two servers may bind one port, only one may listen
    except OSError:
        listener.close()
        raise
    return listener


def _leave(_: int, __: FrameType | None) -> None:
    raise SystemExit(0)


def complain(message: str, status: int) -> int:
    """Say on standard error why it does not serve; returns the status."""
    print(f"model-server: {message}", file=sys.stderr, flush=True)
    return status

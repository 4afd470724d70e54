"""The composition root: the only place where the parts are built and joined.

`serve` is the supervisor's side: it binds the sockets, so that a port in use is said at once and stays ours while
children come and go, and spawns one control process and the workers. `main` is the control process. A worker's own
root is gateway.proxy.server, which must not import any of this: a worker stays lean.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

import msgspec
import uvicorn

from gateway.admin.app import AdminServer, build_admin
from gateway.config import GatewayConfig, admin_token, load, routing_table
from gateway.control.controller import Controller
from gateway.control.journal import Journal
from gateway.control.metrics import render
from gateway.core.errors import JournalError
from gateway.core.traffic.table import RoutingTable
from gateway.runtime.settings import Limits, WorkerSettings
from gateway.runtime.supervisor import Child, Supervisor, log_to_stderr

_BACKLOG = 2048


class ControlSettings(msgspec.Struct, frozen=True):
    """What the control process is told at its birth."""

    config_path: str
    control_path: str
    admin_fd: int


# The supervisor's side


def serve(config_path: Path) -> int:
    """Serve until told to stop; returns the exit status. Raises ConfigError for a configuration with mistakes."""
    config = load(config_path, for_serving=True)
    log_to_stderr("supervisor")
    try:
        listeners = _listen(config.listen.host, config.listen.port, config.workers)
        (admin,) = _listen(config.admin.listen.host, config.admin.listen.port, 1)
    except OSError as error:
        print(f"gateway: {error.strerror}: {error.filename}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="gateway-") as directory:
        control_path = str(Path(directory, "control.sock"))
        children = [_control_child(config_path, control_path, admin)]
        children += [_worker_child(config, index, listener, control_path) for index, listener in enumerate(listeners)]
        print(
            f"gateway: serving on {_url(listeners[0])}, admin on {_url(admin)}, {config.workers} worker(s)", flush=True
        )
        return asyncio.run(_supervise(children))


async def _supervise(children: list[Child]) -> int:
    return await Supervisor(children).run()


def _listen(host: str, port: int, count: int) -> list[socket.socket]:
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
            listener.listen(_BACKLOG)
            listeners.append(listener)
    except OSError as error:
        for listener in listeners:
            listener.close()
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"cannot listen ({reason})", f"{host}:{port}") from error
    return listeners


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _control_child(config_path: Path, control_path: str, admin: socket.socket) -> Child:
    settings = ControlSettings(str(config_path.absolute()), control_path, admin.fileno())
    command = [sys.executable, "-m", "gateway.app"]
    return Child("control", command, msgspec.json.encode(settings), (admin.fileno(),), stop_rank=1)


def _worker_child(config: GatewayConfig, index: int, listener: socket.socket, control_path: str) -> Child:
    settings = WorkerSettings(
        index=index,
        listen_fd=listener.fileno(),
        control_path=control_path,
        table=_stable_only(routing_table(config, epoch=0)),
        limits=Limits(**config.limits.model_dump()),
        trusted_proxies=tuple(str(network) for network in config.trusted_proxies),
    )
    return Child(
        f"worker {index}",
        [sys.executable, "-m", "gateway.proxy.server"],
        msgspec.json.encode(settings),
        (listener.fileno(),),
        stop_timeout_s=config.limits.drain_timeout_s + 5.0,
    )


def _stable_only(table: RoutingTable) -> RoutingTable:
    routes = tuple(msgspec.structs.replace(route, weight_bp=0) for route in table.routes)
    return msgspec.structs.replace(table, routes=routes)


# The control process


def main() -> None:
    """Entry of ``python -m gateway.app``: the control process; settings arrive as JSON on standard input."""
    settings = msgspec.json.decode(sys.stdin.buffer.read(), type=ControlSettings)
    log_to_stderr("control")
    asyncio.run(_control(settings))


async def _control(settings: ControlSettings) -> None:
    config = load(Path(settings.config_path))
    try:
        journal: Journal | JournalError = Journal.open(config.state_dir / "journal.sqlite3")
    except JournalError as error:
        journal = error
    controller = Controller(config, routing_table(config, epoch=0), journal)
    await controller.hub.start(Path(settings.control_path))
    server = AdminServer(_admin_config(config, controller))
    deciding = asyncio.create_task(controller.run())
    orphaned = asyncio.create_task(_until_orphaned())
    serving = asyncio.create_task(_serve_admin(server, controller, settings.admin_fd))
    await asyncio.wait({deciding, orphaned, serving}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    deciding.cancel()
    orphaned.cancel()
    results = await asyncio.gather(deciding, orphaned, serving, return_exceptions=True)
    await controller.stop()
    for result in results:
        if isinstance(result, Exception):
            raise result


async def _serve_admin(server: uvicorn.Server, controller: Controller, fd: int) -> None:
    # uvicorn gives a captured signal back when it is done; by then this process is on its way out anyway.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    await controller.recovered.wait()
    await server.serve(sockets=[socket.socket(fileno=fd)])


def _admin_config(config: GatewayConfig, controller: Controller) -> uvicorn.Config:
    app = build_admin(controller, token=admin_token(config.admin, os.environ), metrics=lambda: render(controller))
    return uvicorn.Config(
        app, lifespan="off", log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=2
    )


async def _until_orphaned() -> None:
    """Return when the supervisor is gone: nobody would look after this process any more."""
    parent = os.getppid()
    while os.getppid() == parent:
        await asyncio.sleep(1.0)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()

"""The composition root: the only place where the parts are built and joined.

`serve` is the supervisor's side: it binds the sockets, so that a port in use is said at once and stays ours while
children come and go, and spawns one control process and the workers. `main` is the control process. A worker's own
root is gateway.proxy.server, which must not import any of this: a worker stays lean.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path

import msgspec
import uvicorn

from gateway.admin.app import AdminServer, build_admin
from gateway.config import GatewayConfig, admin_token, load, read, reload, routing_table
from gateway.control.controller import Controller
from gateway.control.metrics import render
from gateway.control.scribe import open_journal
from gateway.core.traffic.table import RoutingTable
from gateway.runtime.child import orphaned
from gateway.runtime.logs import log_to_stderr
from gateway.runtime.settings import Limits, WorkerSettings
from gateway.runtime.supervisor import Child, Supervisor

_BACKLOG = 2048
# A socket's name has 107 bytes on Linux, 103 elsewhere; ours is /control.sock in there.
_SOCKET_DIRECTORY_BYTES_MAX = 90


class ControlSettings(msgspec.Struct, frozen=True):
    """What the control process is told at its birth.

    The configuration comes as the text that was checked when the gateway started: a control process that is started
    again must not meet another file, or half a one.
    """

    config_path: str
    config_text: bytes
    token: str | None
    control_path: str
    admin_fd: int


# The supervisor's side


def serve(config_path: Path) -> int:
    """Serve until told to stop; returns the exit status. Raises ConfigError for a configuration with mistakes."""
    text = read(config_path)
    config = load(config_path, text=text, for_serving=True)
    token = admin_token(config.admin, os.environ)
    log_to_stderr("supervisor")
    with contextlib.ExitStack() as held:
        try:
            held.callback(os.close, _own(config.state_dir))
            listeners = _listen(config.listen.host, config.listen.port, config.workers)
            (admin,) = _listen(config.admin.listen.host, config.admin.listen.port, 1)
            control_path = str(Path(held.enter_context(_private_directory()), "control.sock"))
        except OSError as error:
            print(f"gateway: {error.strerror}: {error.filename}", file=sys.stderr)
            return 1
        settings = ControlSettings(str(config_path.absolute()), text, token, control_path, admin.fileno())
        children = [_control_child(settings)]
        children += [_worker_child(config, index, listener, control_path) for index, listener in enumerate(listeners)]
        ready = f"gateway: serving on {_url(listeners[0])}, admin on {_url(admin)}, {config.workers} worker(s)"
        return asyncio.run(_supervise(children, ready))


async def _supervise(children: list[Child], ready: str) -> int:
    supervisor = Supervisor(children)
    supervisor.watch_signals()
    print(ready, flush=True)
    return await supervisor.run()


def _own(state_dir: Path) -> int:
    """A descriptor that holds the directory for this gateway as long as it lives.

    Raises OSError with the directory in ``filename`` when another gateway has it.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise OSError(error.errno, f"cannot use the state directory ({error.strerror})", str(state_dir)) from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(held)
        problem = "another gateway is using this state directory, stop it or name another in state_dir"
        raise OSError(error.errno, problem, str(state_dir)) from error
    except OSError:
        pass  # a file system without locks on directories; the journal has a lock of its own
    return held


def _private_directory() -> tempfile.TemporaryDirectory[str]:
    """Where the control socket lives. Raises OSError where sockets' names would become too long for the system."""
    directory = tempfile.TemporaryDirectory(prefix="gateway-", ignore_cleanup_errors=True)
    if len(os.fsencode(directory.name)) > _SOCKET_DIRECTORY_BYTES_MAX:
        directory.cleanup()
        raise OSError(errno.ENAMETOOLONG, "the directory for temporary files has too long a name", directory.name)
    return directory


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
        raise OSError(
            error.errno,
            f"cannot listen ({reason})",
            f"{host}:{port}: stop what listens there, or choose another address",
        ) from error
    return listeners


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _control_child(settings: ControlSettings) -> Child:
    return Child("control", "gateway.app", msgspec.json.encode(settings), (settings.admin_fd,), stop_rank=1)


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
        "gateway.proxy.server",
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
    config = reload(Path(settings.config_path), settings.config_text)
    # Until here a signal simply ends the process: the disk may take its time.
    journal = await open_journal(config.state_dir / "journal.sqlite3")
    told_to_stop = _until_told_to_stop()
    controller = Controller(config, routing_table(config, epoch=0), journal)
    await controller.hub.start(Path(settings.control_path))
    tasks = [asyncio.create_task(work) for work in (told_to_stop, controller.run(), orphaned())]
    # Not cancelled with the others: it ends its streams and answers what it has in hand.
    server = AdminServer(_admin_config(controller, settings.token))
    serving = asyncio.create_task(_serve_admin(server, controller, settings.admin_fd))
    await asyncio.wait({*tasks, serving}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    tasks += [] if controller.recovered.is_set() else [serving]
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, serving, return_exceptions=True)
    await controller.stop()
    for result in results:
        if isinstance(result, Exception):
            raise result


def _until_told_to_stop() -> Coroutine[None, None, object]:
    """Take SIGTERM and SIGINT from now on. While the admin server runs they are its own; it gives them back after."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(told.set))
    return told.wait()


async def _serve_admin(server: uvicorn.Server, controller: Controller, fd: int) -> None:
    await controller.recovered.wait()
    await server.serve(sockets=[socket.socket(fileno=fd)])


def _admin_config(controller: Controller, token: str | None) -> uvicorn.Config:
    app = build_admin(controller, token=token, metrics=lambda: render(controller))
    return uvicorn.Config(
        app, lifespan="off", log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=2
    )


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()

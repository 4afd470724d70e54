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
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import uvicorn

from gateway.admin.app import build_admin
from gateway.admin.configuring import Configuring
from gateway.admin.server import AdminServer, server_config
from gateway.config import GatewayConfig, Key, admin_keys, admin_tls, load, read, reload, routing_table, stored
from gateway.config.edge import TlsConfig
from gateway.config.mistakes import ConfigError
from gateway.config.watching import watched
from gateway.control.controller import Controller
from gateway.control.metrics import render
from gateway.control.scribe import open_journal
from gateway.core.traffic.table import RoutingTable
from gateway.hooks.service import serve_hooks
from gateway.inspector.server import InspectorSettings
from gateway.runtime import listening, notices, sdnotify
from gateway.runtime.build import data_plane
from gateway.runtime.child import beat, orphaned, say_ready
from gateway.runtime.clock import SystemClock
from gateway.runtime.logs import log_to_stderr
from gateway.runtime.notices import Notice
from gateway.runtime.samples import SOCKET_NAME
from gateway.runtime.settings import (
    AccessLogSettings,
    HeaderPolicy,
    Limits,
    ProxyProtocolSettings,
    TlsSettings,
    WorkerSettings,
)
from gateway.runtime.supervisor import Child, Supervisor

_log = logging.getLogger("gateway.supervisor")
# A worker's successor has to accept requests by then; it waits two seconds for control's table.
_READY_TIMEOUT_S = 30.0
_CERTIFICATE_LOOK_S = 1.0
# Nothing that control does on its loop takes a second; a machine that swaps may need some.
_CONTROL_SILENCE_S_MAX = 15.0
# A socket's name has 107 bytes on Linux, 103 elsewhere; ours is /control.sock in there.
_SOCKET_DIRECTORY_BYTES_MAX = 90


class ControlSettings(msgspec.Struct, frozen=True):
    """What the control process is told at its birth.

    The configuration comes as the text that was checked when the gateway started: a control process that is started
    again must not meet another file, or half a one.
    """

    config_path: str
    config_text: bytes
    keys: tuple[Key, ...]
    own_addresses: tuple[tuple[str, int], ...]
    control_path: str
    admin_fd: int
    notices_fd: int
    notice: Notice = Notice()


# The supervisor's side


def serve(config_path: Path, *, fd: int | None = None, admin_fd: int | None = None) -> int:
    """Serve until told to stop; returns the exit status. Raises ConfigError for a configuration with mistakes.

    ``fd`` and ``admin_fd`` are listening sockets that this process was given, in place of ``listen`` and
    ``admin.listen``; without them systemd's are looked for.
    """
    text = read(config_path)
    config = load(config_path, text=text, for_serving=True)
    keys = admin_keys(config.admin, os.environ)
    log_to_stderr("supervisor")
    if fd is None:
        given = listening.from_systemd(os.environ)
        fd = given[0] if given else None
        admin_fd = given[1] if len(given) > 1 else admin_fd
    with contextlib.ExitStack() as held:
        try:
            held.callback(os.close, _own(config.state_dir))
            _check_stored(config_path, text, config.state_dir)
            if fd is None:
                listeners = listening.listen(config.listen.host, config.listen.port, config.workers)
            else:
                listeners = [listening.inherited(fd)] * config.workers
            if admin_fd is None:
                (admin,) = listening.listen(config.admin.listen.host, config.admin.listen.port, 1)
            else:
                admin = listening.inherited(admin_fd)
            directory = Path(held.enter_context(_private_directory()))
        except OSError as error:
            print(f"gateway: {error.strerror}: {error.filename}", file=sys.stderr)
            return 1
        return asyncio.run(_Tree(config_path, text, config, keys, listeners, admin, directory).run())


class _NotWhileRunningError(Exception):
    """A configuration without mistakes that this process tree cannot take over."""


class _Tree:
    """The process tree, from the configuration that it was started with to the one that it serves by now."""

    def __init__(
        self,
        path: Path,
        text: bytes,
        config: GatewayConfig,
        keys: tuple[Key, ...],
        listeners: list[socket.socket],
        admin: socket.socket,
        directory: Path,
    ) -> None:
        self._path = path
        self._text = text
        self._config = config
        self._keys = keys
        self._listeners = listeners
        self._admin = admin
        self._directory = directory
        self._notices, self._notices_out = notices.pair()
        self._notice = Notice()
        self._serial = 0
        self._supervisor = Supervisor(
            [self._control_child(), *self._inspector_children(config), *self._worker_children(config)],
            before_stop=self._before_stop,
        )
        self._reload_wished = asyncio.Event()

    async def run(self) -> int:
        """Serve until told to stop; returns the exit status."""
        self._supervisor.watch_signals(self._reload_wished.set)
        serving = _url(self._listeners[0], self._config.tls is not None)
        where = f"serving on {serving}, admin on {_url(self._admin, self._config.admin.tls is not None)}"
        print(f"gateway: {where}, {self._config.workers} worker(s), data plane {data_plane()}", flush=True)
        tasks = [asyncio.create_task(work) for work in (self._reloads(), self._tell_systemd())]
        status = await self._supervisor.run()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return status

    async def _tell_systemd(self) -> None:
        """Say when all is ready, and feed the watchdog; a control process that hangs is the supervisor's to kill."""
        await self._supervisor.ready()
        sdnotify.notify("READY=1", f"STATUS=serving with {self._config.workers} worker(s)")
        interval_s = sdnotify.watchdog_interval_s()
        while interval_s is not None:
            sdnotify.notify("WATCHDOG=1")
            await asyncio.sleep(interval_s)

    async def _before_stop(self) -> None:
        """Say that the end has come, accept for a grace, and let go of the sockets: what is queued is the workers'."""
        sdnotify.notify("STOPPING=1")
        self._tell(draining=True)
        await asyncio.sleep(self._config.limits.drain_grace_s)
        # Once the workers have let go too, new clients are refused at once instead of waiting for nobody.
        for listener in self._listeners:
            listener.close()

    # SIGHUP

    async def _reloads(self) -> None:
        while True:
            await self._reload_wished.wait()
            self._reload_wished.clear()
            sdnotify.notify(*sdnotify.reloading())
            try:
                await self._reload()
            except (ConfigError, _NotWhileRunningError) as error:
                self._refuse(str(error))
            except Exception as error:  # noqa: BLE001  # see below
                # Whatever it is, what serves goes on serving.
                _log.exception("the configuration cannot be read again")
                self._refuse(str(error) or type(error).__name__)
            sdnotify.notify("READY=1")

    def _refuse(self, why: str) -> None:
        _log.error("the configuration in force stays; %s is not in force:\n%s", self._path, why)
        first_line = why.partition("\n")[0]
        self._tell(reloads_refused=self._notice.reloads_refused + 1, refused_why=first_line)

    async def _reload(self) -> None:
        text = read(self._path)
        config = load(self._path, text=text, for_serving=True)
        _check_reloadable(self._config, config)
        before, changed = self._config, text != self._text
        self._text, self._config = text, config
        # Also when nothing has changed: control may have had a reason to refuse it that is gone by now.
        self._serial += 1
        file = self._directory / f"config-{self._serial}.yaml"
        file.write_bytes(text)
        (self._directory / f"config-{self._serial - 2}.yaml").unlink(missing_ok=True)
        self._tell(config_file=str(file))
        # Certificates that changed under their names; the rest of SIGHUP is the supervisor's own business.
        if config.tls is not None:
            self._supervisor.send(signal.SIGHUP, "worker ")
        stayed = []
        for old, new in zip(self._worker_settings(before), self._worker_settings(config), strict=True):
            child = self._worker_child(new)
            if old.same_worker(new):
                self._supervisor.set_child(child)
            elif not await self._supervisor.replace(child, _READY_TIMEOUT_S):
                stayed.append(child.name)
        if stayed:
            raise _NotWhileRunningError(
                f"no successor of {', '.join(stayed)} got ready: the present one goes on as it was"
            )
        _log.warning("the configuration was read again%s", "" if changed else ": nothing in it has changed")
        self._tell(reloads_applied=self._notice.reloads_applied + 1, refused_why="")

    def _tell(self, **changes: Any) -> None:
        self._notice = msgspec.structs.replace(self._notice, **changes)
        self._supervisor.set_child(self._control_child())
        notices.tell(self._notices, self._notice)

    # children

    def _control_child(self) -> Child:
        settings = ControlSettings(
            str(self._path.absolute()),
            self._text,
            self._keys,
            tuple(listener.getsockname()[:2] for listener in (*self._listeners[:1], self._admin)),
            str(self._directory / "control.sock"),
            self._admin.fileno(),
            self._notices_out.fileno(),
            # At its birth it has the newest configuration already.
            msgspec.structs.replace(self._notice, config_file=None),
        )
        fds = (settings.admin_fd, settings.notices_fd)
        return Child(
            "control",
            "gateway.app",
            msgspec.json.encode(settings),
            fds,
            stop_rank=1,
            says_ready=True,
            silence_s_max=_CONTROL_SILENCE_S_MAX,
        )

    def _inspector_children(self, config: GatewayConfig) -> list[Child]:
        if not watched(config):
            return []
        settings = InspectorSettings(str(self._directory / SOCKET_NAME))
        return [Child("inspector", "gateway.inspector.server", msgspec.json.encode(settings), stop_rank=1)]

    def _worker_children(self, config: GatewayConfig) -> list[Child]:
        return [self._worker_child(settings) for settings in self._worker_settings(config)]

    def _worker_settings(self, config: GatewayConfig) -> list[WorkerSettings]:
        path = str(self._directory / "control.sock")
        return [
            _worker_settings(config, index, listener.fileno(), path) for index, listener in enumerate(self._listeners)
        ]

    def _worker_child(self, settings: WorkerSettings) -> Child:
        return Child(
            f"worker {settings.index}",
            "gateway.proxy.server",
            msgspec.json.encode(settings),
            (settings.listen_fd,),
            stop_timeout_s=settings.limits.drain_timeout_s + 5.0,
            says_ready=True,
        )


def _check_reloadable(before: GatewayConfig, now: GatewayConfig) -> None:
    """Raise _NotWhileRunningError for a change that needs a new start."""
    fixed = {
        "listen": before.listen != now.listen,
        "workers": before.workers != now.workers,
        "state_dir": before.state_dir != now.state_dir,
        "admin": before.admin != now.admin,
        # There is no inspector to look at them.
        "analysis.predictions and labels, of which there were none,": bool(watched(now)) and not watched(before),
    }
    changed = [name for name, differs in fixed.items() if differs]
    if changed:
        names = ", ".join(changed)
        raise _NotWhileRunningError(f"{names} cannot change while the gateway runs: start it anew, or change it back")


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


def _check_stored(path: Path, text: bytes, state_dir: Path) -> None:
    """Whether what was given at run time can be served; what the file has overtaken is set aside, and people are told.

    Raises ConfigError.
    """
    if told := stored.set_aside(text, state_dir):
        _log.warning("%s", told)
    in_force, replaced = stored.effective(text, state_dir)
    if replaced is not None:
        load(path, text=in_force)
        _log.warning(
            "serving the configuration that %s gave at %s, as %s has not changed since; see GET /api/v1/config/source",
            *(replaced.by, replaced.at, path),
        )


def _private_directory() -> tempfile.TemporaryDirectory[str]:
    """Where the control socket lives. Raises OSError where sockets' names would become too long for the system."""
    directory = tempfile.TemporaryDirectory(prefix="gateway-", ignore_cleanup_errors=True)
    if len(os.fsencode(directory.name)) > _SOCKET_DIRECTORY_BYTES_MAX:
        directory.cleanup()
        raise OSError(errno.ENAMETOOLONG, "the directory for temporary files has too long a name", directory.name)
    return directory


def _url(listener: socket.socket, tls: bool = False) -> str:
    return f"{'https' if tls else 'http'}://{listening.address_of(listener)}"


def _worker_settings(config: GatewayConfig, index: int, listen_fd: int, control_path: str) -> WorkerSettings:
    tls, proxy = config.tls, config.proxy_protocol
    return WorkerSettings(
        index=index,
        listen_fd=listen_fd,
        control_path=control_path,
        workers=config.workers,
        table=_stable_only(routing_table(config, epoch=0)),
        limits=Limits(**config.limits.model_dump()),
        trusted_proxies=tuple(str(network) for network in config.trusted_proxies),
        headers=HeaderPolicy(**config.headers.model_dump(mode="json")),
        access_log=AccessLogSettings(**config.access_log.model_dump()),
        tls=None if tls is None else _tls_settings(tls),
        proxy_protocol=(
            None
            if proxy is None
            else ProxyProtocolSettings(tuple(str(network) for network in proxy.trusted), proxy.timeout_s)
        ),
    )


def _tls_settings(tls: TlsConfig) -> TlsSettings:
    return TlsSettings(
        tuple((str(pair.cert_file), str(pair.key_file)) for pair in tls.certificates),
        None if tls.client_ca_file is None else str(tls.client_ca_file),
        tls.min_version.value,
        tls.handshake_timeout_s,
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
    path = Path(settings.config_path)
    config = reload(path, settings.config_text)
    in_force, _ = stored.effective(settings.config_text, config.state_dir)
    config = reload(path, in_force)
    # Until here a signal simply ends the process: the disk may take its time.
    journal = await open_journal(config.state_dir / "journal.sqlite3")
    told_to_stop = _until_told_to_stop()
    controller = Controller(config, routing_table(config, epoch=0), journal)
    own = settings.own_addresses
    configuring = Configuring(controller, SystemClock(), path, settings.config_text, config, own)
    _heed(controller, configuring, settings)
    controller.inspect(Path(settings.control_path).with_name(SOCKET_NAME))
    await controller.hub.start(Path(settings.control_path))
    hooks = serve_hooks(controller, lambda: configuring.config, SystemClock())
    tasks = [asyncio.create_task(work) for work in (told_to_stop, controller.run(), orphaned(), beat(), hooks)]
    # Not cancelled with the others: it ends its streams and answers what it has in hand.
    server = AdminServer(_admin_config(controller, configuring, settings.keys))
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


def _heed(controller: Controller, configuring: Configuring, settings: ControlSettings) -> None:
    """Take what the supervisor says, from now on."""
    tasks: set[asyncio.Task[None]] = set()
    files: list[str] = []

    def take(notice: Notice) -> None:
        controller.take_notice(notice)
        if notice.config_file is not None and notice.config_file not in files:
            files.append(notice.config_file)
            task = asyncio.create_task(_reconfigure(controller, configuring, Path(notice.config_file)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    def look_at_certificates() -> None:
        asyncio.get_running_loop().call_later(_CERTIFICATE_LOOK_S, look_at_certificates)
        controller.watch_certificates()

    look_at_certificates()
    take(settings.notice)
    notices.listen(settings.notices_fd, take)


async def _reconfigure(controller: Controller, configuring: Configuring, file: Path) -> None:
    """Go by a configuration that the supervisor has checked."""
    await controller.recovered.wait()
    try:
        await configuring.follow(await asyncio.to_thread(file.read_bytes), by="SIGHUP")
        controller.refuse_configuration("")
    except Exception as error:
        logging.getLogger("gateway.control").exception("the new configuration cannot be gone by")
        controller.refuse_configuration(str(error))


def _until_told_to_stop() -> Coroutine[None, None, object]:
    """Take SIGTERM and SIGINT from now on. While the admin server runs they are its own; it gives them back after."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(told.set))
    return told.wait()


async def _serve_admin(server: uvicorn.Server, controller: Controller, fd: int) -> None:
    await controller.recovered.wait()
    say_ready()
    await server.serve(sockets=[socket.socket(fileno=fd)])


def _admin_config(controller: Controller, configuring: Configuring, keys: tuple[Key, ...]) -> uvicorn.Config:
    config = configuring.config
    tls = config.admin.tls
    app = build_admin(
        controller,
        configuring,
        metrics=lambda accept: render(controller, accept),
        keys=keys,
        clients=() if tls is None else tls.clients,
        state_dir=config.state_dir,
    )
    return server_config(app, None if tls is None else admin_tls(tls))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()

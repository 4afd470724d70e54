"""The process tree: one control process, the inspector where something is watched, the workers.

A new configuration (SIGHUP, or a watched file that changed) is checked here, handed to control, and taken over by
workers one by one, each successor accepting before its predecessor stops. What cannot change while the gateway runs is
refused, and all stays as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec

from gateway.app import config_watch
from gateway.app.child_settings import ControlSettings, exporter_settings, worker_settings
from gateway.app.model_servers import keep_model_servers
from gateway.app.state import RememberedState
from gateway.config.errors import ConfigError
from gateway.config.host_checks import Key
from gateway.config.load import load, read
from gateway.config.schema import RESTART_KEYS, GatewayConfig
from gateway.config.stored import sha256_of
from gateway.config.watching import needs_features, needs_inspector
from gateway.runtime import features, listening, notices, sdnotify
from gateway.runtime.build import described
from gateway.runtime.child import DIRECTORY_VARIABLE
from gateway.runtime.logs import FORMAT_VARIABLE
from gateway.runtime.notices import Notice
from gateway.runtime.process import Child
from gateway.runtime.samples import SOCKET_NAME
from gateway.runtime.settings import FeaturesSettings, InspectorSettings, WorkerSettings
from gateway.runtime.supervisor import HUNG, Supervisor
from gateway.runtime.table_memory import SharedTable
from gateway.runtime.terminal import LOOK_S, Terminal

_log = logging.getLogger("gateway.supervisor")
# A worker's successor has to accept requests by then; it waits two seconds for control's table.
_READY_TIMEOUT_S = 30.0
# Nothing that control does on its loop takes a second; a machine that swaps may need some.
_CONTROL_SILENCE_S_MAX = 15.0


class NotWhileRunningError(Exception):
    """A valid configuration that this process tree cannot take over."""


class ProcessTree:
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
        memory: SharedTable,
        found: RememberedState,
        *,
        watch: bool = False,
    ) -> None:
        """``watch``: read the file again by itself when it changes."""
        self._path = path
        self._watch = watch
        self._text = text
        self._config = config
        self._keys = keys
        self._listeners = listeners
        self._admin = admin
        self._directory = directory
        self._memory = memory
        self._found = found
        self._notices, self._notices_out = notices.pair()
        self._notice = Notice()
        self._serial = 0
        self._supervisor = Supervisor(
            [
                self._control_child(),
                *self._inspector_children(config),
                *self._exporter_children(config),
                *self._features_children(config),
                *self._worker_children(config),
            ],
            before_stop=self._before_stop,
            on_restart=self._restarting,
            environ={DIRECTORY_VARIABLE: str(directory), FORMAT_VARIABLE: config.log_format},
        )
        self._reload_requested = asyncio.Event()
        self._terminal = Terminal()

    async def run(self) -> int:
        """Serve until a signal to stop; returns the exit status."""
        self._supervisor.watch_signals(self._hung_up)
        serving = _url(self._listeners[0], self._config.tls is not None)
        where = f"serving on {serving}, admin on {_url(self._admin, self._config.admin.tls is not None)}"
        print(f"gateway: {where}, {_workers(self._config.workers)}, data plane {described()}", flush=True)
        if self._found.empty:
            state_dir = self._config.state_dir
            print(f"gateway: no earlier state in {state_dir}; if this is not its first start, restore it", flush=True)
        works: list[Coroutine[Any, Any, None]] = [
            *(self._reloads(), self._tell_systemd(), self._watch_terminal()),
            keep_model_servers(self._supervisor, self._config.state_dir),
        ]
        if self._watch:
            works.append(self._watch_file())
        tasks = [asyncio.create_task(work) for work in works]
        status = await self._supervisor.run()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return status

    async def _tell_systemd(self) -> None:
        """Say when all is ready, and feed the watchdog; a control process that hangs is the supervisor's to kill."""
        await self._supervisor.ready()
        sdnotify.notify("READY=1", f"STATUS=serving with {_workers(self._config.workers)}")
        interval_s = sdnotify.watchdog_interval_s()
        while interval_s is not None:
            sdnotify.notify("WATCHDOG=1")
            await asyncio.sleep(interval_s)

    async def _before_stop(self) -> None:
        """Say that the end has come, accept for a grace, and let go of the sockets: what is queued is the workers'."""
        sdnotify.notify("STOPPING=1")
        drain_s = self._config.limits.drain_timeout_s
        with contextlib.suppress(OSError):  # the reader of the first line may be gone
            print(f"gateway: draining, {drain_s:g} s at most; the same signal again ends it at once", flush=True)
        self._tell(draining=True)
        await asyncio.sleep(self._config.limits.drain_grace_s)
        # Once the workers have let go too, new clients are refused at once instead of waiting for nobody.
        for listener in self._listeners:
            listener.close()

    def _restarting(self, name: str, reason: str) -> None:
        """A child is started again: control shows how often, and raises an alarm for one that hung."""
        kind = name.partition(" ")[0]
        known = self._notice.restarts.get(kind, {})
        restarts = self._notice.restarts | {kind: known | {reason: known.get(reason, 0) + 1}}
        hung = {"hung": name, "hung_at_s": time.monotonic()} if reason == HUNG else {}
        self._tell(restarts=restarts, **hung)

    # SIGHUP

    def _hung_up(self) -> None:
        if self._terminal.closed():
            _log.warning(
                "terminal closed: draining (to outlive the terminal, start the gateway under nohup or as a service)"
            )
            self._supervisor.stop()
        else:
            self._reload_requested.set()

    async def _watch_terminal(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self._terminal.look()

    async def _watch_file(self) -> None:
        async for _ in config_watch.changes(self._path, self._text):
            _log.warning("configuration %s has changed: reloading", self._path)
            self._reload_requested.set()

    async def _reloads(self) -> None:
        while True:
            await self._reload_requested.wait()
            self._reload_requested.clear()
            sdnotify.notify(*sdnotify.reloading())
            try:
                await self._reload()
            except (ConfigError, NotWhileRunningError) as error:
                self._refuse(str(error))
            except Exception as error:  # noqa: BLE001  # see below
                # Whatever it is, what serves goes on serving.
                _log.exception("configuration %s cannot be reloaded", self._path)
                self._refuse(str(error) or type(error).__name__)
            sdnotify.notify("READY=1")

    def _refuse(self, why: str) -> None:
        _log.error("configuration %s refused, the previous one stays in force:\n%s", self._path, why)
        first_line = why.partition("\n")[0]
        self._tell(reloads_refused=self._notice.reloads_refused + 1, refused_why=first_line)

    async def _reload(self) -> None:
        text = read(self._path)
        config = load(self._path, text=text, for_serving=True)
        _check_reloadable(self._config, config)
        before, changed = self._worker_settings(self._config), text != self._text
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
        for old, new in zip(before, self._worker_settings(config), strict=True):
            child = self._worker_child(new)
            if old.same_worker(new):
                self._supervisor.set_child(child)
            elif not await self._supervisor.replace(child, _READY_TIMEOUT_S):
                stayed.append(child.name)
        if stayed:
            raise NotWhileRunningError(
                f"no successor of {', '.join(stayed)} became ready: the present process goes on unchanged"
            )
        _log.warning("configuration %s reloaded%s", self._path, "" if changed else ", unchanged")
        self._tell(reloads_applied=self._notice.reloads_applied + 1, refused_why="")

    def _tell(self, **changes: Any) -> None:
        self._notice = msgspec.structs.replace(self._notice, **changes)
        self._supervisor.set_child(self._control_child())
        notices.send(self._notices, self._notice)

    # children

    def _control_child(self) -> Child:
        settings = ControlSettings(
            str(self._path.absolute()),
            self._text,
            self._keys,
            tuple(
                listener.getsockname()[:2]
                for listener in (*self._listeners[:1], self._admin)
                if listener.family != socket.AF_UNIX
            ),
            str(self._directory / "control.sock"),
            self._admin.fileno(),
            self._notices_out.fileno(),
            self._memory.fds,
            # At its birth it has the newest configuration already.
            msgspec.structs.replace(self._notice, config_file=None),
            self._found.lost,
        )
        fds = (settings.admin_fd, settings.notices_fd, *settings.memory_fds)
        return Child(
            "control",
            "gateway.app.control",
            msgspec.json.encode(settings),
            fds,
            stop_rank=1,
            says_ready=True,
            silence_s_max=_CONTROL_SILENCE_S_MAX,
        )

    def _inspector_children(self, config: GatewayConfig) -> list[Child]:
        if not needs_inspector(config):
            return []
        settings = InspectorSettings(str(self._directory / SOCKET_NAME))
        return [
            Child(
                "inspector",
                "gateway.inspector.server",
                msgspec.json.encode(settings),
                stop_rank=1,
                silence_s_max=_CONTROL_SILENCE_S_MAX,
            )
        ]

    def _features_children(self, config: GatewayConfig) -> list[Child]:
        if not needs_features(config):
            return []
        settings = FeaturesSettings(str(self._directory / features.SOCKET_NAME))
        return [
            Child(
                "features",
                "gateway.integrations.feast.server",
                msgspec.json.encode(settings),
                stop_rank=1,  # after the workers, whose last requests may want features
                silence_s_max=_CONTROL_SILENCE_S_MAX,
            )
        ]

    def _exporter_children(self, config: GatewayConfig) -> list[Child]:
        if config.tracing is None:
            return []
        settings = exporter_settings(config.tracing, self._directory)
        return [
            Child(
                "tracing",
                "gateway.tracing.exporter",
                msgspec.json.encode(settings),
                stop_rank=1,  # after the workers, whose last spans it exports
                stop_timeout_s=settings.timeout_s + 5.0,
                silence_s_max=_CONTROL_SILENCE_S_MAX,
            )
        ]

    def _worker_children(self, config: GatewayConfig) -> list[Child]:
        return [self._worker_child(settings) for settings in self._worker_settings(config)]

    def _worker_settings(self, config: GatewayConfig) -> list[WorkerSettings]:
        path, digest = str(self._directory / "control.sock"), sha256_of(self._text)
        return [
            worker_settings(config, digest, index, listener.fileno(), path, self._memory.fds)
            for index, listener in enumerate(self._listeners)
        ]

    def _worker_child(self, settings: WorkerSettings) -> Child:
        return Child(
            f"worker {settings.index}",
            "gateway.proxy.worker",
            msgspec.json.encode(settings),
            (settings.listen_fd, *self._memory.fds),
            stop_timeout_s=settings.limits.drain_timeout_s + 5.0,
            says_ready=True,
            silence_s_max=settings.limits.hang_timeout_s or None,
        )


def _workers(many: int) -> str:
    return f"{many} worker{'' if many == 1 else 's'}"


def _check_reloadable(before: GatewayConfig, now: GatewayConfig) -> None:
    """Raise NotWhileRunningError for a change that needs a new start."""
    fixed = {
        **{key: getattr(before, key) != getattr(now, key) for key in RESTART_KEYS},
        # There is no inspector to look at them.
        "routes[].features, of which there were none,": needs_features(now) and not needs_features(before),
        "analysis.model_errors, predictions and labels, of which there were none,": needs_inspector(now)
        and not needs_inspector(before),
    }
    changed = [name for name, differs in fixed.items() if differs]
    if changed:
        names = ", ".join(changed)
        raise NotWhileRunningError(
            f"{names} cannot change while the gateway runs: restart the gateway, or change it back"
        )


def _url(listener: socket.socket, tls: bool = False) -> str:
    if listener.family == socket.AF_UNIX:
        return f"unix://{listening.address_of(listener)}"
    return f"{'https' if tls else 'http'}://{listening.address_of(listener)}"

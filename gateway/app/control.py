"""The control process: controller, journal, admin API and hooks on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable
from importlib import import_module
from pathlib import Path

import msgspec
import uvicorn

from gateway.admin.app import build_admin
from gateway.admin.audit import REMEMBERED, AuditTrail
from gateway.admin.auth_failures import AuthFailures
from gateway.admin.configuring import Configuring
from gateway.admin.connections import Connections, raise_descriptor_limit
from gateway.admin.credentials import Credentials
from gateway.admin.exposition import Scraped
from gateway.admin.idempotency import Replays
from gateway.admin.schemas import HookState
from gateway.admin.server import AdminServer, AdminServerConfig, server_config
from gateway.admin.starting import VersionStarts
from gateway.admin.webhooks import PipelineDoors
from gateway.app.child_settings import ControlSettings
from gateway.app.sources import SourceGateway
from gateway.config import grammar
from gateway.config.build import endpoints_of, guarded, routing_table
from gateway.config.load import check_text, reload
from gateway.config.plain import plain
from gateway.config.stored import Effective, sha256_of
from gateway.control.controller import Controller
from gateway.control.journal import names
from gateway.control.journal.given_configuration import configuration_at_start
from gateway.control.journal.rows import AuditEntry, KeptAnswer
from gateway.control.journal.state_watch import StateWatch
from gateway.control.journal.store import Store
from gateway.control.journal.writer import JournalWriter, open_store
from gateway.control.workers.table_keeper import TableKeeper
from gateway.core.errors import GatewayError, JournalError
from gateway.hooks.counters import HookCounters
from gateway.hooks.service import serve_hooks
from gateway.integrations.actuating import Actuators
from gateway.integrations.deployers import DeploymentBook
from gateway.integrations.service import Sources
from gateway.runtime import notices
from gateway.runtime.accept_errors import say_accept_errors_once
from gateway.runtime.child import beat, orphaned, say_ready
from gateway.runtime.clock import SystemClock
from gateway.runtime.logs import log_to_stderr
from gateway.runtime.notices import Notice
from gateway.runtime.samples import SOCKET_NAME
from gateway.runtime.table_memory import SharedTable

_log = logging.getLogger("gateway.control")
_CERTIFICATE_LOOK_S = 1.0
_AUTH_FAILURES_LOOK_S = 5.0


def main() -> None:
    """Entry of ``python -m gateway.app.control``; settings arrive as JSON on standard input."""
    settings = msgspec.json.decode(sys.stdin.buffer.read(), type=ControlSettings)
    log_to_stderr("control")
    asyncio.run(_serve(settings))


async def _serve(settings: ControlSettings) -> None:
    say_accept_errors_once(asyncio.get_running_loop())
    path = Path(settings.config_path)
    from_file = reload(path, settings.config_text)
    keeper = TableKeeper(SharedTable(settings.memory_fds), from_file.state_dir, sha256_of(settings.config_text))
    store = await open_store(from_file.state_dir / names.STORE)
    in_force = await configuration_at_start(
        *(store, keeper.found, settings.config_text, from_file.state_dir),
        lambda text: check_text(path, text),
        lambda text: plain(reload(path, text)),
    )
    config = reload(path, in_force.text)
    # Until here a signal simply ends the process: the disk may take its time.
    stop_requested = _stop_requested()
    book = DeploymentBook(config.state_dir)
    deployed = {grammar.endpoint(url) for url in book.deployments.endpoints}
    table = guarded(routing_table(config, epoch=0), endpoints_of(from_file) | deployed, config.admin.backend_allow)
    controller = Controller(
        config,
        table,
        store,
        keeper=keeper,
        state_watch=StateWatch(config.state_dir, config.state_dir / names.STORE),
        state_lost=bool(settings.state_lost),
    )
    controller.show_alarm("state lost", settings.state_lost)
    _show_stored(controller, in_force, path)
    own = settings.own_addresses
    configuring = Configuring(
        *(controller, SystemClock(), path, settings.config_text, config, own), stored=in_force.stored
    )
    configuring.trust(book.deployments.endpoints)
    starts = VersionStarts(controller, configuring)
    sources = Sources(controller, SourceGateway(controller, configuring, starts), book, SystemClock())
    doors = PipelineDoors(starts, sources.receive)
    _follow_supervisor(controller, configuring, settings)
    controller.inspect(Path(settings.control_path).with_name(SOCKET_NAME))
    await controller.hub.start(Path(settings.control_path))
    counters = HookCounters()
    hooks = serve_hooks(controller, lambda: configuring.config, SystemClock(), counters)
    looking = sources.serve(lambda: configuring.config)
    actuating = Actuators(controller, SystemClock()).serve(lambda: configuring.config)
    works = (stop_requested, controller.run(), orphaned(), beat(), hooks, looking, actuating)
    tasks = [asyncio.create_task(work) for work in works]
    # Not cancelled with the others: it ends its streams and answers what it has in hand.
    credentials = Credentials(config.admin, settings.keys, os.environ, _alarm(controller))
    tasks.append(asyncio.create_task(credentials.run()))
    auth_failures = AuthFailures(SystemClock(), controller.show_alarm)
    tasks.append(asyncio.create_task(_look_at(auth_failures)))
    trail, replays = await _remembered(controller.journal_writer)
    server = AdminServer(
        _admin_config(controller, configuring, credentials, counters, auth_failures, trail, replays, doors)
    )
    serving = asyncio.create_task(_serve_admin(server, (controller.recovered, credentials.read), settings.admin_fd))
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


def _show_stored(controller: Controller, in_force: Effective, path: Path) -> None:
    """Say what is served in the file's place, and what was wrong with what was stored."""
    controller.given_configuration.adopt(in_force.stored)
    controller.show_alarm("stored configuration", in_force.trouble)
    if in_force.trouble:
        _log.error("%s", in_force.trouble)
    if in_force.stored is not None:
        _log.warning(
            "serving the configuration that %s gave at %s, as %s has not changed since; see GET /api/v1/config/source",
            *(in_force.stored.by, in_force.stored.at, path),
        )


async def _remembered(writer: JournalWriter) -> tuple[AuditTrail, Replays]:
    """The audit trail and the idempotency keys, with what the store has of them; without a store in memory alone."""

    def read(store: Store) -> tuple[list[AuditEntry], list[KeptAnswer]]:
        for damage in store.damage:
            _log.error("%s", damage)
        return store.audit.page(REMEMBERED), store.answers.all()

    try:
        entries, answers = await writer.read_store(read)
    except JournalError:  # its alarm stands
        entries, answers = [], []
    return AuditTrail(SystemClock(), writer, entries), Replays(SystemClock(), writer, answers)


def _follow_supervisor(controller: Controller, configuring: Configuring, settings: ControlSettings) -> None:
    """Take the notices of the supervisor, from now on."""
    tasks: set[asyncio.Task[None]] = set()
    files: list[str] = []

    def take(notice: Notice) -> None:
        controller.processes.take_notice(notice)
        if notice.config_file is not None and notice.config_file not in files:
            files.append(notice.config_file)
            task = asyncio.create_task(_reconfigure(controller, configuring, Path(notice.config_file)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    def look_at_certificates() -> None:
        asyncio.get_running_loop().call_later(_CERTIFICATE_LOOK_S, look_at_certificates)
        controller.processes.watch_certificates()

    look_at_certificates()
    take(settings.notice)
    notices.listen(settings.notices_fd, take)


async def _reconfigure(controller: Controller, configuring: Configuring, file: Path) -> None:
    """Put a configuration in force that the supervisor has checked."""
    await controller.recovered.wait()
    try:
        await configuring.follow(await asyncio.to_thread(file.read_bytes), by="SIGHUP")
        controller.processes.refuse_configuration("")
    except Exception as error:  # noqa: BLE001  # the configuration in force stays, whatever it was
        if not isinstance(error, GatewayError):  # a state directory that cannot be written is no fault of the program
            _log.exception("configuration: the newest one cannot be put in force")
        controller.processes.refuse_configuration(str(error))


def _stop_requested() -> Coroutine[None, None, object]:
    """Take SIGTERM and SIGINT from now on. While the admin server runs they are its own; it gives them back after."""
    loop, requested = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(requested.set))
    return requested.wait()


async def _serve_admin(server: uvicorn.Server, awaited: Iterable[asyncio.Event], fd: int) -> None:
    for event in awaited:
        await event.wait()
    say_ready()
    # What only a scrape needs is imported beside the work, so that neither a start nor the first scrape waits for it.
    threading.Thread(target=import_module, args=("gateway.app.scrape",), name="imports", daemon=True).start()
    await server.serve(sockets=[socket.socket(fileno=fd)])


def _alarm(controller: Controller) -> Callable[[str, str], None]:
    """What raises and clears a warning from another thread."""
    loop = asyncio.get_running_loop()

    def show(what: str, why: str) -> None:
        loop.call_soon_threadsafe(controller.show_alarm, what, why)

    return show


async def _look_at(auth_failures: AuthFailures) -> None:
    """Let the alarm about refused requests end in time, also when no request comes any more."""
    while True:
        await asyncio.sleep(_AUTH_FAILURES_LOOK_S)
        auth_failures.look()


def _admin_config(
    controller: Controller,
    configuring: Configuring,
    credentials: Credentials,
    counters: HookCounters,
    auth_failures: AuthFailures,
    trail: AuditTrail,
    replays: Replays,
    doors: PipelineDoors,
) -> AdminServerConfig:
    raise_descriptor_limit()
    connections = Connections(configuring.config.admin.connections_max)

    def collect() -> Scraped:
        from gateway.app.scrape import scrape  # noqa: PLC0415  # `_serve_admin` has imported it on another thread

        return scrape(controller, counters, connections, auth_failures)

    app = build_admin(
        controller,
        configuring,
        metrics=collect,
        keyring=credentials.keyring,
        auth_failures=auth_failures,
        trail=trail,
        replays=replays,
        doors=doors,
        hooks=lambda: _hook_states(counters),
    )
    return server_config(app, credentials.context, connections)


def _hook_states(counters: HookCounters) -> tuple[HookState, ...]:
    return tuple(
        HookState(name, one.pending, one.delivered, one.dropped, one.failed_attempts)
        for name, one in sorted(counters.hooks.items())
    )


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()

"""How each fault is done: a context manager that does the harm as it is entered and heals it as it is left."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import random
import resource
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from loadtests.faults import clients
from loadtests.faults.books import Books, Kill
from loadtests.faults.gateway import Gateway, samples
from loadtests.faults.models import Endpoint

# How long the gateway may take to replace what hangs, or to come back.
_HANG_S = 20.0


@dataclass
class Site:
    """All that faults may do harm to."""

    gateway: Gateway
    stable: list[Endpoint]
    canary: Endpoint
    books: Books
    slow: clients.Flow
    draw: random.Random
    # The highest weight that was asked for.
    weight_max: float = 20.0


Act = Callable[[Site], AbstractAsyncContextManager[None]]


def behaviour(index: int, behaviour: str) -> Act:
    """One of stable's endpoints does this to its requests; its probe is well."""

    @asynccontextmanager
    async def act(site: Site) -> AsyncIterator[None]:
        site.stable[index].behaviour = behaviour
        try:
            yield
        finally:
            site.stable[index].behaviour = "ok"

    return act


def probes(probe: str) -> Act:
    """All of stable's endpoints do this to their probes; their requests are well."""

    @asynccontextmanager
    async def act(site: Site) -> AsyncIterator[None]:
        for endpoint in site.stable:
            endpoint.probe = probe
        try:
            yield
        finally:
            for endpoint in site.stable:
                endpoint.probe = "ok"

    return act


@asynccontextmanager
async def gone(endpoint: Endpoint) -> AsyncIterator[None]:
    """The endpoint's process is gone."""
    await endpoint.stop()
    try:
        yield
    finally:
        await endpoint.start()


@asynccontextmanager
async def canary_bad(site: Site) -> AsyncIterator[None]:
    """The canary answers nothing that is of use."""
    behaviour = site.draw.choice(("fail", "hang", "reset", "garbage"))
    site.canary.behaviour = behaviour
    try:
        yield
    finally:
        site.canary.behaviour = "ok"


def stopped(kind: str) -> Act:
    """A process of this kind is stopped, and goes on."""

    @asynccontextmanager
    async def act(site: Site) -> AsyncIterator[None]:
        pid = site.draw.choice(site.gateway.children(kind))
        site.gateway.signal(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            site.gateway.signal(pid, signal.SIGCONT)

    return act


@asynccontextmanager
async def killed_control(site: Site) -> AsyncIterator[None]:
    """Control is killed."""
    _kill(site, "control")
    yield


def _kill(site: Site, kind: str) -> None:
    for pid in site.gateway.children(kind):
        site.gateway.signal(pid, signal.SIGKILL)


@asynccontextmanager
async def killed_worker(site: Site) -> AsyncIterator[None]:
    """A worker is killed: what it had in hand is lost."""
    pid = site.draw.choice(site.gateway.children("worker"))
    since_s = time.monotonic()
    site.gateway.signal(pid, signal.SIGKILL)
    await _until(lambda: pid not in site.gateway.children("worker"))
    site.books.kills.append(Kill(since_s, time.monotonic()))
    yield


@asynccontextmanager
async def retired_worker(site: Site) -> AsyncIterator[None]:
    """A worker gets SIGTERM, which only the supervisor has to notice."""
    pid = site.draw.choice(site.gateway.children("worker"))
    site.gateway.signal(pid, signal.SIGTERM)
    yield
    await _until(lambda: pid not in site.gateway.children("worker"))


@asynccontextmanager
async def hung_worker(site: Site) -> AsyncIterator[None]:
    """Stopped until the supervisor has had enough of it; only if it never does, until the end."""
    pid = site.draw.choice(site.gateway.children("worker"))
    since_s = time.monotonic()
    site.gateway.signal(pid, signal.SIGSTOP)
    replaced = asyncio.ensure_future(_until(lambda: pid not in site.gateway.children("worker")))
    replaced.add_done_callback(lambda _: site.books.kills.append(Kill(since_s, time.monotonic())))
    try:
        yield
        await replaced
    finally:
        if not replaced.done():
            replaced.cancel()
        site.gateway.signal(pid, signal.SIGCONT)


@asynccontextmanager
async def hung_control(site: Site) -> AsyncIterator[None]:
    """Stopped until the supervisor has had enough of it."""
    (pid,) = site.gateway.children("control")
    site.gateway.signal(pid, signal.SIGSTOP)
    try:
        yield
        await _until(lambda: pid not in site.gateway.children("control"))
    finally:
        site.gateway.signal(pid, signal.SIGCONT)


@asynccontextmanager
async def worker_born_without_control(site: Site) -> AsyncIterator[None]:
    """The killed worker's successor has nobody to ask which version is stable."""
    async with stopped("control")(site), killed_worker(site):
        yield


async def _until(condition: Callable[[], bool]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_HANG_S):
            while not condition():
                await asyncio.sleep(0.02)


def busy(count: int, request: Callable[[Site], bytes]) -> Act:
    """So many clients of the admin listener on kept connections, each asking again as soon as it is answered."""

    @asynccontextmanager
    async def act(site: Site) -> AsyncIterator[None]:
        async def run() -> None:
            while True:
                with contextlib.suppress(OSError, EOFError):
                    connection = clients.Connection(*await asyncio.open_connection(*site.gateway.admin_address))
                    try:
                        while True:
                            connection.writer.write(request(site))
                            await clients.answer(connection.reader)
                    finally:
                        connection.reset()
                await asyncio.sleep(0.05)

        tasks = [asyncio.create_task(run()) for _ in range(count)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    return act


def _ask(first: str, *lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join((first, "host: 127.0.0.1", *lines, f"content-length: {len(body)}", "", "")).encode() + body


def scrape(_: Site) -> bytes:
    """A scrape."""
    return _ask("GET /metrics HTTP/1.1")


def foreign(_: Site) -> bytes:
    """What a page of another origin asks for."""
    lines = ("origin: http://elsewhere.example", "content-type: application/json")
    return _ask("PUT /api/v1/routes/plain/weight HTTP/1.1", *lines, body=b"{}")


def large_configuration(site: Site) -> bytes:
    """A configuration of 3,000 routes, which is checked and not put in force; never the same twice."""
    body = _LARGE + b"# %d" % site.draw.randrange(1 << 30)
    return _ask("PUT /api/v1/config?dry_run=true HTTP/1.1", "content-type: application/yaml", body=body)


_LARGE = b"backends:\n  v1: {endpoints: ['http://127.0.0.1:9']}\nroutes:\n" + b"".join(
    b"  - {name: r%d, match: {path_prefix: /m%d}, stable: v1}\n" % (n, n) for n in range(3000)
)


@asynccontextmanager
async def silent_admins(site: Site) -> AsyncIterator[None]:
    """More silent connections than control has descriptors for."""
    (pid,) = site.gateway.children("control")
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(256, soft), hard))
    opened = []
    try:
        for _ in range(400):
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(1.0):
                    opened.append(await asyncio.open_connection(*site.gateway.admin_address))
        yield
    finally:
        for _, writer in opened:
            writer.close()
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


@asynccontextmanager
async def state_away(site: Site) -> AsyncIterator[None]:
    """The state directory is renamed, and comes back."""
    kept = site.gateway.state_dir.with_name("state.away")
    site.gateway.state_dir.rename(kept)
    try:
        yield
    finally:
        kept.rename(site.gateway.state_dir)


@asynccontextmanager
async def journal_emptied(site: Site) -> AsyncIterator[None]:
    """Emptied under a running control, which is then killed."""
    for path in site.gateway.state_dir.glob("state.sqlite3*"):
        os.truncate(path, 0)
    await asyncio.sleep(2.0)
    _kill(site, "control")
    yield


@asynccontextmanager
async def stored_configuration_broken(site: Site) -> AsyncIterator[None]:
    """The state file that has a configuration given over the API is damaged, and control is killed."""
    admin = site.gateway.admin
    given = copy.deepcopy(site.gateway.config)
    given["backends"]["canary"]["keepalive_s"] = 3.0
    await _asked(lambda: admin.put("/api/v1/config", json=given))
    path = site.gateway.state_dir / "state.sqlite3"
    whole = path.read_bytes()
    path.write_bytes(b"damaged " + whole[8:])
    _kill(site, "control")
    try:
        yield
    finally:
        path.write_bytes(whole)
        _kill(site, "control")
        await _asked(lambda: admin.delete("/api/v1/config"))


async def _asked(ask: Callable[[], Coroutine[Any, Any, httpx.Response]]) -> None:
    """Ask until it is granted: control may be busy, or away."""
    async with asyncio.timeout(_HANG_S):
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if (await ask()).status_code == 200:
                    return
            await asyncio.sleep(0.2)


@asynccontextmanager
async def reload(site: Site) -> AsyncIterator[None]:
    """The file has other limits: every worker is replaced."""
    site.gateway.config["limits"]["keepalive_s"] = 60 + site.draw.randrange(100)
    site.gateway.write()
    site.gateway.process.send_signal(signal.SIGHUP)
    yield
    await _until(lambda: len(site.gateway.children("worker")) == 2)


@asynccontextmanager
async def bad_file(site: Site) -> AsyncIterator[None]:
    """The file cannot be read as a configuration, and is repaired."""
    site.gateway.write("routes: [")
    site.gateway.process.send_signal(signal.SIGHUP)
    try:
        yield
    finally:
        site.gateway.write()
        before = sum(samples(await site.gateway.metrics(), "gateway_config_reloads_total").values())
        site.gateway.process.send_signal(signal.SIGHUP)
        await site.gateway.until(
            lambda text: sum(samples(text, "gateway_config_reloads_total").values()) != before, "a reload"
        )


@asynccontextmanager
async def weights(site: Site) -> AsyncIterator[None]:
    """Somebody sets the canary's weight."""
    percent = site.draw.choice((0.0, 5.0, 20.0, 50.0))
    site.weight_max = max(percent, 20.0)
    with contextlib.suppress(httpx.HTTPError):
        await site.gateway.admin.put("/api/v1/routes/both/weight", json={"canary_percent": percent})
    yield


@asynccontextmanager
async def slow_uploads(site: Site) -> AsyncIterator[None]:
    """More of them than stable has connections, from one address."""
    healed = asyncio.Event()
    tasks = [asyncio.create_task(clients.slow_upload(site.slow, healed, "127.0.0.2")) for _ in range(250)]
    try:
        yield
    finally:
        healed.set()
        await asyncio.gather(*tasks)

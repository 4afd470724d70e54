"""A soak: a whole gateway under steady load while faults are injected at random, and its books are checked at the end.

    make soak                                     ten minutes
    python loadtests/soak.py --seconds 20 --seed 7

What is held:

1. Every request of a client has exactly one end: a whole answer, an answer that was cut, or the client's own leaving.
   None goes unanswered, and no connection is refused.
2. The gateway's sums are the clients': answers by status, faults that it made itself by reason, and those that left.
   (Who resets a connection cannot know how far its request has come; by so many the sums may differ, and no more.)
3. At the end nothing is left: no request, no connection up or down, no descriptor, and memory is where it was.

Faults: stable and canary fail, hang, break off and refuse; routes change their weight; the configuration is read again,
with and without mistakes, and workers are replaced by it, told to stop, or frozen for a moment. A worker that is killed
loses its requests by definition; that is a test of its own (tests/e2e).
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import os
import random
import re
import signal
import socket
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import yaml

CLIENTS = 16
_QUIET_S = 30.0
_READY = re.compile(r"serving on http://([\d.]+):(\d+), admin on (\S+), ")
_BODY = b'{"inputs": [1, 2, 3]}'
_RESET = struct.pack("ii", 1, 0)


class Model:
    """A backend that behaves as it is told: ``ok``, ``slow``, ``fails``, ``hangs``, ``breaks``, ``resets``."""

    def __init__(self, draw: random.Random) -> None:
        self.mode = "ok"
        self._draw = draw
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Be gone: nothing listens, and what was open is reset."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head.lower())
                await reader.readexactly(int(length[1]) if length else 0)
                await self._answer(writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._tasks.discard(task)

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        mode = self.mode if self._draw.random() < 0.5 else "ok"
        size = self._draw.choice((20, 2_000, 200_000))
        if mode == "slow":
            await asyncio.sleep(self._draw.random() * 0.3)
        elif mode == "hangs":
            await asyncio.sleep(5)
        elif mode == "resets":
            raise ConnectionResetError
        status = 500 if mode == "fails" else 200
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n" % (status, size))
        if mode == "breaks":
            writer.write(bytes(size // 2))
            await writer.drain()
            raise ConnectionResetError
        writer.write(bytes(size))
        await writer.drain()


class Books:
    """What the clients have seen."""

    def __init__(self) -> None:
        self.sent = 0
        self.answers: collections.Counter[int] = collections.Counter()
        self.errors: collections.Counter[str] = collections.Counter()
        self.cut = 0
        self.left = 0
        self.unanswered: list[str] = []


async def client(address: tuple[str, int], books: Books, draw: random.Random, stop: asyncio.Event) -> None:
    """Requests one after the other on kept connections; now and then one is given up."""
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    while not stop.is_set():
        if connection is None:
            connection = await asyncio.open_connection(*address)
        if not await _one(*connection, books, draw):
            connection[1].transport.abort()
            connection = None
        await asyncio.sleep(draw.random() * 0.05)
    if connection is not None:
        connection[1].close()


async def _one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, books: Books, draw: random.Random) -> bool:
    """One request to its one end; whether the connection can be used on."""
    leaves = draw.random() < 0.02
    books.sent += 1
    writer.write(b"POST /infer HTTP/1.1\r\nhost: soak\r\ncontent-length: %d\r\n\r\n%b" % (len(_BODY), _BODY))
    if leaves:
        with contextlib.suppress(TimeoutError, asyncio.IncompleteReadError, OSError):
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), draw.random() * 0.02)
        books.left += 1
        with contextlib.suppress(OSError):  # the gateway was quicker to close
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        return False
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
    except (asyncio.IncompleteReadError, OSError) as error:
        # An answer may be cut inside its head only by the gateway's own fault: it writes heads in one piece.
        books.unanswered.append(repr(error))
        return False
    length = re.search(rb"content-length: (\d+)", head)
    assert length is not None, head
    try:
        await reader.readexactly(int(length[1]))
    except (asyncio.IncompleteReadError, OSError):
        books.cut += 1
        return False
    books.answers[int(head[9:12])] += 1
    reason = re.search(rb"x-gateway-error: (\w+)", head)
    if reason is not None:
        books.errors[reason[1].decode()] += 1
    return b"connection: close" not in head


class Gateway:
    """The process tree under test."""

    def __init__(self, directory: Path, settings: dict[str, Any]) -> None:
        self.path = directory / "gateway.yaml"
        self.settings = settings
        self.log = b""

    async def start(self) -> None:
        """Start it, and wait until it is ready."""
        self.write(self.settings)
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "serve", str(self.path)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert self.process.stdout is not None
        found = _READY.search((await self.process.stdout.readline()).decode())
        assert found is not None, "it does not start"
        self.address = (found[1], int(found[2]))
        self.admin = httpx.AsyncClient(base_url=found[3], timeout=30)
        self._reading = asyncio.create_task(self._read())
        await self.until(lambda text: "gateway_ready 1.0" in text, "it gets ready")

    async def _read(self) -> None:
        assert self.process.stderr is not None
        while piece := await self.process.stderr.read(65536):
            self.log += piece

    def write(self, settings: dict[str, Any]) -> None:
        """Put a configuration in place."""
        self.path.write_text(yaml.safe_dump(settings))

    async def metrics(self) -> str:
        """All metrics as text; empty while control is not there."""
        try:
            return (await self.admin.get("/metrics")).text
        except httpx.TransportError:
            return ""

    async def until(self, condition: Any, what: str) -> str:
        """Ask until the metrics say so."""
        text = ""
        async with asyncio.timeout(_QUIET_S):
            while not condition(text := await self.metrics()):
                await asyncio.sleep(0.1)
        assert text, what
        return text

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        out = []
        for pid in map(int, listed):
            with contextlib.suppress(OSError):
                if b"gateway.proxy.server" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    out.append(pid)
        return out

    async def stop(self) -> int:
        """Stop it; its exit status."""
        await self.admin.aclose()
        self.process.terminate()
        status = await asyncio.wait_for(self.process.wait(), 60)
        await self._reading
        return status


def samples(text: str, name: str, label: str = "") -> collections.Counter[str]:
    """A metric's values, summed by one of its labels."""
    out: collections.Counter[str] = collections.Counter()
    for labels, value in re.findall(rf"^{name}(?:\{{(.*?)\}})? (\S+)$", text, re.MULTILINE):
        found = re.search(rf'{label}="(.*?)"', labels) if label else None
        out[found[1] if found else ""] += int(float(value))
    return out


def resources(pid: int) -> tuple[int, int]:
    """(open descriptors, resident KiB) of a process."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return len(list(Path(f"/proc/{pid}/fd").iterdir())), int(found[1]) if found else 0


async def harm(gateway: Gateway, models: list[Model], draw: random.Random, done: collections.Counter[str]) -> None:
    """One fault, from its beginning to its end."""
    what = draw.choice(
        ("model", "model", "model", "gone", "weight", "reload", "replace", "mistake", "retire", "freeze")
    )
    done[what] += 1
    match what:
        case "model":
            model = draw.choice(models)
            model.mode = draw.choice(("slow", "fails", "hangs", "breaks", "resets"))
            await asyncio.sleep(0.5 + draw.random())
            model.mode = "ok"
        case "gone":
            model = draw.choice(models)
            await model.stop()
            await asyncio.sleep(0.3 + draw.random())
            await model.start()
        case "weight":
            with contextlib.suppress(httpx.TransportError):
                await gateway.admin.put("/api/v1/routes/r/weight", json={"canary_percent": draw.choice((0, 20, 80))})
        case "reload" | "replace":
            if what == "replace":
                gateway.settings["limits"]["keepalive_s"] = 60 + draw.randrange(100)
            gateway.write(gateway.settings)
            await _hangup(gateway)
        case "mistake":
            gateway.path.write_text("routes: [")
            await _hangup(gateway)
            gateway.write(gateway.settings)
        case "retire":
            before = gateway.workers()
            os.kill(draw.choice(before), signal.SIGTERM)
            await _settled(gateway)
        case "freeze":
            pid = draw.choice(gateway.workers())
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(0.2 + draw.random())
            os.kill(pid, signal.SIGCONT)


async def _hangup(gateway: Gateway) -> None:
    before = sum(samples(await gateway.metrics(), "gateway_config_reloads_total").values())
    gateway.process.send_signal(signal.SIGHUP)
    await gateway.until(lambda text: sum(samples(text, "gateway_config_reloads_total").values()) > before, "a reload")
    await _settled(gateway)


async def _settled(gateway: Gateway) -> None:
    """Wait until those that drain have ended: who is frozen or told to stop twice loses requests by definition."""
    async with asyncio.timeout(_QUIET_S):
        await asyncio.sleep(0.2)
        while len(gateway.workers()) != gateway.settings["workers"]:
            await asyncio.sleep(0.1)


def _settings(stable: list[Model], canary: Model) -> dict[str, Any]:
    timeouts = {"connect_s": 1.0, "first_byte_s": 1.5, "idle_s": 5.0}

    def backend(models: list[Model]) -> dict[str, Any]:
        probe = {"path": "/", "interval_s": 0.5}
        return {"endpoints": [f"http://127.0.0.1:{model.port}" for model in models], "probe": probe}

    route = {"name": "r", "match": {"path_prefix": "/"}, "stable": "stable", "canary": "canary", "timeouts": timeouts}
    return {
        "listen": "127.0.0.1:0",
        "admin": {"listen": "127.0.0.1:0"},
        "workers": 2,
        "limits": {"keepalive_s": 75, "drain_timeout_s": 20},
        "backends": {"stable": backend(stable), "canary": backend([canary])},
        "routes": [route | {"canary_percent": 20}],
    }


def check(books: Books, text: str, wrongs: list[str]) -> dict[str, Any]:
    """Compare the books with the gateway's; returns its sums."""
    answered = samples(text, "gateway_requests_total", "code")
    errors = samples(text, "gateway_errors_total", "reason")
    aborted = sum(samples(text, "gateway_aborted_requests_total").values())

    def between(what: str, ours: int, theirs: int) -> None:
        if not ours <= theirs <= ours + books.left:
            wrongs.append(f"{what}: clients saw {ours}, the gateway counted {theirs} ({books.left} left)")

    ends = sum(books.answers.values()) + books.cut + books.left + len(books.unanswered)
    if ends != books.sent:
        wrongs.append(f"{books.sent} requests had {ends} ends")
    for code in {*map(str, books.answers), *answered}:
        between(f"status {code}", books.answers[int(code)], answered[code])
    between("faults", sum(books.errors.values()) + books.cut, sum(errors.values()))
    counted = sum(answered.values()) + books.cut + aborted
    if not books.sent - books.left <= counted <= books.sent:
        wrongs.append(f"{books.sent} were sent, {counted} were counted ({books.left} left)")
    return {"answered": dict(answered), "errors": +errors, "aborted": aborted}


async def soak(seconds: float, seed: int) -> int:
    """Run it; 0 when all was as promised."""
    draw = random.Random(seed)
    models = [Model(random.Random(seed + n)) for n in range(3)]
    for model in models:
        await model.start()
    books, stop, done = Books(), asyncio.Event(), collections.Counter[str]()
    wrongs: list[str] = []
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        gateway = Gateway(Path(directory), _settings(models[:2], models[2]))
        await gateway.start()
        before = [resources(pid) for pid in gateway.workers()]
        clients = [
            asyncio.create_task(client(gateway.address, books, random.Random(seed + 100 + n), stop))
            for n in range(CLIENTS)
        ]
        ends_s = time.monotonic() + seconds
        while time.monotonic() < ends_s:
            await harm(gateway, models, draw, done)
            await asyncio.sleep(draw.random() * 0.5)
        stop.set()
        outcomes = await asyncio.gather(*clients, return_exceptions=True)
        wrongs += [f"a client failed: {outcome!r}" for outcome in outcomes if isinstance(outcome, BaseException)]
        gauges = ("in_flight_requests", "downstream_connections", "upstream_connections")
        quiet = [f"gateway_{gauge} 0.0" for gauge in gauges]
        text = await gateway.until(lambda text: all(line in text for line in quiet), "all is quiet")
        sums = check(books, text, wrongs)
        after = [resources(pid) for pid in gateway.workers()]
        for (fds_before, kib_before), (fds, kib) in zip(before, after, strict=True):
            if fds > fds_before + 2:
                wrongs.append(f"{fds} descriptors are open, {fds_before} were at the start")
            if kib > kib_before + 40 * 1024:
                wrongs.append(f"{kib} KiB are resident, {kib_before} were at the start")
        if (status := await gateway.stop()) != 0:
            wrongs.append(f"it ended with status {status}")
        if b"Traceback" in gateway.log:
            wrongs.append(gateway.log.decode()[-4000:])
    for model in models:
        await model.stop()
    wrongs += [f"unanswered: {one}" for one in books.unanswered]
    report = {"seed": seed, "seconds": seconds, "sent": books.sent, "answers": dict(books.answers), "cut": books.cut}
    report |= {"left": books.left, "unanswered": len(books.unanswered), "faults": dict(done), "gateway": sums}
    report |= {"descriptors_kib_before": before, "descriptors_kib_after": after, "wrong": wrongs}
    print(json.dumps(report, indent=2))
    return int(bool(wrongs))


def main() -> int:
    """Entry."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    arguments = parser.parse_args()
    return asyncio.run(soak(arguments.seconds, arguments.seed))


if __name__ == "__main__":
    sys.exit(main())

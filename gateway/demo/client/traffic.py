"""Pace and connections: when each request is sent, on which connection, and what came of all of them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from time import monotonic

import msgspec

from gateway import bundled
from gateway.demo.client.answers import CHAT
from gateway.demo.client.connection import UserConnection
from gateway.demo.client.report import VARIANTS, ClientReport, ClientSettings, VariantTally

_REPORT_EVERY_S = 0.25
_ARREARS_S_MAX = 0.1
_DRAIN_S = 3.0
# As an application that shows how sure the model is.
_ASKED = ({"name": "label"}, {"name": "probabilities"})


class TrafficClient:
    """The whole client: pace, connections, tallies."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._random = random.Random(settings.seed)
        self._requests = _chats(settings) if settings.chat else _encoded(settings, settings.path)
        self._labels = [CHAT] * len(self._requests) if settings.chat else bundled.heldout().labels
        self._streams = _encoded(settings, settings.stream_path) if settings.streams else []
        self._order: list[int] = []
        self._idle: list[UserConnection] = []
        self._busy: set[UserConnection] = set()
        self._freed = asyncio.Event()
        self._tallies = {name: VariantTally() for name in (*VARIANTS, "none")}
        self._failures: dict[str, int] = {}
        self._since_s = monotonic()
        self.first_canary_s: float | None = None
        self.stopping = asyncio.Event()

    async def run(self) -> None:
        """Send requests until stopped, then wait for the answers that are still missing."""
        tasks = [asyncio.create_task(work) for work in (self._report(), self._pace())]
        stopped = asyncio.create_task(self.stopping.wait())
        await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        deadline_s = monotonic() + _DRAIN_S
        while self._busy and monotonic() < deadline_s:
            await asyncio.sleep(0.01)
            self._give_up_overdue()
        self._print(final=True)
        for connection in (*self._idle, *self._busy):
            connection.close()

    async def _pace(self) -> None:
        due_s = monotonic()
        while True:
            due_s = max(due_s + self._random.expovariate(self._settings.rate_per_s), monotonic() - _ARREARS_S_MAX)
            wait_s = due_s - monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            await self._send(self._next_input())

    def _next_input(self) -> int:
        if not self._order:
            self._order = self._random.sample(range(len(self._labels)), len(self._labels))
        return self._order.pop()

    async def _send(self, index: int) -> None:
        while not self._idle:
            if len(self._busy) < self._settings.connections:
                await self._connect()
                continue
            self._freed.clear()
            await self._freed.wait()
        connection = self._idle.pop()
        self._busy.add(connection)
        streamed = bool(self._streams) and self._random.random() < self._settings.streams
        request = self._streams[index] if streamed else self._requests[index]
        connection.send(request, self._labels[index], streamed=streamed)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: UserConnection(self), self._settings.host, self._settings.port)
        except OSError:
            # Connection refused: a request of a user, and it has failed.
            self.settle("none", monotonic(), "refused", correct=False)
            await asyncio.sleep(0.05)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(_REPORT_EVERY_S)
            self._give_up_overdue()
            self._print(final=False)

    def _give_up_overdue(self) -> None:
        now_s = monotonic()
        overdue_s = now_s - self._settings.timeout_s
        for connection in [c for c in self._busy if c.sent_s < overdue_s]:
            connection.give_up("timeout")
        if self._settings.patience_s:
            silent_s = now_s - self._settings.patience_s
            for connection in [c for c in self._busy if c.last_data_s < silent_s]:
                connection.leave()

    def _print(self, *, final: bool) -> None:
        now_s = monotonic()
        span_s = now_s - self._since_s
        report = ClientReport(
            at_s=now_s,
            requests=sum(tally.requests for tally in self._tallies.values()),
            failed=sum(tally.failed for tally in self._tallies.values()),
            variants={name: tally.report(now_s, span_s, final=final) for name, tally in self._tallies.items()},
            failures=self._failures,
            first_canary_s=self.first_canary_s,
            final=final,
        )
        sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
        sys.stdout.buffer.flush()

    # callbacks of connections

    def opened(self, connection: UserConnection) -> None:
        """A connection is there to be used."""
        self._idle.append(connection)

    def done(self, connection: UserConnection, *, reusable: bool) -> None:
        """A connection has its answer."""
        self._busy.discard(connection)
        if reusable:
            self._idle.append(connection)
        self._freed.set()

    def lost(self, connection: UserConnection) -> None:
        """A connection is gone."""
        self._busy.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._freed.set()

    def settle(self, variant: str, sent_s: float, failure: str | None, *, correct: bool) -> None:
        """A request has come to its end."""
        now_s = monotonic()
        if variant in ("canary", "rescued") and (self.first_canary_s is None or sent_s < self.first_canary_s):
            self.first_canary_s = sent_s
        if failure is not None:
            self._failures[failure] = self._failures.get(failure, 0) + 1
        tally = self._tallies.get(variant) or self._tallies["none"]
        tally.add(now_s, 1000.0 * (now_s - sent_s), failed=failure is not None, correct=correct)


def _chats(settings: ClientSettings) -> list[bytes]:
    """A request for a streamed text that goes on from each of the bundled sentences."""
    requests = []
    for prompt in bundled.prompts():
        asked = {"model": settings.chat, "messages": [{"role": "user", "content": prompt}], "max_tokens": 96}
        options = {"stream": True, "stream_options": {"include_usage": True}}
        requests.append(_posted(settings, settings.path, msgspec.json.encode({**asked, **options})))
    return requests


def _encoded(settings: ClientSettings, path: str) -> list[bytes]:
    """Each held-out input as a whole request."""
    encoded = []
    for number, pixels in enumerate(bundled.heldout().pixels):
        tensor = {"name": "pixels", "shape": [1, len(pixels)], "datatype": "FP32", "data": pixels}
        body = msgspec.json.encode({"id": str(number), "inputs": [tensor], "outputs": _ASKED})
        encoded.append(_posted(settings, path, body))
    return encoded


def _posted(settings: ClientSettings, path: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {settings.host}:{settings.port}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body

"""The client process: replays held-out digits against the gateway and measures what users see.

Rules:

1. Requests come at a paced, seeded rate with exponential gaps, whatever the answers do (an open loop), over a fixed
   number of kept connections. Only when all of them are busy does a request wait, and arrears of more than a moment
   are dropped: a machine that stalled is not punished with a burst that no user would have sent.
2. A user has seen a failure when the connection broke, no answer came in time, or the answer is not one: anything but
   a 200 with one label in it. Of an event stream (a share of ``streams``) that is the last event's; an error event is a
   failure. A user with little patience leaves when nothing has come for ``patience_s``, by closing the connection.
3. Answers are told apart by what the gateway's headers say of them: stable, canary, or *rescued* (stable answered what
   the canary had failed). An answer without them counts as `none`.
4. One JSON line (`Report`) on standard output four times a second, and a last one on SIGTERM or when standard input
   ends. Times are CLOCK_MONOTONIC, which the processes of one machine share.

It shares a small machine with all that it measures, so it is written to cost little: httptools on bare transports, and
bodies that are encoded once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import signal
import sys
from collections import deque
from time import monotonic
from typing import cast

import httptools
import msgspec
import uvloop

from gateway import bundled
from gateway.demo.scenarios import ERROR_EVENT, GAVE_UP

VARIANTS = ("stable", "canary", "rescued")
_REPORT_EVERY_S = 0.25
_RECENT_S = 3.0
_ARREARS_S_MAX = 0.1
_DRAIN_S = 3.0
_ERROR_EVENT = b"event: error\n"
# As an application that shows how sure the model is.
_ASKED = ({"name": "label"}, {"name": "probabilities"})


class Settings(msgspec.Struct, frozen=True):
    """What the client is told, as one JSON line on standard input."""

    host: str
    port: int
    path: str
    seed: int
    rate_per_s: float = 250.0
    connections: int = 64
    timeout_s: float = 10.0
    streams: float = 0.0
    stream_path: str = ""
    patience_s: float = 0.0


class VariantReport(msgspec.Struct, frozen=True):
    """What was seen of one variant. Latencies and rate are of the last seconds, except in the last report: of all."""

    requests: int
    failed: int
    correct: int
    rate_per_s: float
    p50_ms: float | None
    p95_ms: float | None

    @property
    def accuracy(self) -> float | None:
        """The share of right labels among the good answers; None without any."""
        good = self.requests - self.failed
        return self.correct / good if good else None


class Report(msgspec.Struct, frozen=True):
    """What users have seen so far. ``first_canary_s`` is when the first canary request was sent."""

    at_s: float
    requests: int
    failed: int
    variants: dict[str, VariantReport]
    failures: dict[str, int]
    first_canary_s: float | None = None
    final: bool = False


class _Output(msgspec.Struct):
    name: str
    data: list[float]


class _Answer(msgspec.Struct):
    outputs: list[_Output]


_decoder = msgspec.json.Decoder(_Answer)


def label_of(body: bytes) -> int | None:
    """The label in an answer of the Open Inference Protocol; None for anything that is not one."""
    try:
        outputs = _decoder.decode(body).outputs
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    labels = [output.data for output in outputs if output.name == "label"]
    return int(labels[0][0]) if len(labels) == 1 and len(labels[0]) == 1 else None


def label_of_stream(body: bytes) -> int | None:
    """The label in the last event of a stream; None without one, and after an error event."""
    events = body.split(b"\n\n")
    if len(events) < 2 or events.pop() or holds_error(body):
        return None
    return label_of(events[-1].removeprefix(b"data: "))


def holds_error(body: bytes) -> bool:
    """Whether an event stream holds an error event."""
    return body.startswith(_ERROR_EVENT) or b"\n" + _ERROR_EVENT in body


class Tally:
    """What was seen of one variant."""

    def __init__(self) -> None:
        self.requests = self.failed = self.correct = 0
        self._all_ms: list[float] = []
        self._recent: deque[tuple[float, float]] = deque()

    def add(self, now_s: float, latency_ms: float, *, failed: bool, correct: bool) -> None:
        """One request has come to its end."""
        self.requests += 1
        self.failed += failed
        self.correct += correct
        if not failed:
            self._all_ms.append(latency_ms)
            self._recent.append((now_s, latency_ms))

    def report(self, now_s: float, span_s: float, *, final: bool) -> VariantReport:
        """Sum up: the last seconds, or in the final report the whole ``span_s``."""
        while self._recent and self._recent[0][0] < now_s - _RECENT_S:
            self._recent.popleft()
        values = sorted(self._all_ms if final else [ms for _, ms in self._recent])
        window_s = span_s if final else min(span_s, _RECENT_S)
        rate_per_s = len(values) / window_s if window_s > 0 else 0.0
        return VariantReport(
            self.requests, self.failed, self.correct, rate_per_s, _quantile(values, 0.5), _quantile(values, 0.95)
        )


def _quantile(values: list[float], q: float) -> float | None:
    return values[min(int(q * len(values)), len(values) - 1)] if values else None


class Replay:
    """The whole client: pace, connections, tallies."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._random = random.Random(settings.seed)
        self._labels = bundled.heldout().labels
        self._requests = _encoded(settings, settings.path)
        self._streams = _encoded(settings, settings.stream_path) if settings.streams else []
        self._order: list[int] = []
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._freed = asyncio.Event()
        self._tallies = {name: Tally() for name in (*VARIANTS, "none")}
        self._failures: dict[str, int] = {}
        self._since_s = monotonic()
        self.first_canary_s: float | None = None
        self.stopping = asyncio.Event()

    async def run(self) -> None:
        """Replay until told to stop, then wait for the answers that are still on their way."""
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
            await loop.create_connection(lambda: _Connection(self), self._settings.host, self._settings.port)
        except OSError:
            # Nobody listens: a request of a user, and it has failed.
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
            for connection in [c for c in self._busy if c.heard_s < silent_s]:
                connection.leave()

    def _print(self, *, final: bool) -> None:
        now_s = monotonic()
        span_s = now_s - self._since_s
        report = Report(
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

    # what connections tell

    def opened(self, connection: _Connection) -> None:
        """A connection is there to be used."""
        self._idle.append(connection)

    def done(self, connection: _Connection, *, reusable: bool) -> None:
        """A connection has its answer."""
        self._busy.discard(connection)
        if reusable:
            self._idle.append(connection)
        self._freed.set()

    def lost(self, connection: _Connection) -> None:
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


class _Connection(asyncio.Protocol):
    """One kept connection: a request, its answer, the next request."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._transport: asyncio.Transport | None = None
        self._reset()
        self.sent_s = self.heard_s = 0.0
        self._in_flight = self._streamed = False

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._variant = "none"
        self._rescued = False
        self._body: list[bytes] = []
        self._label = -1

    def send(self, request: bytes, label: int, *, streamed: bool) -> None:
        """Ask."""
        assert self._transport is not None
        self._reset()
        self._label = label
        self._in_flight, self._streamed = True, streamed
        self.sent_s = self.heard_s = monotonic()
        self._transport.write(request)

    def give_up(self, why: str) -> None:
        """No answer is awaited any more: the user has seen a failure."""
        self._settle(why)
        if self._transport is not None:
            self._transport.abort()

    def leave(self) -> None:
        """The user waits no longer: a failure, and a connection that is closed as any is."""
        self._settle(GAVE_UP)
        self.close()

    def close(self) -> None:
        """The client is done."""
        if self._transport is not None:
            self._transport.close()

    def _settle(self, failure: str | None, *, correct: bool = False) -> None:
        if self._in_flight:
            self._in_flight = False
            variant = "rescued" if self._rescued else self._variant
            self._replay.settle(variant, self.sent_s, failure, correct=correct)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._replay.opened(self)

    def data_received(self, data: bytes) -> None:
        self.heard_s = monotonic()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.give_up("malformed")

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle("reset")
        self._replay.lost(self)

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        match name.lower():
            case b"x-gateway-variant":
                self._variant = value.decode("latin-1")
            case b"x-gateway-rescued":
                self._rescued = True

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        body = b"".join(self._body)
        label = None
        if status == 200:
            label = label_of_stream(body) if self._streamed else label_of(body)
        if status != 200:
            failure: str | None = f"status {status}"
        elif self._streamed and holds_error(body):
            failure = ERROR_EVENT
        else:
            failure = "malformed" if label is None else None
        self._settle(failure, correct=label == self._label)
        self._replay.done(self, reusable=self._parser.should_keep_alive())


def _encoded(settings: Settings, path: str) -> list[bytes]:
    """Each held-out input as a whole request."""
    encoded = []
    for number, pixels in enumerate(bundled.heldout().pixels):
        tensor = {"name": "pixels", "shape": [1, len(pixels)], "datatype": "FP32", "data": pixels}
        body = msgspec.json.encode({"id": str(number), "inputs": [tensor], "outputs": _ASKED})
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {settings.host}:{settings.port}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        encoded.append(head.encode() + body)
    return encoded


async def _main(settings: Settings) -> None:
    replay = Replay(settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, replay.stopping.set)
    loop.add_reader(sys.stdin.fileno(), lambda: _heard_end(replay))
    # A collection in the middle of a measurement would be told as the gateway's latency.
    gc.collect()
    gc.freeze()
    await replay.run()


def _heard_end(replay: Replay) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        replay.stopping.set()


def main() -> None:
    """Entry of ``python -m gateway.demo.replay``: settings arrive as one JSON line on standard input."""
    settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=Settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, contextlib.suppress(BrokenPipeError):
        runner.run(_main(settings))


if __name__ == "__main__":
    main()

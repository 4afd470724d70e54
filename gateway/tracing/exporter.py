"""The exporter of traces: workers send it their records, it makes spans of them and posts them to an OTLP receiver.

Rules:

1. A process of its own: neither the SDK nor a receiver that hangs can cost a worker anything. What is not taken in time
   is dropped by the worker and counted there.
2. One post at a time, on a thread, of at most `_BATCH_MAX` spans. The SDK's exporter tries again for as long as
   ``timeout_s`` allows; what it cannot deliver by then is lost, and counted as failed.
3. Each worker is told what became of its own spans, so the counters of `/metrics` need no second source.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from gateway.runtime import spans
from gateway.runtime.child import serve_until_stopped
from gateway.runtime.logs import log_to_stderr
from gateway.runtime.settings import ExporterSettings
from gateway.runtime.spans import SpansTaken
from gateway.runtime.unix_server import unix_server
from gateway.tracing.otlp import SpanMaker

_log = logging.getLogger("gateway.tracing")
_BATCH_MAX = 2000
# Spans of all workers that wait while the receiver is slow.
_WAITING_MAX = 20_000
_POLL_S = 0.1


class _Worker:
    """One worker's connection, and what became of its spans."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.exported = 0
        self.failed = 0

    def tell(self) -> None:
        """Say so; a worker that has ended does not listen."""
        with contextlib.suppress(OSError):
            self._writer.write(spans.encode(SpansTaken(self.exported, self.failed)))


class Exporter:
    """All connections, around one queue of spans."""

    def __init__(self, settings: ExporterSettings) -> None:
        self._maker = SpanMaker(settings.service, settings.version, f"{os.uname().nodename}:{os.getppid()}")
        self._otlp = OTLPSpanExporter(settings.endpoint, headers=settings.headers, timeout=settings.timeout_s)
        self._endpoint = settings.endpoint
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="otlp")
        self._waiting: deque[tuple[_Worker, list[ReadableSpan]]] = deque()
        self._spans_waiting = 0
        self._failing = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, path: Path) -> None:
        """Listen at ``path`` (mode 0600) and export until cancelled; a socket left by an earlier life is replaced."""
        server = await unix_server(self._accept, path)
        try:
            while True:
                if self._waiting:
                    await self._export()
                else:
                    await asyncio.sleep(_POLL_S)
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def finish(self) -> None:
        """Export what is still waiting, once: the gateway ends."""
        while self._waiting and not self._failing:
            await self._export()
        self._otlp.shutdown()  # type: ignore[no-untyped-call]  # the exporter's own omission

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        worker = _Worker(writer)
        try:
            while True:
                self._take(worker, await spans.read_spans(reader))
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except ValueError as error:
            _log.error("connection closed after a protocol error: %s", error)
        finally:
            self._tasks.discard(task)
            writer.close()

    def _take(self, worker: _Worker, message: spans.Spans) -> None:
        for request in message.requests:
            made = self._maker.spans(request)
            if self._spans_waiting + len(made) > _WAITING_MAX:
                worker.failed += len(made)
            else:
                self._spans_waiting += len(made)
                self._waiting.append((worker, made))

    async def _export(self) -> None:
        batch: list[tuple[_Worker, list[ReadableSpan]]] = []
        number = 0
        while self._waiting and number < _BATCH_MAX:
            batch.append(self._waiting.popleft())
            number += len(batch[-1][1])
        self._spans_waiting -= number
        sent = [span for _, made in batch for span in made]
        result = await asyncio.get_running_loop().run_in_executor(self._thread, self._otlp.export, sent)
        good = result is SpanExportResult.SUCCESS
        if good == self._failing:  # once each time that this changes
            _log.warning(
                "traces: %s %s", self._endpoint, "takes spans again" if good else "takes no spans; they are lost"
            )
        self._failing = not good
        for worker, made in batch:
            if good:
                worker.exported += len(made)
            else:
                worker.failed += len(made)
        for worker in {id(worker): worker for worker, _ in batch}.values():
            worker.tell()


async def _serve(settings: ExporterSettings) -> None:
    exporter = Exporter(settings)
    try:
        await serve_until_stopped(exporter.run(Path(settings.path)))
    finally:
        await exporter.finish()


def main() -> None:
    """Entry of ``python -m gateway.tracing.exporter``: settings arrive as JSON on standard input."""
    settings = msgspec.json.decode(sys.stdin.buffer.read(), type=ExporterSettings)
    log_to_stderr("tracing")
    logging.getLogger("opentelemetry").setLevel(
        logging.CRITICAL
    )  # it logs each attempt; what becomes of them is said here
    asyncio.run(_serve(settings))


if __name__ == "__main__":
    main()

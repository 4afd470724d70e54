"""Spans of requests and their attempts, as plain records, and their way to the exporter (gateway/tracing).

Rules:

1. Without tracing there is no `Tracer`, and a request costs a few looks at attributes. With it, a request's record is
   made when its variant is chosen, and handed over when it settles; nothing is encoded, sent or waited for between.
2. A sampled parent is honoured, whatever it says; of requests without a parent a share is sampled. One that was not
   sampled is kept all the same if it was rescued, or answered with 5xx: those are looked for.
3. Each attempt has a span id of its own, and its backend gets that as its parent.
4. The queue is bounded. What does not fit is dropped and counted, also while no exporter is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from pathlib import Path
from time import monotonic, time
from typing import Final

from gateway.core.traffic.table import Endpoint
from gateway.proxy.heads.message_head import RequestHead
from gateway.proxy.heads.tracing import parent_of
from gateway.runtime import spans
from gateway.runtime.settings import TracingSettings
from gateway.runtime.spans import AttemptSpan, RequestSpan, Spans

SEND_EVERY_S: Final = 0.1
_RETRY_S: Final = 0.5
_BATCH_MAX: Final = 500
_UNREAD_BYTES_MAX: Final = 2 << 20
_PATH_BYTES_MAX: Final = 1024
_SERVER_ERROR: Final = 500


class RequestTrace:
    """The trace of one request while it is under way: its own span id, and its attempts so far."""

    __slots__ = ("_offset_s", "_open", "attempts", "parent_id", "sampled", "span_id", "state", "trace_id")

    def __init__(self, trace_id: bytes, parent_id: bytes, state: bytes, *, sampled: bool) -> None:
        self.trace_id = trace_id
        self.span_id = os.urandom(8).hex()
        self.parent_id = parent_id
        self.state = state
        self.sampled = sampled
        self.attempts: list[AttemptSpan] = []
        self._open: AttemptSpan | None = None
        self._offset_s = time() - monotonic()

    def wall_s(self, monotonic_s: float) -> float:
        """A time of the worker's clock in seconds since the Unix epoch."""
        return monotonic_s + self._offset_s

    def begin(self, variant: str, backend: str, endpoint: Endpoint, now_s: float) -> None:
        """Another attempt begins."""
        self._open = AttemptSpan(
            os.urandom(8).hex(), variant, backend, endpoint.host, endpoint.port, self.wall_s(now_s)
        )
        self.attempts.append(self._open)

    def again(self, now_s: float) -> None:
        """The same endpoint once more, on a fresh connection."""
        last = self.attempts[-1]
        self._open = AttemptSpan(
            os.urandom(8).hex(), last.variant, last.backend, last.host, last.port, self.wall_s(now_s)
        )
        self.attempts.append(self._open)

    def copy(self, backend: str, endpoint: Endpoint, now_s: float) -> AttemptSpan:
        """A mirrored copy of the request begins, beside the attempts."""
        at_s = self.wall_s(now_s)
        return AttemptSpan(os.urandom(8).hex(), "canary", backend, endpoint.host, endpoint.port, at_s, mirrored=True)

    def end_copy(self, span: AttemptSpan, result: str, status: int, head_s: float, now_s: float) -> None:
        """The copy has ended."""
        span.result, span.status, span.ended_s = result, status, self.wall_s(now_s)
        span.first_byte_s = self.wall_s(head_s) if head_s else 0.0

    def lines(self) -> bytes:
        """The lines of the attempt's request: its span is the backend's parent."""
        return b"" if self._open is None else self.lines_of(self._open)

    def lines_of(self, span: AttemptSpan) -> bytes:
        """The lines of a request that belongs to this span."""
        flags = b"01" if self.sampled else b"00"
        line = b"traceparent: 00-%b-%b-%b\r\n" % (self.trace_id, span.span_id.encode(), flags)
        return line + b"tracestate: %b\r\n" % self.state if self.state else line

    def failed(self, fault: str) -> None:
        """Why the attempt under way came to nothing."""
        if self._open is not None:
            self._open.fault = fault

    def end(self, result: str, status: int, head_s: float, now_s: float) -> None:
        """The attempt under way has ended; ``head_s`` 0: without an answer's head."""
        attempt, self._open = self._open, None
        if attempt is not None:
            attempt.result, attempt.status, attempt.ended_s = result, status, self.wall_s(now_s)
            attempt.first_byte_s = self.wall_s(head_s) if head_s else 0.0


class Tracer:
    """Begins the traces of one worker, and queues what is to be exported."""

    def __init__(self, settings: TracingSettings) -> None:
        self._share = settings.sample
        self._queue_max = settings.queue_max
        self._queue: deque[RequestSpan] = deque()
        # Spans that were queued and dropped here; the exporter says what became of the others.
        self.dropped = 0
        self.exported = 0
        self.failed = 0

    def begin(self, head: RequestHead, draw: float) -> RequestTrace:
        """The trace of a request (rule 2)."""
        rare = head.rare
        parent = None if rare is None else parent_of(rare.traceparents)
        if rare is None or parent is None:
            return RequestTrace(head.trace_id, b"", b"", sampled=draw < self._share)
        return RequestTrace(head.trace_id, parent[0], b",".join(rare.tracestates), sampled=parent[1])

    def wants(self, trace: RequestTrace, status: int, *, rescued: bool) -> bool:
        """Whether a request's spans are to be exported."""
        return trace.sampled or rescued or status >= _SERVER_ERROR

    def put(self, request: RequestSpan) -> None:
        """Queue a request's spans, or drop them."""
        if len(self._queue) >= self._queue_max:
            self.dropped += 1 + len(request.attempts)
        else:
            self._queue.append(request)

    def batch(self) -> Spans | None:
        """The oldest part of the queue; None when it is empty."""
        queue = self._queue
        return Spans([queue.popleft() for _ in range(min(len(queue), _BATCH_MAX))]) if queue else None


class SpanLink:
    """Carries the queue to the exporter, for as long as the worker lives."""

    def __init__(self, tracer: Tracer, control_path: str) -> None:
        self._tracer = tracer
        self._path = str(Path(control_path).with_name(spans.SOCKET_NAME))

    async def run(self) -> None:
        """Connect and send until the connection ends; and again."""
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_unix_connection(self._path)
                reading = asyncio.create_task(self._read(reader, self._tracer.exported, self._tracer.failed))
                try:
                    await self._send(writer)
                finally:
                    reading.cancel()
                    writer.close()
            await asyncio.sleep(_RETRY_S)

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        transport = writer.transport
        while not transport.is_closing():
            if transport.get_write_buffer_size() < _UNREAD_BYTES_MAX:
                batch = self._tracer.batch()
                if batch is not None:
                    writer.write(spans.encode(batch))
            await asyncio.sleep(SEND_EVERY_S)

    async def _read(self, reader: asyncio.StreamReader, exported: int, failed: int) -> None:
        """What the exporter of this connection says, added to what earlier ones said."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
            while True:
                taken = await spans.read_taken(reader)
                self._tracer.exported, self._tracer.failed = exported + taken.exported, failed + taken.failed


def path_of(target: bytes) -> str:
    """A request's path as a span has it: without its query, and no more than its beginning."""
    return target.partition(b"?")[0][:_PATH_BYTES_MAX].decode("utf-8", "backslashreplace")

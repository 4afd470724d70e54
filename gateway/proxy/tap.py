"""The tap: references to the bodies of some answers, on their way to the inspector; and events that headers tell.

Rules:

1. The choice is made with the variant, before anything is known of the answer: a coin of the route's share, then a
   budget per second for each variant of its own, so that the canary's few answers are not crowded out by stable's
   many. Neither looks at the answer; and the tests that the samples feed go by the share of canary samples that was
   realised (docs/decisions/0001), so that different budgets bend nothing.
2. What is kept are references to the very bytes that are being relayed; nothing is copied, parsed or waited for here.
3. A bounded queue lies between the request path and the sender; what does not fit is dropped and counted.
4. Only a whole answer with a 2xx status by the assigned variant is told of: never a forced one, and never a rescued
   request's, which is stable's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from pathlib import Path

from gateway.core.stats.counts import Counts
from gateway.core.traffic.table import Route, Tap
from gateway.core.types import Variant
from gateway.proxy.tally import RouteTally
from gateway.runtime import samples
from gateway.runtime.samples import Sample, Served

_QUEUE_BYTES_MAX = 8 << 20
_SERVED_MAX = 20_000
_SEND_EVERY_S = 0.025
_RETRY_S = 0.25
_UNREAD_BYTES_MAX = 4 << 20
_ID_BYTES_MAX = 200
# Short answers cost more than their bytes: a flood of tiny ones is bounded, too.
_OVERHEAD_BYTES = 256
_STREAMS = (b"text/event-stream", b"application/x-ndjson")


class SampleQueue:
    """What waits to be sent to the inspector."""

    def __init__(self) -> None:
        self.samples: deque[Sample] = deque()
        self.served: deque[Served] = deque()
        self.connected = False
        # Whether any route has a tap: without one there is nobody to be connected to.
        self.wanted = False
        self._bytes = 0

    def put(self, sample: Sample) -> bool:
        """Queue a sample; False when the queue is full."""
        size = len(sample.body) + _OVERHEAD_BYTES
        if self._bytes + size > _QUEUE_BYTES_MAX:
            return False
        self._bytes += size
        self.samples.append(sample)
        return True

    def put_served(self, served: Served) -> bool:
        """Queue the news of a request; False when the queue is full."""
        if len(self.served) >= _SERVED_MAX:
            return False
        self.served.append(served)
        return True

    def batch(self) -> samples.Batch | None:
        """The oldest part of the queue, of at most about a megabyte; None when it is empty."""
        if not self.samples and not self.served:
            return None
        taken: list[Sample] = []
        taken_bytes = 0
        while self.samples and taken_bytes < samples.BATCH_BYTES_MAX:
            sample = self.samples.popleft()
            taken_bytes += len(sample.body) + _OVERHEAD_BYTES
            taken.append(sample)
        self._bytes -= taken_bytes
        served = [self.served.popleft() for _ in range(min(len(self.served), 5_000))]
        return samples.Batch(taken, served)


class _Budget:
    """A token bucket of one second's samples."""

    __slots__ = ("_at_s", "_rate", "_tokens")

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._tokens = max(1.0, rate)
        self._at_s = 0.0

    def take(self, now_s: float) -> bool:
        tokens = self._tokens + (now_s - self._at_s) * self._rate
        self._at_s = now_s
        limit = max(1.0, self._rate)
        tokens = min(tokens, limit)
        if tokens < 1.0:
            self._tokens = tokens
            return False
        self._tokens = tokens - 1.0
        return True


class RouteTap:
    """The tap of one route under one table."""

    __slots__ = ("_budgets", "_queue", "_tally", "header_keys", "marks", "tap")

    def __init__(self, tally: RouteTally, tap: Tap, queue: SampleQueue) -> None:
        self._tally = tally
        self._queue = queue
        self.tap = tap
        # Event, header and wanted value, as they are compared.
        self.marks: tuple[tuple[str, bytes, bytes | None], ...] = tuple(
            (mark.event, mark.header.encode(), None if mark.value is None else mark.value.encode())
            for mark in tap.marks
        )
        # What is counted of each mark when its header comes, whatever it says: then somebody reports the event.
        self.header_keys: tuple[str, ...] = tuple(samples.HEADER_SEEN + mark.event for mark in tap.marks)
        self._budgets = (_Budget(tap.samples_per_s), _Budget(tap.samples_per_s))

    def begin(self, variant: Variant, method: bytes, request_id: bytes, draw: float, now_s: float) -> Specimen | None:
        """A request was assigned: what will be looked at of its answer, if anything. ``draw`` is from [0, 1)."""
        sampled = draw < self.tap.share and method == b"POST" and self._budgets[variant].take(now_s)
        if not sampled and not self.marks and not self.tap.ids:
            return None
        return Specimen(self, variant, request_id, sampled)

    def count(self, variant: Variant, what: str) -> None:
        """Count what became of a sample."""
        counts = self._tally.totals[variant].samples
        counts[what] = counts.get(what, 0) + 1

    def finish(self, specimen: Specimen) -> None:
        """The answer is whole and relayed."""
        route, epoch, weight_bp = self._tally.route.name, self._tally.evidence.epoch, self._tally.evidence.weight_bp
        variant = specimen.variant
        counts: Counts = self._tally.arms[variant]
        for index, (event, _, _) in enumerate(self.marks):
            counts.label(event, specimen.marked >> index & 1 == 1)
        if self.tap.ids:
            request_id = specimen.request_id
            if not 0 < len(request_id) <= _ID_BYTES_MAX:
                self.count(variant, "without_id")
            elif not self._queue.put_served(Served(route, epoch, weight_bp, variant, request_id.decode("latin-1"))):
                self.count(variant, "ids_dropped")
        if not specimen.sampled:
            return
        sample = Sample(
            route,
            epoch,
            weight_bp,
            variant,
            b"".join(specimen.pieces),
            specimen.content_type.decode("latin-1"),
            specimen.encoding.decode("latin-1"),
            specimen.header_length.decode("latin-1"),
        )
        if not self._queue.connected:
            self.count(variant, "away")
        else:
            self.count(variant, "taken" if self._queue.put(sample) else "dropped")


class Specimen:
    """What is kept of one answer while it is relayed. ``marked`` has a bit for each of the route's marks."""

    __slots__ = (
        "_route_tap",
        "answered",
        "body_bytes",
        "content_type",
        "encoding",
        "header_length",
        "marked",
        "pieces",
        "request_id",
        "sampled",
        "variant",
    )

    def __init__(self, route_tap: RouteTap, variant: Variant, request_id: bytes, sampled: bool) -> None:
        self._route_tap = route_tap
        self.variant = variant
        self.request_id = request_id
        self.sampled = sampled
        self.answered = False
        self.pieces: list[bytes] = []
        self.body_bytes = 0
        self.content_type = self.encoding = self.header_length = b""
        self.marked = 0

    def head(self, status: int, lines: list[bytes]) -> None:
        """The response's head; ``lines`` together are the fields as they are passed on."""
        self.answered = 200 <= status < 300
        self.sampled = self.sampled and self.answered and status not in (204, 205)
        if not self.answered:
            return
        marks = self._route_tap.marks
        for line in b"".join(lines).split(b"\r\n"):
            name, _, value = line.partition(b":")
            name, value = name.lower(), value.strip()
            if name == b"content-type":
                self.content_type = value
            elif name == b"content-encoding":
                self.encoding = value
            elif name == b"inference-header-content-length":
                self.header_length = value
            if marks:
                self._mark(name, value)
        if self.sampled and self.content_type.partition(b";")[0].strip().lower() in _STREAMS:
            self._give_up("streamed")

    def _mark(self, name: bytes, value: bytes) -> None:
        for index, (_, header, wanted) in enumerate(self._route_tap.marks):
            if name == header:
                self._route_tap.count(self.variant, self._route_tap.header_keys[index])
                if wanted is None or wanted in [part.strip() for part in value.split(b",")]:
                    self.marked |= 1 << index

    def body(self, piece: bytes) -> None:
        """A piece of the body."""
        if self.sampled:
            self.body_bytes += len(piece)
            if self.body_bytes > self._route_tap.tap.body_bytes_max:
                self._give_up("too_large")
            else:
                self.pieces.append(piece)

    def _give_up(self, why: str) -> None:
        self.sampled = False
        self.pieces.clear()
        self._route_tap.count(self.variant, why)

    def finish(self) -> None:
        """The answer is whole."""
        if self.answered:
            self._route_tap.finish(self)


def tap_of(route: Route, tally: RouteTally, queue: SampleQueue) -> RouteTap | None:
    """The route's tap; None where there is nothing to compare."""
    return None if route.tap is None or route.canary is None else RouteTap(tally, route.tap, queue)


class SampleLink:
    """Carries the queue to the inspector, for as long as the worker lives."""

    def __init__(self, queue: SampleQueue, control_path: str) -> None:
        self._queue = queue
        self._path = str(Path(control_path).with_name(samples.SOCKET_NAME))

    async def run(self) -> None:
        """Connect as soon as there is something to say, and send until the connection ends; and again."""
        while True:
            writer = await self._connect() if self._queue.wanted else None
            if writer is not None:
                self._queue.connected = True
                with contextlib.suppress(OSError):
                    await self._send(writer)
                self._queue.connected = False
                writer.close()
            await asyncio.sleep(_RETRY_S)

    async def _connect(self) -> asyncio.StreamWriter | None:
        try:
            return (await asyncio.open_unix_connection(self._path))[1]
        except OSError:
            return None

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        transport = writer.transport
        while not transport.is_closing():
            # Nothing is taken from the queue for an inspector that does not keep up: it fills, and drops.
            if transport.get_write_buffer_size() < _UNREAD_BYTES_MAX:
                batch = self._queue.batch()
                if batch is not None:
                    writer.write(samples.encode(batch))
            await asyncio.sleep(_SEND_EVERY_S)

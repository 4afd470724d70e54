"""The way of sampled answers to the inspector: a bounded queue, and the connection that empties it.

Rules:

1. The request path only appends to the queue. What does not fit is dropped and counted by who appends.
2. Nothing is taken from the queue for an inspector that does not keep up: it fills, and drops.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from pathlib import Path

from gateway.runtime import samples
from gateway.runtime.samples import AnswerPair, Sample, Served

_QUEUE_BYTES_MAX = 8 << 20
_SERVED_MAX = 20_000
_SEND_EVERY_S = 0.025
_RETRY_S = 0.25
_UNREAD_BYTES_MAX = 4 << 20
# Short answers cost more than their bytes: a flood of tiny ones is bounded, too.
_OVERHEAD_BYTES = 256


def _size(sample: Sample) -> int:
    return len(sample.body) + (0 if sample.request is None else len(sample.request)) + _OVERHEAD_BYTES


class SampleQueue:
    """What waits to be sent to the inspector."""

    def __init__(self) -> None:
        self.samples: deque[Sample] = deque()
        self.served: deque[Served] = deque()
        self.pairs: deque[AnswerPair] = deque()
        self.connected = False
        # Whether any route has a tap: without one there is nobody to be connected to.
        self.wanted = False
        self._bytes = 0
        self._streams = 0

    def put(self, sample: Sample) -> bool:
        """Queue a sample; False when the queue is full."""
        size = _size(sample)
        if self._bytes + size > _QUEUE_BYTES_MAX:
            return False
        self._bytes += size
        self.samples.append(sample)
        return True

    def put_pair(self, pair: AnswerPair) -> bool:
        """Queue both answers to a mirrored request; False when the queue is full."""
        size = _size_of(pair)
        if self._bytes + size > _QUEUE_BYTES_MAX:
            return False
        self._bytes += size
        self.pairs.append(pair)
        return True

    def next_stream(self) -> int:
        """A number for a streamed answer."""
        self._streams += 1
        return self._streams

    def lose(self, sample: Sample) -> None:
        """Report that a stream is lost, room or not: there is one such sample for each, and no body in it."""
        self._bytes += _OVERHEAD_BYTES
        self.samples.append(sample)

    def put_served(self, served: Served) -> bool:
        """Queue the news of a request; False when the queue is full."""
        if len(self.served) >= _SERVED_MAX:
            return False
        self.served.append(served)
        return True

    def batch(self) -> samples.Batch | None:
        """The oldest part of the queue, of at most about a megabyte; None when it is empty."""
        if not self.samples and not self.served and not self.pairs:
            return None
        taken: list[Sample] = []
        taken_bytes = 0
        while self.samples and taken_bytes < samples.BATCH_BYTES_MAX:
            sample = self.samples.popleft()
            taken_bytes += _size(sample)
            taken.append(sample)
        pairs: list[AnswerPair] = []
        while self.pairs and taken_bytes < samples.BATCH_BYTES_MAX:
            pair = self.pairs.popleft()
            taken_bytes += _size_of(pair)
            pairs.append(pair)
        self._bytes -= taken_bytes
        served = [self.served.popleft() for _ in range(min(len(self.served), 5_000))]
        return samples.Batch(taken, served, pairs)


def _size_of(pair: AnswerPair) -> int:
    return len(pair.stable.body) + len(pair.canary.body) + 2 * _OVERHEAD_BYTES


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
            if transport.get_write_buffer_size() < _UNREAD_BYTES_MAX:
                batch = self._queue.batch()
                if batch is not None:
                    writer.write(samples.encode(batch))
            await asyncio.sleep(_SEND_EVERY_S)

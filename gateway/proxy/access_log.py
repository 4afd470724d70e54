"""The access log: one JSON line for each request, also for those that were refused or given up by their client.

Rules:

1. A request never waits for its line. The event loop only appends bytes to a list, and a thread of its own writes them.
   What does not fit into the bounded queue, or cannot be written (a full disk, a pipe without a reader), is dropped
   and counted.
2. A line is whole or absent, whatever shares the file: several workers append to it, and writes to a pipe are no longer
   than the kernel keeps in one piece (POSIX, PIPE_BUF). A write that broke off is ended by a newline.
3. A file that was moved away or removed is opened anew within a second, so that any rotation works, and no signal.
4. Nothing that a client sent can end a line or pretend to be another field: all text is JSON text, and bounded. Bodies,
   credentials and cookies are never logged, a query only where the configuration says so.
5. The sample is drawn for each request alone, whatever became of it; failures that are logged besides say so
   (``sampled: false``). The sampled lines are therefore fair evidence, which `gateway replay` relies on.
"""

from __future__ import annotations

import os
import queue
import random
import select
import stat
import threading
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, time
from typing import Final

import msgspec

from gateway.core.errors import Blame
from gateway.proxy.heads.gateway_errors import Fault
from gateway.runtime.settings import AccessLogSettings

STDOUT: Final = "-"
STATUS_ABORTED: Final = 499
# Of a path this much is logged: enough to know it by, and a line stays below what a pipe takes in one piece.
PATH_BYTES_MAX: Final = 1024
_PATH_BYTES_SHORT = 256
_PIPE_BUF = 4096
_LOOK_AGAIN_S = 1.0
_CLOSE_S = 1.0
_FILE_MODE = 0o640


class Line(msgspec.Struct):
    """One line. Durations in milliseconds; ``counted`` is the class under which the request became evidence.

    ``status`` is 499 for a client that went away. ``variant`` answered, ``assigned`` was drawn, of the backends
    ``stable`` and ``canary`` (null: there was none); ``backend`` is the one that answered. ``counted_ms`` is the
    latency that entered the evidence, of the try that was counted. With ``counted_left`` it is how long the client had
    waited in vain for the end of that latency when it left.
    """

    ts: str
    status: int
    request_id: str = ""
    trace_id: str = ""
    span_id: str = ""
    client: str = ""
    method: str = ""
    path: str = ""
    route: str | None = None
    assigned: str | None = None
    variant: str | None = None
    epoch: int | None = None
    weight_percent: float | None = None
    stable: str | None = None
    canary: str | None = None
    backend: str | None = None
    counted: str | None = None
    counted_ms: float | None = None
    counted_left: bool = False
    blame: str = "none"
    fault: str | None = None
    detail: str | None = None
    connect_ms: float | None = None
    first_byte_ms: float | None = None
    total_ms: float = 0.0
    in_bytes: int = 0
    out_bytes: int = 0
    tries: int = 0
    rescued: bool = False
    rescue_refused: str | None = None
    forced: bool = False
    sticky: bool = False
    tunnel: bool = False
    sampled: bool = True


class AccessLog:
    """The event loop's side: samples, encodes, and hands over in batches (`flush`)."""

    def __init__(self, path: str, settings: AccessLogSettings) -> None:
        self.query = settings.query
        self._sample = settings.sample
        self._failures = settings.failures
        self._draw = random.Random().random
        self._encode = msgspec.json.Encoder().encode
        self._lines: list[bytes] = []
        self._bytes = 0
        self._bytes_max = settings.queue_bytes_max
        self._dropped = 0
        self._second = 0
        self._second_text = ""
        self.lines = 0
        self._sink = Sink(path)

    @property
    def dropped(self) -> int:
        """How many lines were not written: the queue was full, or the file could not be written."""
        return self._dropped + self._sink.failed

    def now(self) -> str:
        """The time of day in UTC, to the millisecond."""
        now_s = time()
        second = int(now_s)
        if second != self._second:
            self._second = second
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._second_text}.{int((now_s - second) * 1000):03d}Z"

    def write(self, line: Line, *, failed: bool) -> None:
        """Log a request, if the sample or its failure wants it so. Never waits, never raises for want of room."""
        if self._sample < 1.0 and self._draw() >= self._sample:
            if not (failed and self._failures):
                return
            line.sampled = False
        data = self._encode(line)
        if len(data) >= _PIPE_BUF:
            line.path = path_text(line.path.encode()[:_PATH_BYTES_SHORT])
            data = self._encode(line)
        self.lines += 1
        if self._bytes + self._sink.pending + len(data) > self._bytes_max:
            self._dropped += 1
            return
        self._lines.append(data + b"\n")
        self._bytes += len(data) + 1

    def refused(self, client: bytes, fault: Fault) -> None:
        """Log what was refused before it was a request."""
        line = Line(self.now(), fault.status, client=text(client), blame=Blame.DOWNSTREAM.value)
        line.fault, line.detail = fault.reason, fault.detail or None
        self.write(line, failed=True)

    def flush(self) -> None:
        """Hand over what has come together since the last time."""
        if self._lines:
            self._sink.put(self._lines, self._bytes)
            self._lines = []
            self._bytes = 0

    def close(self) -> None:
        """Write what is left, for a moment: a log without a reader must not delay the end."""
        self.flush()
        self._sink.close(_CLOSE_S)


def text(value: bytes) -> str:
    """What a client sent, as text: UTF-8 where it is that, escapes elsewhere."""
    return value.decode("utf-8", "backslashreplace")


def path_text(path: bytes) -> str:
    """A request's path as it is logged: no more than its beginning."""
    return text(path if len(path) <= PATH_BYTES_MAX else path[:PATH_BYTES_MAX] + b"...")


class Sink:
    """The thread's side: a file or standard output, written in whole lines; blocks in place of the event loop."""

    def __init__(self, path: str) -> None:
        self._path = None if path == STDOUT else path
        self._fd: int | None = os.dup(1) if path == STDOUT else None
        self._torn = False
        self._looked_s = 0.0
        # One side adds, the other only subtracts by adding to a number of its own: no lock is needed.
        self._given = self._done = 0
        self.failed = 0
        self._queue: queue.SimpleQueue[tuple[list[bytes], int] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Bytes that were handed over and are not yet written."""
        return self._given - self._done

    def put(self, lines: list[bytes], size: int) -> None:
        """Hand over lines of ``size`` bytes together."""
        self._given += size
        self._queue.put((lines, size))

    def close(self, timeout_s: float) -> None:
        """End the thread when it has written all, or leave it behind after ``timeout_s``."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (batch := self._queue.get()) is not None:
            lines, size = batch
            fd = self._descriptor()
            if fd is None:
                self.failed += len(lines)
            else:
                for group in _groups(lines, whole=self._is_file(fd)):
                    self._write(fd, group)
            self._done += size

    def _write(self, fd: int, data: bytes) -> None:
        lines = data.count(b"\n")
        if self._torn:
            data = b"\n" + data
        view, done = memoryview(data), 0
        try:
            while done < len(data):
                try:
                    done += os.write(fd, view[done:])
                except BlockingIOError:  # set by another process: the description is shared with others
                    _await_room(fd)
        except OSError:
            self.failed += min(lines, data.count(b"\n", done))
        if done:
            self._torn = data[done - 1] != 0x0A

    def _descriptor(self) -> int | None:
        """Where to write now; None where that cannot be opened."""
        if self._path is None:
            return self._fd
        now_s = monotonic()
        if now_s - self._looked_s < _LOOK_AGAIN_S:
            return self._fd
        self._looked_s = now_s
        if self._fd is not None and not _same_file(self._fd, self._path):
            os.close(self._fd)
            self._fd = None
        if self._fd is None:
            try:
                self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
            except OSError:
                return None
            self._torn = False
        return self._fd

    def _is_file(self, fd: int) -> bool:
        return stat.S_ISREG(os.fstat(fd).st_mode)


def _same_file(fd: int, path: str) -> bool:
    try:
        ours, theirs = os.fstat(fd), Path(path).stat()
    except OSError:
        return False
    return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)


def _await_room(fd: int) -> None:
    poll = select.poll()  # select() knows no descriptor beyond 1023
    poll.register(fd, select.POLLOUT)
    poll.poll()


def _groups(lines: list[bytes], *, whole: bool) -> list[bytes]:
    """Whole lines in as few writes as the target allows."""
    if whole:
        return [b"".join(lines)]
    groups: list[bytes] = []
    group: list[bytes] = []
    size = 0
    for line in lines:
        if size + len(line) > _PIPE_BUF and group:
            groups.append(b"".join(group))
            group, size = [], 0
        group.append(line)
        size += len(line)
    return [*groups, b"".join(group)]

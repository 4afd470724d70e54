"""Logs of the processes: lines on standard error, as text or as JSON, that nobody ever waits for.

Rules:

1. A pipe without a reader blocks its writer. Behind an event loop that carries requests or decides about rollbacks
   there must be no such pipe: a line is put into a bounded queue, and a thread of its own writes it.
2. What does not fit into the queue, or cannot be written, is dropped and counted (`dropped`); the next line that is
   written follows one that says how many are missing.
3. Written is with ``os.write`` on the descriptor: Python's buffered streams have a lock, which a thread that is blocked
   in a full pipe would hold when the process ends.
4. As JSON a line is one object, whatever is in its message: ``ts``, ``level``, ``process``, ``logger``, ``message``,
   and where there are any ``exception`` and the ``trace_id`` of the request that it is about.

The format comes to a child in its environment (`FORMAT_VARIABLE`), so that it holds from its first line on.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import re
import select
import threading
import time
from collections import deque
from contextvars import ContextVar
from typing import Final, Protocol

FORMAT_VARIABLE: Final = "GATEWAY_LOG_FORMAT"
STDERR: Final = 2
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-|\Z)")
_QUEUE_BYTES_MAX = 4 << 20
# At the end, a sleeping reader is given this long.
_FLUSH_S = 1.0
_LOST = "log lines were dropped before this one, because standard error was not read or could not be written: %d"

# The trace of the request that is being worked on, as W3C Trace Context writes it; the empty text where there is none.
trace_id: ContextVar[str] = ContextVar("trace_id", default="")


def log_to_stderr(name: str, log_format: str | None = None) -> None:
    """Log lines on standard error with the process's ``name``; the format is the environment's if not given."""
    chosen = log_format or os.environ.get(FORMAT_VARIABLE, "text")
    lines = LogLines(_Json(name) if chosen == "json" else _Text(name))
    logging.basicConfig(handlers=[lines], level=logging.WARNING, force=True)
    logging.getLogger("httpx").setLevel(logging.ERROR)
    atexit.register(flush)


def flush() -> None:
    """Wait until all lines are written, for a second at most: what is printed next comes after them."""
    for handler in _handlers():
        handler.flush_for(_FLUSH_S)


def dropped() -> int:
    """How many lines of this process were dropped."""
    return sum(handler.dropped for handler in _handlers())


def _handlers() -> list[LogLines]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, LogLines)]


def trace_id_in(traceparents: list[str]) -> str:
    """The trace id of a request's one valid ``traceparent``, for its log lines; else the empty text.

    >>> trace_id_in(["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"])
    '0af7651916cd43dd8448eb211c80319c'
    >>> trace_id_in(["00-00000000000000000000000000000000-b7ad6b7169203331-01"]), trace_id_in([])
    ('', '')
    """
    found = _TRACEPARENT.match(traceparents[0]) if len(traceparents) == 1 else None
    return found[1] if found and found[1].strip("0") else ""


class LineFormat(Protocol):
    """Makes a line of a record."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""


class _Text(logging.Formatter):
    """Time (ISO 8601, UTC), process, level, message; a traceback on lines of its own."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self, name: str) -> None:
        super().__init__(f"%(asctime)s {name} %(levelname)s %(message)s")


class _Json(_Text):
    """One object a line."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._name = name

    def format(self, record: logging.LogRecord) -> str:
        """The object."""
        line = {
            "ts": self.formatTime(record),
            "level": record.levelname,
            "process": self._name,
            "logger": record.name,
            "message": record.getMessage(),
        }
        trace = getattr(record, "trace_id", "") or trace_id.get()
        if trace:
            line["trace_id"] = trace
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class LogLines(logging.Handler):
    """A handler that queues what a thread of its own writes."""

    def __init__(self, form: LineFormat, fd: int = STDERR, bytes_max: int = _QUEUE_BYTES_MAX) -> None:
        super().__init__()
        self._form = form
        self._fd = fd
        self._bytes_max = bytes_max
        self.dropped = 0
        self._reported = 0
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        threading.Thread(target=self._write_all, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue it, or drop it. Never waits, never raises."""
        try:
            line = (self._form.format(record) + "\n").encode("utf-8", "backslashreplace")
        except Exception:  # noqa: BLE001  # a message that does not fit its arguments must not stop who logs it
            self.handleError(record)
            return
        with self._changed:
            if self._bytes + len(line) > self._bytes_max:
                self.dropped += 1
                return
            self._waiting.append(line)
            self._bytes += len(line)
            self._changed.notify_all()

    def flush_for(self, timeout_s: float) -> None:
        """Wait until all is written, but no longer than this."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, timeout_s)

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
                line, missing = self._waiting[0], self.dropped - self._reported
            # It stays in the queue until it is written, so that `flush_for` waits for it.
            if missing and self._write(self._lost(missing)):
                self._reported += missing
            written = self._write(line)
            with self._changed:
                self._waiting.popleft()
                self._bytes -= len(line)
                self.dropped += not written
                self._changed.notify_all()

    def _lost(self, many: int) -> bytes:
        record = logging.LogRecord("gateway.logs", logging.WARNING, "", 0, _LOST, (many,), None)
        return (self._form.format(record) + "\n").encode("utf-8", "backslashreplace")

    def _write(self, line: bytes) -> bool:
        """Write a line as a whole, however long that takes; whether that was possible."""
        left = memoryview(line)
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:  # whoever shares the pipe has made it non-blocking
                select.select([], [self._fd], [])
            except OSError:
                return False
        return True

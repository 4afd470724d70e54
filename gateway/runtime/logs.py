"""Logging that never waits: lines go to standard error through a thread; a reader who sleeps costs lines only.

A pipe without a reader blocks its writer. Behind the event loop that decides about rollbacks there must be
no such pipe, so its lines wait in a bounded queue, and what does not fit is dropped and counted.
"""

from __future__ import annotations

import atexit
import logging
import logging.handlers
import queue
import sys
import threading
import time
from typing import TextIO

_LINES_MAX = 10_000
# At the end, a sleeping reader is given this long.
_FLUSH_S = 1.0


def log_to_stderr(name: str) -> None:
    """Plain lines on standard error, with the process's name in front."""
    lines = Lines(name, sys.stderr)
    logging.basicConfig(handlers=[lines], level=logging.WARNING, force=True)
    logging.getLogger("httpx").setLevel(logging.ERROR)
    atexit.register(lines.flush_for, _FLUSH_S)


class _Utc(logging.Formatter):
    """Times as ISO 8601 in UTC."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"


class Lines(logging.handlers.QueueHandler):
    """A handler that queues what a thread of its own writes."""

    def __init__(self, name: str, stream: TextIO, lines_max: int = _LINES_MAX) -> None:
        self._waiting: queue.Queue[logging.LogRecord] = queue.Queue(lines_max)
        super().__init__(self._waiting)
        self.setFormatter(logging.Formatter())  # the message with its traceback; the rest is added when it is written
        self.dropped = 0
        self._reported = 0
        self._out = logging.StreamHandler(stream)
        self._out.setFormatter(_Utc(f"%(asctime)s {name} %(levelname)s %(message)s"))
        self._quiet = threading.Condition()
        self._open = 0
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue it, or drop it."""
        with self._quiet:
            self._open += 1
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self.dropped += 1
            self._done()

    def flush_for(self, timeout_s: float) -> None:
        """Wait until all is written, but no longer than this."""
        with self._quiet:
            self._quiet.wait_for(lambda: not self._open, timeout_s)

    def _done(self) -> None:
        with self._quiet:
            self._open -= 1
            self._quiet.notify_all()

    def _write(self) -> None:
        while True:
            record = self._waiting.get()
            if self.dropped > self._reported:
                record.msg, self._reported = (
                    f"{record.msg} (before this, {self.dropped} lines were dropped)",
                    self.dropped,
                )
            self._out.handle(record)
            self._done()

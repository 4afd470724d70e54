"""The open-loop client: requests at fixed moments, whatever has become of the earlier ones.

    python pace.py PORT REQUEST_FILE RATE SECONDS [--close] [--events]

Rules:

1. Request k is due at start + k / RATE. Its time counts from that moment, also when it had to wait for a free
   connection: a proxy that stalls is charged with all that it kept waiting ("coordinated omission" otherwise).
2. The first quarter of a second is not counted: connections and caches are cold.
3. With ``--events`` the times are of the single events: from the moment that the backend wrote into the event, on the
   same monotonic clock, until it is read here.
4. One epoll loop without a framework: an event loop's timers have a grain of a millisecond, as long as what is
   measured here. Waiting is by select(2), whose timeout has microseconds.

Prints one JSON object.
"""

from __future__ import annotations

import argparse
import errno
import json
import re
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

_CONNECTIONS_MAX = 256
_WARMUP_NS = 250_000_000
_DRAIN_NS = 2_000_000_000
_READ_BYTES = 1 << 18
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_EVENT = re.compile(rb'data: (?:{"t":)?(\d+)[\n,]')
# As in workloads.py, which a program on its own does not see.
_MARK = b"@" * 16


class Connection:
    """One connection and the exchange that is under way on it."""

    def __init__(self, port: int) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        refused = self.socket.connect_ex(("127.0.0.1", port))
        if refused not in {0, errno.EINPROGRESS}:
            self.socket.close()
            raise OSError(refused, "cannot connect")
        self.due_ns = 0
        self._unsent = memoryview(b"")
        self._head = b""
        self._left: int | None = None
        self._tail = b""

    def begin(self, due_ns: int, request: bytes) -> bool:
        """Start an exchange; whether all of the request is on its way."""
        self.due_ns, self._unsent, self._head, self._left = due_ns, memoryview(request), b"", None
        return self.send()

    def send(self) -> bool:
        """Send what fits; whether nothing is left."""
        try:
            while self._unsent:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
        except BlockingIOError:
            return False
        return True

    def receive(self, times: list[int] | None) -> bool:
        """Take what has come; whether the answer is complete. Raises OSError for a broken or refused exchange."""
        data = self.socket.recv(_READ_BYTES)
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "closed before the answer was complete")
        if times is not None:
            self._stamp(data, times)
        if self._head.endswith(b"\r\n\r\n"):
            return self._body(data)
        self._head, mark, body = (self._head + data).partition(b"\r\n\r\n")
        self._head += mark
        if not mark:
            return False
        if not self._head.startswith(b"HTTP/1.1 200"):
            raise OSError(errno.EPROTO, self._head.partition(b"\r\n")[0].decode(errors="replace"))
        length = _LENGTH.search(self._head)
        self._left = int(length[1]) if length else None
        self._tail = b""
        return self._body(body)

    def _body(self, data: bytes) -> bool:
        if self._left is not None:
            self._left -= len(data)
            return self._left <= 0
        self._tail = (self._tail + data)[-5:]
        return self._tail == b"0\r\n\r\n"

    def _stamp(self, data: bytes, times: list[int]) -> None:
        now_ns = time.monotonic_ns()
        times += [now_ns - int(stamp) for stamp in _EVENT.findall(data)]


class Client:
    """The load: due moments on one side, connections on the other."""

    def __init__(self, port: int, request: bytes, rate: float, seconds: float, close: bool, events: bool) -> None:
        self._port, self._request, self._close = port, request, close
        self._varied = _MARK in request
        self._gap_ns = 1e9 / rate
        self._count = int(rate * seconds)
        self._begin_ns = time.monotonic_ns() + 10_000_000
        self._epoll = select.epoll()
        self._free: deque[Connection] = deque()
        self._open: dict[int, Connection] = {}
        self._waiting: deque[int] = deque()
        self._events = events
        self._event_ns: list[int] = []
        self._request_ns: list[int] = []
        self._sent = self._answered = self._errors = 0

    def run(self) -> dict[str, float | None]:
        """Send everything, wait for what is under way, report."""
        end_ns = self._begin_ns + int(self._count * self._gap_ns) + _DRAIN_NS
        while (now_ns := time.monotonic_ns()) < end_ns and self._answered + self._errors < self._count:
            while self._sent < self._count and self._due_ns(self._sent) <= now_ns:
                self._waiting.append(self._due_ns(self._sent))
                self._sent += 1
            self._launch()
            self._wait(end_ns)
        times = sorted(self._event_ns if self._events else self._request_ns)
        return {
            "asked": self._count,
            "answered": self._answered,
            "errors": self._count - self._answered,  # what failed and what was not answered in time
            "p50_us": percentile_us(times, 0.50),
            "p99_us": percentile_us(times, 0.99),
        }

    def _due_ns(self, index: int) -> int:
        return self._begin_ns + int(index * self._gap_ns)

    def _launch(self) -> None:
        while self._waiting and (self._free or len(self._open) < _CONNECTIONS_MAX):
            due_ns = self._waiting.popleft()
            connection = None
            try:
                connection = self._free.popleft() if self._free else self._connect()
                request = self._request.replace(_MARK, b"%016x" % due_ns) if self._varied else self._request
                self._watch(connection, connection.begin(due_ns, request))
            except OSError:
                self._fail(connection)

    def _connect(self) -> Connection:
        connection = Connection(self._port)
        self._open[connection.socket.fileno()] = connection
        self._epoll.register(connection.socket, select.EPOLLIN)
        return connection

    def _watch(self, connection: Connection, sent: bool) -> None:
        if not sent:
            self._epoll.modify(connection.socket, select.EPOLLIN | select.EPOLLOUT)

    def _wait(self, end_ns: int) -> None:
        until_ns = self._due_ns(self._sent) if self._sent < self._count else end_ns
        timeout_s = max(0.0, (until_ns - time.monotonic_ns()) / 1e9)
        if not select.select([self._epoll], [], [], timeout_s)[0]:
            return
        for descriptor, what in self._epoll.poll(0):
            connection = self._open[descriptor]
            try:
                if what & select.EPOLLOUT and connection.send():
                    self._epoll.modify(descriptor, select.EPOLLIN)
                if what & ~select.EPOLLOUT:
                    self._read(connection)
            except BlockingIOError:
                continue
            except OSError:
                self._fail(connection)

    def _read(self, connection: Connection) -> None:
        warm = connection.due_ns >= self._begin_ns + _WARMUP_NS
        if not connection.receive(self._event_ns if self._events and warm else None):
            return
        self._answered += 1
        if warm:
            self._request_ns.append(time.monotonic_ns() - connection.due_ns)
        if self._close:
            self._forget(connection)
        else:
            self._free.append(connection)

    def _fail(self, connection: Connection | None) -> None:
        self._errors += 1
        if connection is not None:
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        del self._open[connection.socket.fileno()]
        connection.socket.close()


def percentile_us(times_ns: Sequence[int], share: float) -> float | None:
    """The smallest of the sorted times that ``share`` of all do not exceed, in µs; None of none."""
    if not times_ns:
        return None
    return times_ns[min(len(times_ns) - 1, int(share * len(times_ns)))] / 1e3


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description="Requests at a fixed rate; prints their times.")
    parser.add_argument("port", type=int)
    parser.add_argument("request", type=Path)
    parser.add_argument("rate", type=float)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--close", action="store_true", help="a new connection for each request")
    parser.add_argument("--events", action="store_true", help="report the times of events")
    asked = parser.parse_args()
    # Else the kernel may wake this process up to 50 µs late, to save power.
    Path("/proc/self/timerslack_ns").write_text("1", encoding="utf-8")
    request = asked.request.read_bytes()
    print(json.dumps(Client(asked.port, request, asked.rate, asked.seconds, asked.close, asked.events).run()))


if __name__ == "__main__":
    main()

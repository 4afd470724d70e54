"""Where a host name leads, looked up again and again, and what to do when a lookup fails or hangs.

Workers and probes resolve names by the same rules:

1. A name is looked up when it is first wanted, and again when its answer is older than ``resolve_s``: in the
   background, while everybody goes on with the old one. getaddrinfo reports no TTL, so the interval stands for it.
2. A lookup that fails or hangs keeps the addresses of the last good one, for ``resolve_max_age_s``.
3. All addresses of a name take turns; one that failed to connect goes to the end of the line until all have failed.
4. A literal address is never looked up.
5. Where a backend came in over the API its name may lead to allowed addresses alone (core.traffic.addresses), whatever
   it led to when it came in. The others are never connected to; a name that leads to none but those leads nowhere.
6. Lookups have threads of their own, one for each name and at most `THREADS_MAX` together: a name whose server hangs
   delays neither another name nor other users of threads. They are daemons: a process ends without waiting for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic

from gateway.core.traffic.addresses import refusals

_log = logging.getLogger("gateway.resolver")
THREADS_MAX = 64

# (host, port) -> addresses; raises OSError. Tests replace it.
Lookup = Callable[[str, int], Awaitable[list[str]]]
_Waiters = list[tuple[asyncio.AbstractEventLoop, "asyncio.Future[list[str]]"]]


class AddressNotAllowedError(OSError):
    """The name was resolved, and leads only where the backend may not be."""


class LookupThreads:
    """Runs lookups on daemon threads, for any number of event loops; those who ask for the same host share one."""

    def __init__(self, resolve: Callable[[str], list[str]], threads_max: int = THREADS_MAX) -> None:
        self._resolve = resolve
        self._threads_max = threads_max
        self._lock = threading.Lock()
        self._waiters: dict[str, _Waiters] = {}
        self._queue: deque[str] = deque()
        self._threads = 0

    async def look_up(self, host: str, port: int) -> list[str]:
        """The host's addresses. Raises OSError or UnicodeError."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[str]] = loop.create_future()
        starts = False
        with self._lock:
            if host in self._waiters:
                self._waiters[host].append((loop, future))
            else:
                self._waiters[host] = [(loop, future)]
                self._queue.append(host)
                starts = self._threads < self._threads_max
                self._threads += starts
        if starts:
            self._start()
        return await future

    def _start(self) -> None:
        try:
            threading.Thread(target=self._work, name="name-lookup", daemon=True).start()
        except RuntimeError as error:  # the system gives no more threads: those that run serve the queue
            with self._lock:
                self._threads -= 1
                unserved = [] if self._threads else list(self._queue)
                self._queue = deque(host for host in self._queue if host not in unserved)
            for host in unserved:
                self._deliver(host, OSError(0, f"no thread for the lookup of {host}: {error}"))

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._threads -= 1
                    return
                host = self._queue.popleft()
            answer: list[str] | Exception
            try:
                answer = self._resolve(host)
            except Exception as error:  # noqa: BLE001  # raised in the caller
                answer = error
            self._deliver(host, answer)

    def _deliver(self, host: str, answer: list[str] | Exception) -> None:
        with self._lock:
            waiters = self._waiters.pop(host)
        for loop, future in waiters:
            with contextlib.suppress(RuntimeError):  # its loop has been closed since
                loop.call_soon_threadsafe(_settle, future, answer)


def _settle(future: asyncio.Future[list[str]], answer: list[str] | Exception) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(list(answer))


def _getaddrinfo(host: str) -> list[str]:
    """The machine's own resolver: hosts file, DNS."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


look_up: Lookup = LookupThreads(_getaddrinfo).look_up


class Name:
    """One host name and its addresses."""

    def __init__(self, host: str, port: int, resolve_s: float, max_age_s: float, lookup: Lookup = look_up) -> None:
        self.host = host
        self.resolve_s = resolve_s
        self.max_age_s = max_age_s
        self._port = port
        self._lookup = lookup
        self.literal = is_literal(host)
        self._addresses: list[str] = [host] if self.literal else []
        self._good_s = self._asked_s = 0.0
        self._turn = 0
        self._asking: asyncio.Task[None] | None = None
        self._allow: tuple[str, ...] | None = None
        # Of the last answer, the addresses that may not be connected to, and why.
        self._refused: dict[str, str] = {}
        self._failure = ""

    def restrict(self, allow: tuple[str, ...] | None) -> None:
        """From now on it may lead to these addresses alone; None: anywhere."""
        if allow != self._allow:
            self._allow = allow
            self._addresses = self._allowed(self._addresses)

    async def address(self) -> str:
        """The address to connect to now. Raises OSError when the name leads nowhere."""
        if self.literal and self._addresses:
            return self.host
        now_s = monotonic()
        if self._addresses and now_s - self._good_s > self.max_age_s:
            self._addresses = []
        if not self._addresses:
            await asyncio.shield(self._ask())
            if not self._addresses:
                if self._refused:
                    why = "; ".join(self._refused.values())
                    raise AddressNotAllowedError(0, f"{self.host} resolves to addresses that are not allowed: {why}")
                raise OSError(0, f"the name {self.host} cannot be resolved: {self._failure or 'it has no address'}")
        elif now_s - self._asked_s > self.resolve_s:
            self._ask()
        self._turn += 1
        return self._addresses[self._turn % len(self._addresses)]

    def refresh(self) -> None:
        """Look the name up again if it is time; nobody waits for that."""
        if self._asked_s and not self.literal and monotonic() - self._asked_s > self.resolve_s:
            self._ask()

    def leads_to(self, address: str) -> bool:
        """Whether the newest answer that is known holds that address; without any, nothing speaks against it."""
        return address in self._addresses or not (self._addresses or self._refused)

    def failed(self, address: str) -> None:
        """No connection to that address: the others come first."""
        if len(self._addresses) > 1 and address in self._addresses:
            self._addresses.remove(address)
            self._addresses.append(address)
            self._turn = -1

    @property
    def count(self) -> int:
        """How many addresses there are to try."""
        return max(1, len(self._addresses))

    def _ask(self) -> asyncio.Task[None]:
        if self._asking is None or self._asking.done():
            self._asked_s = monotonic()
            self._asking = asyncio.get_running_loop().create_task(self._refresh())
        return self._asking

    async def _refresh(self) -> None:
        try:
            found = await self._lookup(self.host, self._port)
        except (OSError, UnicodeError) as error:
            if str(error) != self._failure:  # once, not at every try
                self._failure = str(error)
                kept = f"; its {len(self._addresses)} last known addresses stay in use" if self._addresses else ""
                _log.warning("cannot resolve %s: %s%s", self.host, error, kept)
            return
        if self._failure:
            _log.warning("%s resolves again", self.host)
            self._failure = ""
        if found:
            self._good_s = monotonic()
            found = self._allowed(found)
            if set(found) != set(self._addresses):
                if self._addresses and found:
                    _log.warning("%s now resolves to %s", self.host, ", ".join(found))
                self._addresses = found

    def _allowed(self, found: list[str]) -> list[str]:
        if self._allow is None:
            self._refused = {}
            return found
        refused = refusals(self.host, found, self._allow)
        if list(refused) != list(self._refused) and refused:
            _log.error("%s resolves to addresses that are not allowed: %s", self.host, "; ".join(refused.values()))
        self._refused = refused
        return [address for address in found if address not in refused]


def is_literal(host: str) -> bool:
    """Whether the host is an address and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True

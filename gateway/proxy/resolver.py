"""Where a host name leads, looked up every so often, and what to do when the lookup fails.

Rules:

1. A name is looked up when it is first wanted, and again when its answer is older than ``resolve_s``: in the
   background, while requests go on with the old one. getaddrinfo tells no TTL, so the interval stands for it.
2. A failed lookup keeps the addresses of the last good one, for ``resolve_max_age_s``.
3. All addresses of a name take turns; one that failed to connect goes to the end of the line until all have failed.
4. A literal address is never looked up.
5. Where a backend came in over the API its name may lead to allowed addresses alone (core.traffic.addresses), whatever
   it led to when it came in. The others are never connected to; a name that leads to none but those leads nowhere.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable
from time import monotonic

from gateway.core.traffic.addresses import refusals

_log = logging.getLogger("gateway.worker")

# (host, port) -> addresses; raises OSError. The door at which tests stand.
Lookup = Callable[[str, int], Awaitable[list[str]]]


async def look_up(host: str, port: int) -> list[str]:
    """The machine's own resolver (hosts file, DNS), on a thread of the loop's executor."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Name:
    """One host name and its addresses."""

    def __init__(self, host: str, port: int, resolve_s: float, max_age_s: float, lookup: Lookup = look_up) -> None:
        self.host = host
        self.resolve_s = resolve_s
        self.max_age_s = max_age_s
        self._port = port
        self._lookup = lookup
        self._literal = _is_literal(host)
        self._addresses: list[str] = [host] if self._literal else []
        self._good_s = self._asked_s = 0.0
        self._turn = 0
        self._asking: asyncio.Task[None] | None = None
        self._allow: tuple[str, ...] | None = None
        self._refused: list[str] = []

    def restrict(self, allow: tuple[str, ...] | None) -> None:
        """From now on it may lead to these addresses alone; None: anywhere."""
        if allow != self._allow:
            self._allow = allow
            self._addresses = self._allowed(self._addresses)

    async def address(self) -> str:
        """The address to connect to now. Raises OSError when the name leads nowhere."""
        if self._literal and self._addresses:
            return self.host
        now_s = monotonic()
        if self._addresses and now_s - self._good_s > self.max_age_s:
            self._addresses = []
        if not self._addresses:
            await asyncio.shield(self._ask())
            if not self._addresses:
                raise OSError(0, f"the name {self.host} cannot be resolved")
        elif now_s - self._asked_s > self.resolve_s:
            self._ask()
        self._turn += 1
        return self._addresses[self._turn % len(self._addresses)]

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
            kept = f"; {len(self._addresses)} known address(es) serve on" if self._addresses else ""
            _log.warning("cannot resolve %s: %s%s", self.host, error, kept)
            return
        if found:
            self._good_s = monotonic()
            found = self._allowed(found)
            if set(found) != set(self._addresses):
                if self._addresses and found:
                    _log.warning("%s leads to %s now", self.host, ", ".join(found))
                self._addresses = found

    def _allowed(self, found: list[str]) -> list[str]:
        if self._allow is None:
            return found
        refused = refusals(self.host, found, self._allow)
        if list(refused) != self._refused:
            self._refused = list(refused)
            if refused:
                _log.error("%s leads where no backend may be: %s", self.host, "; ".join(refused.values()))
        return [address for address in found if address not in refused]


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True

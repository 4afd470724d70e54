"""Where a backend that comes in over the API may be: the guard against being sent where only this machine can go.

Rules:

1. What the configuration file names is trusted, loopback too: the usual sidecar. Only what comes over the API is asked.
2. The host, and every address that it stands for, must be allowed (gateway.core.traffic.addresses).
3. The gateway's own listeners are no backend.

A name may stand for another address a moment later: what connects looks it up and checks again. `Via` guards against
loops (the data plane answers 508).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Sequence

from gateway.core.traffic import addresses
from gateway.core.traffic.addresses import AllowedBackend, Ip
from gateway.core.traffic.table import Endpoint

_RESOLVE_TIMEOUT_S = 3.0


class AddressRules:
    """What is allowed, and which addresses and ports are the gateway's own."""

    def __init__(self, allowed: Sequence[AllowedBackend], own: Sequence[tuple[str, int]] = ()) -> None:
        self._allowed = allowed
        self._own = own

    async def refusal(self, endpoint: Endpoint) -> str:
        """Why the endpoint may not be a backend's; empty when it may."""
        try:
            found = await _addresses(endpoint)
        except (OSError, TimeoutError, UnicodeError):
            return f"{endpoint.url}: cannot resolve {endpoint.host}; check the name, or try again"
        for address in found:
            if why := addresses.refusal(endpoint.host, address, self._allowed):
                return f"{endpoint.url}: {why}; use another address"
            if self._is_own(address, endpoint.port):
                return f"{endpoint.url}: this is the gateway itself; use the address of a model server"
        return "" if found else f"{endpoint.url}: {endpoint.host} has no address"

    def _is_own(self, address: Ip, port: int) -> bool:
        return any(port == own and _same_machine(address, host) for host, own in self._own)


async def refusals(rules: AddressRules, endpoints: Iterable[Endpoint]) -> list[str]:
    """Why each of those that may not be a backend's may not."""
    return [why for why in await asyncio.gather(*map(rules.refusal, endpoints)) if why]


async def _addresses(endpoint: Endpoint) -> list[Ip]:
    async with asyncio.timeout(_RESOLVE_TIMEOUT_S):
        found = await asyncio.get_running_loop().getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    return [addresses.parsed(str(address[0])) for *_, address in found]


def _same_machine(address: Ip, host: str) -> bool:
    """Whether connecting to ``address`` could reach what listens on ``host``."""
    if str(address) == host or address.is_loopback:
        return True
    # Only an address of this machine can be bound.
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True

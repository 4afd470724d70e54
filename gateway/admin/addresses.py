"""Where a backend that comes in over the API may be: the guard against being sent where only this machine can go.

Rules:

1. What the configuration file names is trusted, loopback too: the usual sidecar. Only what comes over the API is asked.
2. A host is allowed by its name, or because every address that it stands for is in an allowed range.
3. Never without being named itself: link-local addresses (169.254.0.0/16, fe80::/10) and what clouds serve their
   metadata from, the unspecified address, multicast and what is reserved. IPv4 addresses inside IPv6 ones count as
   themselves.
4. The gateway's own listeners are no backend.

A name may stand for something else a moment later; `Via` guards against loops then (the data plane answers 508), and
the addresses that a name stands for are looked up by whoever connects.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from gateway.config.admin import AllowedBackend
from gateway.core.traffic.table import Endpoint

Ip = IPv4Address | IPv6Address
_RESOLVE_TIMEOUT_S = 3.0
_NEVER: tuple[IPv4Network | IPv6Network, ...] = tuple(
    ip_network(text)
    for text in (
        *("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4", "100.100.100.200/32", "192.0.0.192/32"),
        *("::/128", "fe80::/10", "ff00::/8", "fd00:ec2::254/128", "fd20:ce::254/128"),
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")


class AddressRules:
    """What is allowed, and which addresses and ports are the gateway's own."""

    def __init__(self, allowed: Sequence[AllowedBackend], own: Sequence[tuple[str, int]] = ()) -> None:
        self._allowed = allowed
        self._own = own

    async def refusal(self, endpoint: Endpoint) -> str:
        """Why the endpoint may not be a backend's; empty when it may."""
        try:
            addresses = await _addresses(endpoint)
        except (OSError, TimeoutError, UnicodeError):
            return f"{endpoint.url}: the name {endpoint.host} cannot be looked up; mend the name, or try again"
        by_name = any(rule.covers_host(endpoint.host) for rule in self._allowed)
        for address in addresses:
            if not self._named(address) and any(address in never for never in _never(address)):
                return f"{endpoint.url}: {address} is link-local, reserved or serves metadata; give another address"
            if not by_name and not any(rule.covers_address(address) for rule in self._allowed):
                shown = ", ".join(map(str, self._allowed)) or "nothing"
                return f"{endpoint.url}: {address} is not in admin.backend_allow, which allows {shown}"
            if self._is_own(address, endpoint.port):
                return f"{endpoint.url}: this is the gateway itself; give the address of a model server"
        return "" if addresses else f"{endpoint.url}: the name {endpoint.host} stands for no address"

    def _named(self, address: Ip) -> bool:
        """Whether a rule speaks of forbidden addresses alone, and of this one."""
        return any(
            rule.covers_address(address) and any(rule.network.subnet_of(never) for never in _never(address))  # type: ignore[arg-type, union-attr]  # same version: it covers the address
            for rule in self._allowed
        )

    def _is_own(self, address: Ip, port: int) -> bool:
        return any(port == own and _same_machine(address, host) for host, own in self._own)


async def refusals(rules: AddressRules, endpoints: Iterable[Endpoint]) -> list[str]:
    """Why each of those that may not be a backend's may not."""
    return [why for why in await asyncio.gather(*map(rules.refusal, endpoints)) if why]


async def _addresses(endpoint: Endpoint) -> list[Ip]:
    async with asyncio.timeout(_RESOLVE_TIMEOUT_S):
        found = await asyncio.get_running_loop().getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    return [_embedded(ip_address(str(address[0]).partition("%")[0])) for *_, address in found]


def _embedded(address: Ip) -> Ip:
    """The IPv4 address inside an IPv6 one, where there is one."""
    if isinstance(address, IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inside = IPv4Address(int(address) & 0xFFFFFFFF)
        return inside or address
    return address


def _never(address: Ip) -> list[IPv4Network | IPv6Network]:
    return [network for network in _NEVER if network.version == address.version]


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

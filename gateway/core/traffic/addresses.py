"""Where a backend may be that came in over the API: asked when it comes in, and again whenever its name is looked up.

Rules:

1. A host is allowed by its name, or because the address that it stands for is in an allowed range.
2. Never without being named itself: link-local addresses (169.254.0.0/16, fe80::/10) and what clouds serve their
   metadata from, the unspecified address, multicast and what is reserved. IPv4 addresses inside IPv6 ones count as
   themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import msgspec

Ip = IPv4Address | IPv6Address
_NEVER: tuple[IPv4Network | IPv6Network, ...] = tuple(
    ip_network(text)
    for text in (
        *("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4", "100.100.100.200/32", "192.0.0.192/32"),
        *("::/128", "fe80::/10", "ff00::/8", "fd00:ec2::254/128", "fd20:ce::254/128"),
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")


class AllowedBackend(msgspec.Struct, frozen=True):
    """Where a backend that comes over the API may be: an address range, a host, or (``*.``) every host below one."""

    text: str
    network: IPv4Network | IPv6Network | None = None

    def covers_address(self, address: Ip) -> bool:
        """Whether the range holds the address."""
        return self.network is not None and address.version == self.network.version and address in self.network

    def covers_host(self, host: str) -> bool:
        """Whether the name is this one, or below it."""
        return self.network is None and (
            host == self.text if not self.text.startswith("*.") else host.endswith(self.text[1:])
        )

    def __str__(self) -> str:
        return self.text


@lru_cache(maxsize=64)
def allowed_backends(texts: tuple[str, ...]) -> tuple[AllowedBackend, ...]:
    """The same from the texts of others: ranges have a slash."""
    return tuple(AllowedBackend(text, ip_network(text) if "/" in text else None) for text in texts)


def refusal(host: str, address: Ip, allowed: Sequence[AllowedBackend]) -> str:
    """Why ``host`` may not be a backend while it stands for ``address``; empty when it may."""
    if not _named(address, allowed) and any(address in never for never in _never(address)):
        return f"{address} is link-local, reserved or serves metadata"
    by_name = any(rule.covers_host(host) for rule in allowed)
    if not by_name and not any(rule.covers_address(address) for rule in allowed):
        return f"{address} is not in admin.backend_allow, which allows {', '.join(map(str, allowed)) or 'nothing'}"
    return ""


def refusals(host: str, found: Iterable[str], allow: tuple[str, ...]) -> dict[str, str]:
    """Of the addresses that ``host`` leads to those that it may not lead to, and why."""
    rules = allowed_backends(allow)
    why = {address: refusal(host, parsed(address), rules) for address in found}
    return {address: reason for address, reason in why.items() if reason}


def parsed(text: str) -> Ip:
    """An address as a lookup gives it: without its zone, and as the IPv4 address inside it where there is one."""
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inside = IPv4Address(int(address) & 0xFFFFFFFF)
        return inside or address
    return address


def plain_address(text: str) -> str:
    """A peer's address as people and networks know it: IPv4 on a socket for both families is IPv4, and has no zone.

    >>> plain_address("::ffff:192.0.2.7"), plain_address("fe80::1%eth0"), plain_address("192.0.2.7")
    ('192.0.2.7', 'fe80::1', '192.0.2.7')
    """
    if text.startswith("::ffff:") and "." in text:
        return text[7:]
    return text.partition("%")[0] if "%" in text else text


def plain_network(text: str) -> IPv4Network | IPv6Network:
    """A range as `plain_address` writes its addresses: one inside ``::ffff:0:0/96`` is a range of IPv4.

    >>> plain_network("::ffff:10.0.0.0/104")
    IPv4Network('10.0.0.0/8')
    """
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.prefixlen >= 96 and network.network_address.ipv4_mapped:
        return IPv4Network((network.network_address.ipv4_mapped, network.prefixlen - 96))
    return network


def _named(address: Ip, allowed: Sequence[AllowedBackend]) -> bool:
    """Whether a rule speaks of forbidden addresses alone, and of this one."""
    return any(
        rule.covers_address(address) and any(rule.network.subnet_of(never) for never in _never(address))  # type: ignore[arg-type, union-attr]  # same version: it covers the address
        for rule in allowed
    )


def _never(address: Ip) -> list[IPv4Network | IPv6Network]:
    return [network for network in _NEVER if network.version == address.version]

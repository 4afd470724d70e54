"""Requests that were not let in: counted, limited for each address, and an alarm when there are many.

Rules:

1. An address may fail `BURST` times at once and `PER_MINUTE` times a minute in the long run. Beyond that it is answered
   429 without a look at its credentials being recorded one by one: neither log nor audit trail grows with an attack.
2. A request with valid credentials is always let in, whatever its address has failed before: operators share addresses
   with scripts that hold an old token (behind one NAT, on one machine), and tokens are long random text, which limiting
   does not make harder to guess.
3. `ALARM_PER_MINUTE` failures within a minute sound an alarm, which names the address with the most of them; it is
   cleared after a minute with fewer.
4. A request with a valid token that lacks the scope is answered 403, whatever its address has failed before: it counts
   for the alarm, and takes nothing of what its address may fail.
5. IPv6 addresses count by their /64, which is what one customer has. Of many addresses the newest are remembered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network

from gateway.core.traffic.addresses import plain_address
from gateway.runtime.clock import Clock

ALARM = "admin authentication"
BURST = 20
PER_MINUTE = 20
ALARM_PER_MINUTE = 20
# Why a request was not let in; ``limited`` are those that were answered 429.
REASONS = ("missing", "invalid", "cross_origin", "forbidden", "limited")
_ADDRESSES_MAX = 1024
_MINUTE_S = 60.0


class AuthFailures:
    """What was not let in lately. ``alarm`` is given an alarm's name and why it stands, empty when it does not."""

    def __init__(
        self, clock: Clock, alarm: Callable[[str, str], None] = lambda *_: None, *, burst: float = BURST
    ) -> None:
        self._clock = clock
        self._burst = float(burst)
        self._alarm = alarm
        self.failed = dict.fromkeys(REASONS, 0)
        # Of each address what it may still fail, and when that was reckoned.
        self._left: dict[str, tuple[float, float]] = {}
        self._recent: deque[tuple[float, str]] = deque(maxlen=10 * ALARM_PER_MINUTE)
        self._sounding = False

    def fail(self, address: str, reason: str) -> bool:
        """A request from this address was not let in; False when the address has failed too often: answer 429."""
        now_s, network = self._clock.monotonic_s(), _network(address)
        left, at_s = self._left.pop(network, (self._burst, now_s))
        left = min(self._burst, left + (now_s - at_s) * PER_MINUTE / _MINUTE_S)
        within = left >= 1.0
        self._left[network] = (left - 1.0 if within else left, now_s)
        if len(self._left) > _ADDRESSES_MAX:
            del self._left[next(iter(self._left))]
        self._count(network, reason if within else "limited", now_s)
        return within

    def forbid(self, address: str) -> None:
        """A request with a valid token was refused for want of the scope (rule 4)."""
        self._count(_network(address), "forbidden", self._clock.monotonic_s())

    def _count(self, network: str, reason: str, now_s: float) -> None:
        self._recent.append((now_s, network))
        self.failed[reason] += 1
        self.look()

    def look(self) -> None:
        """Sound or clear the alarm, as the last minute was. To be called now and then."""
        now_s = self._clock.monotonic_s()
        while self._recent and now_s - self._recent[0][0] > _MINUTE_S:
            self._recent.popleft()
        n = len(self._recent)
        if n >= ALARM_PER_MINUTE and not self._sounding:
            self._sounding = True
            addresses = [network for _, network in self._recent]
            most = max(set(addresses), key=addresses.count)
            why = f"{n} or more requests to the admin listener were refused within a minute, most of them from {most}"
            self._alarm(ALARM, f"{why}: a wrong or missing token, or an attempt to guess one (see GET /api/v1/audit)")
        elif n < ALARM_PER_MINUTE and self._sounding:
            self._sounding = False
            self._alarm(ALARM, "")


def _network(address: str) -> str:
    """What one client has of addresses.

    >>> _network("::ffff:192.0.2.7"), _network("2001:db8::1:2"), _network("user 1000")
    ('192.0.2.7', '2001:db8::/64', 'user 1000')
    """
    plain = plain_address(address)
    try:
        parsed = ip_address(plain)
    except ValueError:
        return plain
    return str(ip_network((parsed, 64), strict=False)) if isinstance(parsed, IPv6Address) else plain

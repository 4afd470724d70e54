"""Requests that were not let in: counted, limited for each address, and an alarm when there are many.

Rules:

1. An address may fail `BURST` times at once and `PER_MINUTE` times a minute in the long run. Beyond that it is answered
   429 without a look at its credentials being recorded one by one: neither log nor audit trail grows with an attack.
2. A request with valid credentials is always let in, whatever its address has failed before: operators share addresses
   with scripts that hold an old token (behind one NAT, on one machine), and tokens are long random text, which limiting
   does not make harder to guess.
3. `ALARM_PER_MINUTE` failures within a minute sound an alarm, which names the address with the most of them; it is
   cleared after a minute with fewer.
4. IPv6 addresses count by their /64, which is what one customer has. Of many addresses the newest are remembered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address, ip_address, ip_network

from prometheus_client.metrics_core import CounterMetricFamily, Metric

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


class Attempts:
    """What was not let in lately. ``tell`` is given an alarm's name and why it stands, empty when it does not."""

    def __init__(
        self, clock: Clock, tell: Callable[[str, str], None] = lambda *_: None, *, burst: float = BURST
    ) -> None:
        self._clock = clock
        self._burst = float(burst)
        self._tell = tell
        self.failed = dict.fromkeys(REASONS, 0)
        # Of each address what it may still fail, and when that was reckoned.
        self._left: dict[str, tuple[float, float]] = {}
        self._recent: deque[tuple[float, str]] = deque(maxlen=10 * ALARM_PER_MINUTE)
        self._sounding = False

    def fail(self, address: str, reason: str) -> bool:
        """A request from this address was not let in; False when the address has failed too often."""
        now_s, network = self._clock.monotonic_s(), _network(address)
        self._recent.append((now_s, network))
        left, at_s = self._left.pop(network, (self._burst, now_s))
        left = min(self._burst, left + (now_s - at_s) * PER_MINUTE / _MINUTE_S)
        within = left >= 1.0
        self._left[network] = (left - 1.0 if within else left, now_s)
        if len(self._left) > _ADDRESSES_MAX:
            del self._left[next(iter(self._left))]
        self.failed[reason if within else "limited"] += 1
        self.look()
        return within

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
            why = (
                f"at least {n} requests to the admin listener were not let in within a minute, most of them from {most}"
            )
            self._tell(ALARM, f"{why}: a wrong or missing token, or somebody who guesses (see GET /api/v1/audit)")
        elif n < ALARM_PER_MINUTE and self._sounding:
            self._sounding = False
            self._tell(ALARM, "")


def attempt_metrics(attempts: Attempts) -> Iterator[Metric]:
    """The family of requests that were not let in."""
    failed = CounterMetricFamily(
        "gateway_admin_auth_failures",
        "Requests to the admin listener that were not let in, by reason.",
        labels=["reason"],
    )
    for reason, n in attempts.failed.items():
        failed.add_metric([reason], n)
    yield failed


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

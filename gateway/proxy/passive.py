"""Passive health: live traffic takes a failing endpoint out of its backend's rotation, for a while.

Rules:

1. A try that the endpoint failed (refused, timed out, reset, malformed, or a 5xx that is no shedding) adds to its
   streak; any other answer ends the streak. ``failures`` in a row eject it.
2. The first ejection lasts ``base_s``, and each that follows within the time after its predecessor's end twice as long,
   up to ``max_s``. A good answer after the return makes the next one short again.
3. At most ``ejected_percent_max`` of a backend's endpoints are out at once, but one may always be, if others are left.
   A backend's only endpoint is ejected when it cannot even be connected to, never for its answers: what those are
   worth is for the verdict to say. Stable's ejected endpoints are still tried when no other is left (pool.py).
4. An endpoint that comes back, or that probes find up again, takes a growing share of its turns for ``slow_start_s``.

It is about endpoints, not versions: the verdict sees every failed try all the same.
"""

from __future__ import annotations

from typing import Final

from gateway.core.traffic.table import Passive

# Of its turns, one that comes back takes at least this share, or it could never prove itself.
_SHARE_MIN: Final = 0.1


class PassiveHealth:
    """What live traffic says of one endpoint."""

    __slots__ = ("_ejections", "_since_s", "_turns", "ejected_until_s", "spec", "streak")

    def __init__(self, spec: Passive) -> None:
        self.spec = spec
        self.streak = 0
        self.ejected_until_s = 0.0
        self._ejections = 0
        self._since_s = 0.0
        self._turns = 0.0

    def well(self) -> None:
        """The endpoint has answered."""
        self.streak = self._ejections = 0

    def failed(self, now_s: float, may_eject: bool) -> bool:
        """The endpoint has failed a try; True when that ejects it."""
        self.streak += 1
        if self.streak < self.spec.failures or not may_eject or self.ejected_until_s > now_s:
            return False
        self.ejected_until_s = now_s + min(self.spec.base_s * 2.0 ** min(self._ejections, 30), self.spec.max_s)
        self._ejections += 1
        # After its return one more failure is enough: it has not proved to be any better.
        self.streak = max(1, self.spec.failures - 1)
        self.begin_slowly(self.ejected_until_s)
        return True

    def ejected(self, now_s: float) -> bool:
        """Whether it is out at this moment."""
        return self.ejected_until_s > now_s

    def begin_slowly(self, from_s: float) -> None:
        """It comes (back) into the rotation at ``from_s``."""
        self._since_s = from_s
        self._turns = 0.0

    def takes_turn(self, now_s: float) -> bool:
        """Whether it takes this turn: always, except while it starts slowly (rule 4)."""
        slow_s = self.spec.slow_start_s
        if not self._since_s or now_s >= self._since_s + slow_s:
            return True
        self._turns += max(_SHARE_MIN, (now_s - self._since_s) / slow_s)
        if self._turns < 1.0:
            return False
        self._turns -= 1.0
        return True

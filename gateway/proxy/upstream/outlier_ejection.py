"""Outlier ejection: live traffic takes a failing endpoint out of its backend's rotation, and one trial brings it back.

Rules:

1. A try that the endpoint failed (refused, timed out, reset, malformed, or a 5xx that is no shedding) adds to its
   streak; any other answer ends the streak. A time-out has cost its user more than a 5xx, and counts as half of
   ``failures``. A streak of ``failures`` ejects.
2. An ejection lasts ``base_s``, and each that follows soon twice as long, up to ``max_s``. Then exactly one request
   goes to the endpoint, a trial: an answer brings it back, a failure ejects it anew. What was sent before the ejection
   says nothing any more. An endpoint that has stayed in for longer than it was last out begins again with ``base_s``.
3. At most ``ejected_percent_max`` of a backend's endpoints, rounded up, are out at once, but one may always be: one of
   two, two of three. An endpoint that fails and may not be ejected fails its share of the requests, which spends the
   budget for retries in seconds. The last one that nothing speaks against is never ejected (where probes are ignored
   it is the last that answers requests), and when all are out they are all tried (backends.py).
4. An endpoint that comes back, or that probes find up again, takes a growing share of its turns for ``slow_start_s``.

It is about endpoints, not versions: the verdict sees every failed try all the same.
"""

from __future__ import annotations

from typing import Final

from gateway.core.traffic.table import OutlierEjection

# Of its turns, one that comes back takes at least this share, or it could never prove itself.
_SHARE_MIN: Final = 0.1
_DOUBLINGS_MAX: Final = 30
# How fast `UsualFirstByte` follows: with these steps it comes to rest where nine in ten values are below it.
_UP: Final = 1.5
_DOWN: Final = 0.95


class EjectionState:
    """What live traffic says of one endpoint; while it is ``out`` it gets trials, from ``ejected_until_s`` on."""

    __slots__ = (
        "_back_s",
        "_ejected_s",
        "_repeats",
        "_since_s",
        "_turns",
        "ejected_until_s",
        "lasts_s",
        "out",
        "reason",
        "spec",
        "streak",
        "trial_until_s",
    )

    def __init__(self, spec: OutlierEjection) -> None:
        self.spec = spec
        self.streak = 0
        self.out = False
        self.ejected_until_s = self.trial_until_s = 0.0
        # Of the newest ejection: why, and for how long.
        self.reason = ""
        self.lasts_s = 0.0
        self._repeats = 0
        self._ejected_s = self._back_s = 0.0
        self._since_s = 0.0
        self._turns = 0.0

    def answered(self, now_s: float, since_s: float) -> bool:
        """The endpoint has answered a request that was sent at ``since_s``; True when that brings it back."""
        self.streak = 0
        if not self.out or since_s < self._ejected_s:
            return False
        self.out = False
        self._back_s = now_s
        self.begin_slowly(now_s)
        return True

    def failed(self, reason: str, now_s: float, since_s: float, *, timed_out: bool, may_eject: bool) -> bool:
        """The endpoint has failed a try that was sent at ``since_s``; True when that ejects it."""
        if since_s < self._ejected_s:
            return False
        failures = self.spec.failures
        self.streak += (failures + 1) // 2 if timed_out else 1
        if self.out:
            if now_s < self.ejected_until_s:
                return False  # it was a last resort
        elif self.streak < failures or not may_eject:
            return False
        self._eject(reason, now_s)
        return True

    def _eject(self, reason: str, now_s: float) -> None:
        if not self.out and now_s - self._back_s > self.lasts_s:
            self._repeats = 0
        self.lasts_s = min(self.spec.base_s * 2.0 ** min(self._repeats, _DOUBLINGS_MAX), self.spec.max_s)
        self._repeats += 1
        self.out = True
        self.streak = 0
        self.reason = reason
        self._ejected_s = now_s
        self.ejected_until_s = now_s + self.lasts_s
        self.trial_until_s = 0.0

    def wants_trial(self, now_s: float) -> bool:
        """Whether its time is over, and no trial is under way."""
        return self.out and now_s >= self.ejected_until_s and now_s >= self.trial_until_s

    def begin_trial(self, until_s: float) -> None:
        """A request is its trial, and will have come to something by ``until_s``."""
        self.trial_until_s = until_s

    def begin_slowly(self, from_s: float) -> None:
        """It comes (back) into the rotation at ``from_s``."""
        self._since_s = from_s
        self._turns = 0.0

    def takes_turn(self, now_s: float) -> bool:
        """Whether it takes this turn: always, except while it starts slowly (rule 4)."""
        if not self._since_s:
            return True
        slow_s = self.spec.slow_start_s
        if now_s >= self._since_s + slow_s:
            self._since_s = 0.0
            return True
        self._turns += max(_SHARE_MIN, (now_s - self._since_s) / slow_s)
        if self._turns < 1.0:
            return False
        self._turns -= 1.0
        return True


class UsualFirstByte:
    """How long a backend's answers take to begin, nine in ten of them: a running estimate in two multiplications."""

    __slots__ = ("answered_s", "seconds")

    def __init__(self) -> None:
        # 0 as long as nothing is known.
        self.seconds = 0.0
        # When the last answer began.
        self.answered_s = 0.0

    def add(self, first_byte_s: float) -> None:
        """An answer began after so long; or, of one that never did, it had not after so long."""
        known = self.seconds
        if not known:
            self.seconds = first_byte_s
        elif first_byte_s > known:
            self.seconds = min(first_byte_s, known * _UP)
        else:
            self.seconds = max(first_byte_s, known * _DOWN)

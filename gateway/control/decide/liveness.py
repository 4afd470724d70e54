"""Liveness of a route's stable backend: by what it answers, and only without requests by what its probes say.

While it is down there is nothing to compare a canary with and nothing to roll back to, so there is no verdict, and
failures of an outage count against neither side (route_judge.py, rule 1).
"""

from __future__ import annotations

# So many failed attempts in a row: a backend that only fails often does not lose five in a row for long.
_ILL_MIN = 5
# After so long without a successful answer, the probes count.
_SILENT_S = 5.0


class Liveness:
    """Counts the attempts on a route's stable backend: rescues and forced requests count, they are answers too."""

    def __init__(self) -> None:
        self._well = self._ill_then = self._ill = 0
        self._well_s = 0.0

    def update(self, well: int, ill: int, now_s: float) -> None:
        """Take in how many tries came to something so far, and how many did not; cumulative."""
        if well != self._well:
            self._well, self._well_s, self._ill_then = well, now_s, ill
        self._ill = ill

    def stopped(self, endpoints_up: int | None, now_s: float) -> bool:
        """Whether it is down: its last attempts all failed, or there were none and its probes fail."""
        if self._ill - self._ill_then >= _ILL_MIN:
            return True
        return endpoints_up == 0 and now_s - self._well_s > _SILENT_S

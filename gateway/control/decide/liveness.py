"""Liveness of a route's stable backend: by what it answers, and only without requests by what its probes say.

While it is dead there is nobody to compare a canary with and nobody to roll back to, so no verdict is given and none is
credited with what an outage of both sides did (route_judge.py, rule 1).
"""

from __future__ import annotations

# So many tries without a good one among them: by the odds of a bad day alone nobody loses five in a row for long.
_ILL_MIN = 5
# Without a good answer for so long, the probes are believed.
_SILENT_S = 5.0


class Liveness:
    """Fed with the tries of a route's stable backend: rescues and forced requests count, they are answers too."""

    def __init__(self) -> None:
        self._well = self._ill_then = self._ill = 0
        self._well_s = 0.0

    def update(self, well: int, ill: int, now_s: float) -> None:
        """Take in how many tries came to something so far, and how many did not; cumulative."""
        if well != self._well:
            self._well, self._well_s, self._ill_then = well, now_s, ill
        self._ill = ill

    def stopped(self, endpoints_up: int | None, now_s: float) -> bool:
        """Whether it answers nothing: its last tries all failed, or there were none and its probes find it down."""
        if self._ill - self._ill_then >= _ILL_MIN:
            return True
        return endpoints_up == 0 and now_s - self._well_s > _SILENT_S

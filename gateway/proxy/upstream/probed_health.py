"""What active probes say of one endpoint, compared with what its requests have shown.

Rules:

1. A *refusal* (a refused connection, an answer other than 2xx) is the backend's own word, for instance before it shuts
   down: it takes the endpoint out of rotation, however well its requests are still answered.
2. *Silence* (no answer in time) is weaker. A request that the endpoint answered well within the last `PROVEN_S`
   outweighs it: a slow probe beside working traffic changes nothing. An endpoint that hangs has answered nothing for
   as long when probes with default settings have found it down.
3. Where probes find no endpoint of the backend up, a silent one without such a proof gets one request at a time as a
   trial. One that fails its trial waits for longer.

Whole backends are beyond the reach of probes: see backends.py, rule 2.
"""

from __future__ import annotations

from typing import Final

PROVEN_S: Final = 5.0
_TRIAL_EVERY_S: Final = 1.0
_FAILED_TRIAL_EVERY_S: Final = 30.0


class ProbedHealth:
    """The newest word of the probes, and the newest proof against it."""

    __slots__ = ("_trial_s", "down", "refused", "well_s")

    def __init__(self) -> None:
        self.down = False
        self.refused = False
        # When a request was last answered well (a status below 500).
        self.well_s = 0.0
        self._trial_s = 0.0

    def enter(self, down: bool, refused: bool) -> None:
        """Take in what the probes say now."""
        self.down = down
        self.refused = refused

    def answered(self, status: int, now_s: float) -> None:
        """A request was answered so."""
        if status < 500:
            self.well_s = now_s

    def well(self, now_s: float) -> bool:
        """Whether a request was answered well lately."""
        return now_s - self.well_s < PROVEN_S

    def outweighed(self, now_s: float) -> bool:
        """Whether the probes' silence is outweighed by an answered request (rule 2)."""
        return not self.refused and self.well(now_s)

    def takes_trial(self, now_s: float, *, failing: bool) -> bool:
        """Whether a request may be the trial of a silent endpoint (rule 3); True counts it as begun."""
        if self.refused or now_s - self._trial_s < (_FAILED_TRIAL_EVERY_S if failing else _TRIAL_EVERY_S):
            return False
        self._trial_s = now_s
        return True

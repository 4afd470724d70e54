"""How often each variant of a route lately gave each class of answer: which of the canary's are stable's to answer.

Rules:

1. Nothing is counted here. Both variants' totals of tries (by class, counters.py) are subtracted from marks that were
   set earlier, and only when the canary has answered in a class that asks for it: answers that are well cost nothing.
2. Both marks are set at the same moment, so that what comes and goes in the traffic is in both shares or in neither.
   They move on when 500 answers have come since, seen at a question and every 15 s: shares are those of some hundred
   answers, in dense traffic of the last half minute at most.
3. The canary's share is above stable's only at more than twice as much. Two equal versions that answer 404 as a matter
   of course pass that by accident once or twice in a window, and are not asked twice for the rest.
4. Nothing has to be known of stable: what it answers to the first rescue is the first that is known of it.
"""

from __future__ import annotations

from typing import Final

# Marks move on after so many answers of both variants.
_WINDOW: Final = 500
_TIMES: Final = 2


class RecentAnswers:
    """The shares of one route in one worker. The dictionaries are the totals themselves, which only grow."""

    __slots__ = ("_canary", "_canary_marks", "_stable", "_stable_marks")

    def __init__(self, stable: dict[str, int], canary: dict[str, int]) -> None:
        self._stable = stable
        self._canary = canary
        # The older mark, from which shares count, and the newer one, which will follow it.
        self._stable_marks = (dict(stable), dict(stable))
        self._canary_marks = (dict(canary), dict(canary))

    def move_on(self) -> None:
        """Set new marks, if enough has come since the last; called now and then, and before each question."""
        since = _total(self._stable, self._stable_marks[1]) + _total(self._canary, self._canary_marks[1])
        if since >= _WINDOW:
            self._stable_marks = (self._stable_marks[1], dict(self._stable))
            self._canary_marks = (self._canary_marks[1], dict(self._canary))

    def canary_has_more(self, kind: str) -> bool:
        """Whether the canary, with one more answer of this class that is not counted yet, gives it far oftener."""
        self.move_on()
        stable, stable_mark = self._stable, self._stable_marks[0]
        canary, canary_mark = self._canary, self._canary_marks[0]
        of_stable = stable.get(kind, 0) - stable_mark.get(kind, 0)
        of_canary = canary.get(kind, 0) - canary_mark.get(kind, 0) + 1
        # of_canary / canary's answers > 2 of_stable / stable's answers
        return of_canary * max(1, _total(stable, stable_mark)) > _TIMES * of_stable * (_total(canary, canary_mark) + 1)


def _total(counts: dict[str, int], mark: dict[str, int]) -> int:
    return sum(counts.values()) - sum(mark.values())

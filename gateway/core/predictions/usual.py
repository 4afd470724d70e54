"""Which of the kinds of failures.py count on a route: found in stable's own answers, for both versions alike.

Rules:

1. An error (`ERRORS_INSIDE`) is a failure everywhere: whether a version has more of them than stable is the question.
2. What violates a format's specification (`_UNLESS_USUAL`) is a failure unless `USUAL` of stable's answers have it:
   then it is this route's way of speaking.
3. What may be a good answer of a good model (`_IF_RARE`: no results, a stream without an end mark, a page or plain text
   where others are data), or what may be read wrongly here (a coding that seems broken), is a failure only where at
   most `RARE` of stable's answers have it, and not before `WARM_UP` of them were seen.
4. An answer whose form is unlike all of stable's (`OTHER_FORM`) is a failure: form.py.
5. The rules for an answer are made before it is known, from stable's past alone: each answer is judged before it is
   learnt, and the canary teaches nothing. So both versions meet the same question at every moment, and the tests'
   promise holds.
"""

from __future__ import annotations

from gateway.core.predictions.failures import (
    BROKEN,
    CUT,
    ERRORS_INSIDE,
    HTML,
    INVALID,
    KINDS,
    NAN,
    NO_EVENTS,
    NOTHING,
    OTHER_FORM,
    PAGE,
    TEXT,
    UNFINISHED,
    ReadAnswer,
    excerpt,
)
from gateway.core.predictions.form import PAST_MAX, RARE, WARM_UP, Forms

USUAL = 0.9
_UNLESS_USUAL = frozenset((INVALID, NAN, CUT, NO_EVENTS))
_IF_RARE = frozenset((NOTHING, UNFINISHED, PAGE, BROKEN))


class _Past:
    """How many of stable's recent answers had something."""

    __slots__ = ("answers", "had")

    def __init__(self) -> None:
        self.answers = self.had = 0.0

    def learn(self, had: bool) -> None:
        if self.answers >= PAST_MAX:
            self.answers, self.had = self.answers / 2, self.had / 2
        self.answers += 1
        self.had += had

    @property
    def share(self) -> float:
        return self.had / self.answers if self.answers else 0.0


class FailureRules:
    """One route's answers: what stable has shown so far, and which kinds therefore count."""

    def __init__(self) -> None:
        self._past = {kind: _Past() for kind in KINDS if kind != OTHER_FORM}
        self._forms = Forms()

    def failure(self, seen: ReadAnswer) -> str | None:
        """The kind of failure that this answer is, before it is learnt; None for a good one."""
        kinds = _kinds(seen)
        known = next((kind for kind in KINDS if kind in kinds and self._counts(kind)), None)
        return OTHER_FORM if known is None and self._unlike(seen) else known

    def example(self, seen: ReadAnswer, kind: str) -> str:
        """What was seen of a failure of this kind, in words."""
        if kind != OTHER_FORM or seen.form is None:
            return seen.example
        return f"{self._unlike(seen)}: {excerpt(seen.form.start)}"

    def learn(self, seen: ReadAnswer) -> None:
        """An answer of stable's, after it was judged."""
        kinds = _kinds(seen)
        asked = {NOTHING: seen.results, UNFINISHED: seen.ends}
        for kind, past in self._past.items():
            if asked.get(kind, True):
                past.learn(kind in kinds)
        if seen.form is not None:
            self._forms.learn(seen.form)

    def _unlike(self, seen: ReadAnswer) -> str:
        return "" if seen.form is None else self._forms.unlike(seen.form)

    def _counts(self, kind: str) -> bool:
        past = self._past[kind]
        if kind in ERRORS_INSIDE:
            return True
        if kind in _UNLESS_USUAL:
            return past.answers < WARM_UP or past.share < USUAL
        assert kind in _IF_RARE
        return past.answers >= WARM_UP and past.share <= RARE


def _kinds(seen: ReadAnswer) -> frozenset[str]:
    """With `PAGE` for an answer that people read, and programs do not."""
    return seen.kinds | {PAGE} if seen.family in (HTML, TEXT) else seen.kinds

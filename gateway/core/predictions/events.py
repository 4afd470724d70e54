"""Readings as yes/no events, under names that are known before the first answer.

Rules:

1. Every sampled answer is a trial of ``unreadable``, ``nan`` and ``empty``, and, once stable's first answers have shown
   what there is to compare (`WARM_UP` of them), of all the others. An answer that says nothing about an event is a
   trial without it, in both arms alike. Where stable's answers hold nothing to compare, there are no such trials: the
   metric stays without data, and nothing is proven by it.
2. Of a classifier, the events are ``class_0`` and so on, ``class_other`` and ``low_confidence``. The classes are the
   most frequent ones of stable's first answers; they keep their numbers if all are numbers below the limit, else they
   are numbered in their order (`Watch.meanings` says which is which).
3. Of a model that gives numbers, the events are ``over_p5`` to ``over_p95``: the value is over that quantile of
   stable's values.
4. What an event means depends on stable's past alone: classes are fixed at the end of the warm-up; the threshold of
   low confidence and the quantiles move along with stable's last answers, and each answer is counted before it is
   learnt. So both arms meet the same question, asked before the answer was known.
"""

from __future__ import annotations

import enum
import re
from collections import Counter, deque
from collections.abc import Mapping, Sequence

import msgspec

from gateway.core.predictions.outputs import Output, UndecodableError
from gateway.core.predictions.reading import Layout, Reading, layout_of, read
from gateway.core.types import Variant

UNREADABLE, NAN, EMPTY, LOW_CONFIDENCE = "unreadable", "nan", "empty", "low_confidence"
FAULTS = (UNREADABLE, NAN, EMPTY)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
WARM_UP = 100
QUANTILE_NAMES = ("over_p5", "over_p25", "over_p50", "over_p75", "over_p95")
CLASS_OTHER = "class_other"
PAST_MAX = 2_000
_RENEW_EVERY = 100
_DIGITS = re.compile(r"-?[0-9]{1,18}\Z")


class Kind(enum.StrEnum):
    """What the model's answers are."""

    CLASSES = "classes"
    VALUES = "values"


class WatchSettings(msgspec.Struct, frozen=True):
    """What is looked for. ``low_confidence`` None: below stable's own ``low_quantile``.

    ``classes_max`` is how many classes are told apart; ``named`` gives outputs by role where they are not to be found
    out.
    """

    kind: Kind = Kind.CLASSES
    classes_max: int = 10
    low_confidence: float | None = None
    low_quantile: float = 0.1
    named: Mapping[str, str] = {}


def mix_names(settings: WatchSettings) -> tuple[str, ...]:
    """The events that say how the answers are distributed."""
    if settings.kind is Kind.VALUES:
        return QUANTILE_NAMES
    return (*(f"class_{index}" for index in range(settings.classes_max)), CLASS_OTHER)


class Watch:
    """One route's answers: what stable has shown so far, and what that makes of the next answer."""

    def __init__(self, settings: WatchSettings) -> None:
        self._settings = settings
        classes = settings.kind is Kind.CLASSES
        self._compared = (*mix_names(settings), *((LOW_CONFIDENCE,) if classes else ()))
        self._comparable = False
        self._first: list[Sequence[Output]] = []
        self.layout: Layout | None = None
        self._classes: dict[str, str] = {}
        self._confidences: deque[float] = deque(maxlen=PAST_MAX)
        self._values: deque[float] = deque(maxlen=PAST_MAX)
        self._low = settings.low_confidence
        self._bounds: tuple[float, ...] = ()
        self._learnt = 0

    @property
    def meanings(self) -> dict[str, str]:
        """What the events stand for now, in words; empty during the warm-up."""
        words = {name: f"value over {bound:.6g}" for name, bound in zip(QUANTILE_NAMES, self._bounds, strict=False)}
        words |= {name: f"class {label}" for label, name in self._classes.items()}
        if self._confidences and self._low is not None:
            words[LOW_CONFIDENCE] = f"confidence under {self._low:.4g}"
        return words

    def take(self, variant: Variant, outputs: Sequence[Output] | None, draw: float) -> tuple[list[str], list[str]]:
        """One answer (None: undecodable): the events that were tried, and those that happened."""
        tried = [*FAULTS, *(self._compared if self._comparable else ())]
        if outputs is None:
            return tried, [UNREADABLE]
        try:
            reading = read(outputs, self.layout, draw)
        except UndecodableError:
            return tried, [UNREADABLE]
        happened = [name for name, is_so in ((NAN, reading.nan), (EMPTY, reading.empty)) if is_so]
        if self._comparable:
            happened += self._mixed(reading)
        if variant is Variant.STABLE:
            self._learn(outputs, reading)
        return tried, happened

    def _mixed(self, reading: Reading) -> list[str]:
        happened = []
        if reading.confidence is not None and self._low is not None and reading.confidence < self._low:
            happened.append(LOW_CONFIDENCE)
        if reading.label is not None:
            happened.append(self._classes.get(reading.label, CLASS_OTHER))
        if reading.value is not None:
            value = reading.value
            bounds = zip(QUANTILE_NAMES, self._bounds, strict=False)
            happened += [name for name, bound in bounds if value > bound]
        return happened

    def _learn(self, outputs: Sequence[Output], reading: Reading) -> None:
        if self.layout is None:
            self._first.append(outputs)
            if len(self._first) >= WARM_UP:
                self._begin()
            return
        self._remember(reading)
        self._learnt += 1
        if self._learnt % _RENEW_EVERY == 0:
            self._renew()

    def _begin(self) -> None:
        first, self._first = self._first, []
        kind = self._settings.kind
        self.layout = _for_kind(kind, layout_of(first, self._settings.named))
        self._comparable = bool(self.layout.names)
        classes: Counter[str] = Counter()
        for outputs in first:
            try:
                # The middle item: any rule that does not look at what it says would do.
                reading = read(outputs, self.layout, 0.5)
            except UndecodableError:
                continue
            if reading.label is not None:
                classes[reading.label] += 1
            self._remember(reading)
        limit = self._settings.classes_max
        told = sorted((label for label, _ in classes.most_common(limit)), key=_order)
        numbered = all(0 <= _order(label)[0] < limit for label in told)
        self._classes = {label: f"class_{label if numbered else index}" for index, label in enumerate(told)}
        self._renew()

    def _remember(self, reading: Reading) -> None:
        if reading.confidence is not None:
            self._confidences.append(reading.confidence)
        if reading.value is not None:
            self._values.append(reading.value)

    def _renew(self) -> None:
        if self._settings.low_confidence is None and self._confidences:
            self._low = _quantile(sorted(self._confidences), self._settings.low_quantile)
        if self._values:
            past = sorted(self._values)
            self._bounds = tuple(_quantile(past, q) for q in QUANTILES)


def _quantile(past: Sequence[float], q: float) -> float:
    return past[min(int(q * len(past)), len(past) - 1)]


def _for_kind(kind: Kind, layout: Layout) -> Layout:
    """What of the layout says anything about answers of this kind."""
    if kind is Kind.VALUES:
        return Layout(value=layout.value)
    return Layout(layout.label, layout.scores, None, layout.softmax)


def _order(label: str) -> tuple[int, str]:
    return (int(label), "") if _DIGITS.match(label) else (1 << 62, label)

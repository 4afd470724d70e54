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
4. Nothing to compare is no proof: where most of stable's answers cannot be read, where they hold no class that repeats,
   or no confidence, `Watched.unjudged` says so of each event, with what was seen and what would help.
5. What is compared is chosen once (layout.py). It is chosen anew only when stable's last `WARM_UP` answers all lack it,
   or while there was nothing to compare; `Watched.chosen` says how often.
6. ``surely``: predictions are compared where nobody asked for it. Only what is surely a prediction is (layout.py,
   rule 6), and no event is tried before it is known that stable's answers hold one. From stable's first answer until
   one of each version has been compared it is being learnt what there is.
7. What an event means depends on stable's past alone: classes are fixed at the end of the warm-up; the threshold of
   low confidence and the quantiles move along with stable's last answers, and each answer is counted before it is
   learnt. So both arms meet the same question, asked before the answer was known.
"""

from __future__ import annotations

import enum
import re
from collections import Counter, deque
from collections.abc import Mapping, Sequence

import msgspec

from gateway.core.predictions.layout import DISTINCT_MAX, NAME_ANOTHER, Choice, Layout, choose
from gateway.core.predictions.outputs import Output, UndecodableError
from gateway.core.predictions.reading import Reading, read
from gateway.core.predictions.words import excerpt, excerpt_of_bytes
from gateway.core.types import Unjudged, Variant, Why

UNREADABLE, NAN, EMPTY, LOW_CONFIDENCE = "unreadable", "nan", "empty", "low_confidence"
FAULTS = (UNREADABLE, NAN, EMPTY)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
WARM_UP = 100
QUANTILE_NAMES = ("over_p5", "over_p25", "over_p50", "over_p75", "over_p95")
CLASS_OTHER = "class_other"
PAST_MAX = 2_000
# So many of stable's last answers say whether its answers can be read at all.
UNREAD_MIN = 20
_LABEL_SHOWN = 60
_BODY_SHOWN = 80
_RENEW_EVERY = 100
_DIGITS = re.compile(r"-?[0-9]{1,18}\Z")


class ModelKind(enum.StrEnum):
    """What the model's answers are."""

    CLASSES = "classes"
    VALUES = "values"


class WatchSettings(msgspec.Struct, frozen=True):
    """What is looked for. ``low_confidence`` None: below stable's own ``low_quantile``.

    ``classes_max`` is how many classes are distinguished; ``named`` gives outputs by role where they are not to
    be found out. Events ``reported`` by a header or by labels are not taken from answers. ``surely``: see rule 6.
    """

    kind: ModelKind = ModelKind.CLASSES
    classes_max: int = 10
    low_confidence: float | None = None
    low_quantile: float = 0.1
    named: Mapping[str, str] = {}
    reported: tuple[str, ...] = ()
    surely: bool = False


def mix_names(settings: WatchSettings) -> tuple[str, ...]:
    """The events that say how the answers are distributed."""
    if settings.kind is ModelKind.VALUES:
        return QUANTILE_NAMES
    return (*(f"class_{index}" for index in range(settings.classes_max)), CLASS_OTHER)


class Known(msgspec.Struct, frozen=True):
    """What was learnt from stable's answers so far, to continue with after a restart."""

    layout: Layout
    reason: str
    problem: str
    classes: dict[str, str]
    low: float | None
    bounds: tuple[float, ...]
    generation: int


class Watched(msgspec.Struct, frozen=True):
    """What is to be said of one route's answers: what is compared and why, and which events cannot be judged.

    ``generation`` counts how often it was chosen anew: the events mean something else since then. ``answers`` are those
    of stable that came to be read since then, whatever was made of them.
    """

    chosen: str = ""
    unjudged: dict[str, Unjudged] = {}
    known: Known | None = None
    generation: int = 0
    answers: int = 0


class _Arm:
    """One variant's answers under this choice: how many, and what could not be read of them."""

    def __init__(self) -> None:
        self.answers = 0
        self.unreadable = 0
        self.example = ""
        self.recent: deque[bool] = deque(maxlen=WARM_UP)

    def take(self, readable: bool) -> None:
        self.answers += 1
        self.unreadable += not readable
        self.recent.append(readable)


class Watch:
    """One route's answers: what stable has shown so far, and what that makes of the next answer."""

    _first: list[Sequence[Output]]
    _choice: Choice | None
    _arms: tuple[_Arm, _Arm]
    _compared_of: list[int]
    _missing: int
    _classes: dict[str, str]
    _confidences: deque[float]
    _values: deque[float]
    _low: float | None
    _bounds: tuple[float, ...]
    _learnt: int

    def __init__(self, settings: WatchSettings, known: Known | None = None) -> None:
        self._settings = settings
        self._mix = mix_names(settings)
        self._generation = 0
        self._forget()
        if known is not None:
            self._generation = known.generation
            self._choice = Choice(known.layout, known.reason, known.problem)
            self._classes, self._low, self._bounds = dict(known.classes), known.low, known.bounds

    def _forget(self) -> None:
        """Begin to learn from stable's answers."""
        self._first = []
        self._choice = None
        self._arms = (_Arm(), _Arm())
        self._compared_of = [0, 0]
        self._missing = 0
        self._classes = {}
        self._confidences = deque(maxlen=PAST_MAX)
        self._values = deque(maxlen=PAST_MAX)
        self._low = self._settings.low_confidence
        self._bounds = ()
        self._learnt = 0

    @property
    def layout(self) -> Layout | None:
        """The outputs that are compared; None until stable's first answers have shown them."""
        return None if self._choice is None else self._choice.layout

    @property
    def meanings(self) -> dict[str, str]:
        """What the events stand for now, in words; empty during the warm-up."""
        words = {name: f"value over {bound:.6g}" for name, bound in zip(QUANTILE_NAMES, self._bounds, strict=False)}
        words |= {name: f"class {excerpt(label, _LABEL_SHOWN)}" for label, name in self._classes.items()}
        if self._low is not None and self._choice is not None and self._choice.layout.has_confidence:
            words[LOW_CONFIDENCE] = f"confidence under {self._low:.4g}"
        return words

    @property
    def watched(self) -> Watched:
        """What is compared and why, and what cannot be judged."""
        choice, answers = self._choice, self._arms[Variant.STABLE].answers
        if choice is None:
            return Watched("", self._unjudged(), None, self._generation, answers)
        times = f"{self._generation} time{'s' * (self._generation > 1)}"
        anew = f"; chosen again {times}: stable's answers no longer had what was compared" if self._generation else ""
        bounds, low = self._bounds, self._low
        known = Known(choice.layout, choice.reason, choice.problem, self._classes, low, bounds, self._generation)
        return Watched(choice.reason + anew, self._unjudged(), known, self._generation, answers)

    def take(
        self,
        variant: Variant,
        outputs: Sequence[Output] | None,
        draw: float,
        unreadable: str = "",
        body: bytes = b"",
    ) -> tuple[list[str], list[str]]:
        """One answer (None: undecodable, ``unreadable`` says why): the events that were tried, and those that happened.

        ``body`` is shown, in part, as the example of what cannot be read.
        """
        compared = self._compared()
        tried = [name for name in (*self._faults(), *compared) if name not in self._settings.reported]
        self._compared_of[variant] += bool(compared)
        reading = None
        if outputs is not None:
            try:
                reading = read(outputs, self.layout, draw, surely=self._settings.surely)
            except UndecodableError as error:
                unreadable = str(error)
        arm = self._arms[variant]
        arm.take(reading is not None)
        if outputs is None or reading is None:
            arm.example = arm.example or f"{excerpt(unreadable, 200)}, in {excerpt_of_bytes(body, _BODY_SHOWN)}"
            if variant is Variant.STABLE and outputs is not None:
                self._miss(outputs)
            return tried, [UNREADABLE]
        happened = [name for name, is_so in ((NAN, reading.nan), (EMPTY, reading.empty)) if is_so]
        if compared:
            happened += self._mixed(reading)
        if variant is Variant.STABLE:
            self._missing = 0
            self._learn(outputs, reading)
        return tried, happened

    def skip(self, variant: Variant, why: str) -> None:
        """An answer whose content coding cannot be undone: no trial of anything, but one that was not read."""
        arm = self._arms[variant]
        arm.take(readable=False)
        self._compared_of[variant] += bool(self._compared())
        arm.example = arm.example or excerpt(why, 200)

    def _faults(self) -> tuple[str, ...]:
        """What may be wrong with an answer that is a prediction."""
        known = self._choice is not None and bool(self._choice.layout.names)
        return FAULTS if known or not self._settings.surely else ()

    def _compared(self) -> tuple[str, ...]:
        """The events that answers are compared by, besides the faults."""
        if self._choice is None or self._choice.problem:
            return ()
        return (*self._mix, LOW_CONFIDENCE) if self._choice.layout.has_confidence else self._mix

    def _unjudged(self) -> dict[str, Unjudged]:
        stable, choice = self._arms[Variant.STABLE], self._choice
        low = (LOW_CONFIDENCE,) if self._settings.kind is ModelKind.CLASSES else ()
        faults = () if self._faults() else FAULTS
        unread = stable.recent.count(False)
        if len(stable.recent) >= UNREAD_MIN and 2 * unread > len(stable.recent):
            return dict.fromkeys((*FAULTS, *self._mix, *low), Unjudged(self._unread(), Why.NEVER))
        if choice is None:
            so_far = f"stable's first {WARM_UP} answers show what is compared: {len(self._first)} so far"
            why = Why.LEARNING if self._first else Why.WAITS
            return dict.fromkeys((*faults, *self._mix, *low), Unjudged(so_far, why))
        if choice.problem:
            return dict.fromkeys((*faults, *self._mix, *low), Unjudged(choice.problem, Why.NEVER))
        if self._settings.surely and not all(self._compared_of):
            missing = Variant(self._compared_of.index(0)).label
            so_far = f"no answer of {missing} has been compared yet"
            return dict.fromkeys((*faults, *self._mix, *low), Unjudged(so_far, Why.LEARNING))
        if low and not choice.layout.has_confidence:
            return {LOW_CONFIDENCE: Unjudged("the answers have no confidence: no vector of scores", Why.ABSENT)}
        return {}

    def _unread(self) -> str:
        parts = [
            f"{arm.unreadable:,} of {arm.answers:,} answers of {variant.label}"
            for variant, arm in zip(Variant, self._arms, strict=True)
            if arm.unreadable
        ]
        where = "`predictions: {protocol: json, label: predictions.0.class}`"
        return (
            f"{' and '.join(parts)} could not be read: {self._arms[Variant.STABLE].example};"
            f" where it is JSON of another form, say where the class is, for example {where}"
        )

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

    def _miss(self, outputs: Sequence[Output]) -> None:
        """Stable's answer lacks what was chosen. When it goes on so, its answers are others now: begin anew."""
        self._missing += 1
        if self._missing >= WARM_UP:
            self._generation += 1
            self._forget()
            self._first.append(outputs)

    def _learn(self, outputs: Sequence[Output], reading: Reading) -> None:
        if self._choice is None or self._choice.problem:
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
        settings = self._settings
        choice = choose(first, settings.named, values=settings.kind is ModelKind.VALUES, surely=settings.surely)
        labels: list[str] = []
        for outputs in first if choice.layout.names else ():
            try:
                # The middle item: any rule that does not look at what it says would do.
                reading = read(outputs, choice.layout, 0.5, surely=settings.surely)
            except UndecodableError:
                continue
            if reading.label is not None:
                labels.append(reading.label)
            self._remember(reading)
        classes = Counter(labels)
        if not choice.problem and len(classes) > DISTINCT_MAX * len(labels):
            what = (
                f"{len(classes)} of the first {len(labels)} labels differ, such as {excerpt(labels[0], _LABEL_SHOWN)}"
            )
            problem = f"{what}: values that hardly repeat cannot be compared; {NAME_ANOTHER}"
            choice = Choice(choice.layout, choice.reason, problem)
        self._choice = choice
        limit = self._settings.classes_max
        kept = sorted((label for label, _ in classes.most_common(limit)), key=_order)
        numbered = all(0 <= _order(label)[0] < limit for label in kept)
        self._classes = {label: f"class_{label if numbered else index}" for index, label in enumerate(kept)}
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


def _order(label: str) -> tuple[int, str]:
    return (int(label), "") if _DIGITS.match(label) else (1 << 62, label)

"""What is looked for in answers (`routes[].analysis.predictions`), and where labelled events come from.

Answers are looked at by default (`BY_DEFAULT`, mode ``auto``): where they are surely predictions they decide, elsewhere
they are silent (core/predictions/layout.py, rule 6). A section that is given asks for them: its mode is ``decide``
unless it says otherwise, and what cannot be compared holds promotion back.

Within that an event decides when it is harm by itself. Unreadable answers, NaN and empty ones are. A shifted mix of
classes is not: a better version moves it. But two versions that disagree on a share d of all inputs differ in no
class's share by more than d, since every answer that changes leaves one class and enters another. So a difference
beyond `tolerance` proves that they disagree on more than that share of all requests. By default that is a quarter: no
improvement, but a swapped label file, a scaling applied twice, a model that says the same to everything. `margin` is
the disagreement that would still be promoted. Confidences shift with every calibration and every kind of model:
`low_confidence` advises, unless `events` lists it.
"""

from __future__ import annotations

import enum
from typing import Annotated

from pydantic import BeforeValidator, Field

from gateway.config.section import Count, HeaderName, Seconds, Section
from gateway.config.shape import Also, Doc, Noun
from gateway.core.analysis.spec import ANSWERS, EventSpec, Mode, Worse
from gateway.core.predictions.events import (
    CLASS_OTHER,
    FAULTS,
    LOW_CONFIDENCE,
    QUANTILE_NAMES,
    ModelKind,
    WatchSettings,
    mix_names,
)
from gateway.core.predictions.labels import LabelSettings
from gateway.core.predictions.protocols.adapter import ProtocolName
from gateway.core.traffic.table import Tap

__all__ = [
    "BY_DEFAULT",
    "PREDICTED",
    "TOLERANCE",
    "LabelsConfig",
    "ModeKey",
    "PredictionsConfig",
    "ProtocolKey",
    "Trials",
]

CLASSES_MAX = 24
TOLERANCE = 0.25
PREDICTED = frozenset(
    (*FAULTS, LOW_CONFIDENCE, CLASS_OTHER, *QUANTILE_NAMES, *(f"class_{index}" for index in range(CLASSES_MAX)))
)
"""The events that are read from the answers themselves."""

_TAP = Tap()
_WATCH = WatchSettings()
_LABELS = LabelSettings({})
_OUTPUT_CHARS_MAX = 200
# Proven by half as many answers as the default margin of `errors`, because the first ones only show what there is.
_FAULT_MARGIN = 0.02
# Parts of alpha_rollback: of the class mix altogether, and of each fault. What nobody asked for takes so little that
# the others are not slower for it; a class that takes over is found a canary request or two later.
_SHARES = {False: (0.25, 0.05), True: (0.03, 0.005)}
# Of low confidence: tolerance and margin, each as ratio and difference.
_LOW_BOUNDS = (1.5, 0.05, 2.0, 0.1)


def _protocol(name: object) -> object:
    """By its present name: `json` was called json-path once."""
    return ProtocolName.JSON.value if name == "json-path" else name


def _mode(value: object) -> object:
    """Helm, like all that writes YAML 1.1, makes false of a bare ``off``; a mode has no other meaning of it."""
    return Mode.OFF.value if value is False else value


ModeKey = Annotated[Mode, Field(strict=False), BeforeValidator(_mode), Also({"const": False})]
KindKey = Annotated[ModelKind, Field(strict=False)]
ProtocolKey = Annotated[ProtocolName, Field(strict=False), BeforeValidator(_protocol)]
OutputName = Annotated[str, Field(min_length=1, max_length=_OUTPUT_CHARS_MAX), Noun("an output")]
SamplePercent = Annotated[float, Field(gt=0, le=100), Noun("a percentage")]
PerSecond = Annotated[float, Field(ge=1, le=100_000), Noun("a number per second")]
Delta = Annotated[float, Field(gt=0, le=0.99), Noun("a share")]


class Trials(enum.StrEnum):
    """Which requests are an event's trials: all that were answered, or those that a label came for."""

    REQUEST = "request"
    LABEL = "label"


class PredictionsConfig(Section):
    """How answers are sampled and read, and how far apart they may lie."""

    mode: Annotated[
        ModeKey,
        Doc(
            "`mode` of these events, but `low_confidence`, which advises unless it is `off`. `decide`: what cannot be "
            "compared holds promotion back. `auto`, as without the section: it is ignored. One that is listed in "
            "`events`, too, is judged as it says there."
        ),
    ] = Mode.DECIDE
    kind: Annotated[
        KindKey,
        Doc(
            "What the model answers: classes (`class_0`, ..., `class_other`, `low_confidence`) or numbers (`over_p5` "
            "to `over_p95`, of stable's quantiles)."
        ),
    ] = _WATCH.kind
    protocol: Annotated[
        ProtocolKey | None,
        Doc("Another protocol for this section alone. `null`: `routes[].protocol`."),
    ] = None
    label: Annotated[
        OutputName | None,
        Doc(
            "The output that holds the class: its name, or with the protocol `json` its place, such as "
            "`$.predictions[*].class`, `predictions.0.class` or `/predictions/0/class`. `null`: found in stable's "
            "first answers."
        ),
    ] = None
    scores: Annotated[OutputName | None, Doc("The output with a score for each class, as above.")] = None
    value: Annotated[OutputName | None, Doc("The output with the number, as above.")] = None
    sample_percent: Annotated[
        SamplePercent, Doc("Share of the answers that are looked at, in both variants alike.")
    ] = 100.0
    samples_per_s_max: Annotated[
        PerSecond, Doc("At most twice this many of both variants together, in each worker.")
    ] = _TAP.samples_per_s
    body_bytes_max: Annotated[
        int, Field(ge=1, le=4 << 20), Noun("a number of bytes"), Doc("Larger responses are counted, but not read.")
    ] = _TAP.body_bytes_max
    classes_max: Annotated[
        int,
        Field(ge=2, le=CLASSES_MAX),
        Doc("How many classes are compared, the most frequent ones; the others are `class_other`."),
    ] = _WATCH.classes_max
    low_confidence: Annotated[
        Annotated[float, Field(gt=0, lt=1), Noun("a probability")] | None,
        Doc(
            "Below this highest probability an answer counts as unsure. `null`: below the lowest tenth of stable's own."
        ),
    ] = None
    tolerance: Annotated[
        Delta,
        Doc(
            "Rolled back on proof that a class's share differs from stable's by more; 0.05 is five points. Then the "
            "versions disagree on more than that share of all requests (docs/predictions.md)."
        ),
    ] = TOLERANCE
    margin: Annotated[Delta, Doc("A step passes on proof that it differs by less. At least `tolerance`.")] = 0.35
    fault_margin: Annotated[
        Delta | None,
        Doc(
            "`margin_delta` of `unreadable`, `nan` and `empty`, which have no tolerance. `null`: that of `errors`, "
            "and at least 0.02."
        ),
    ] = None

    @property
    def named(self) -> dict[str, str]:
        """The outputs that are named, by role."""
        roles = {"label": self.label, "scores": self.scores, "value": self.value}
        return {role: name for role, name in roles.items() if name is not None}

    @property
    def unasked(self) -> bool:
        """Whether nobody asked for predictions here, so that only what is surely one counts."""
        return self.mode is Mode.AUTO

    def watch(self, protocol: ProtocolName = ProtocolName.AUTO, reported: tuple[str, ...] = ()) -> WatchSettings:
        """What the inspector looks for; ``reported`` are events of these names that have another source.

        With places in JSON the outputs are called by their roles already.
        """
        named = {role: role for role in self.named} if protocol is ProtocolName.JSON else self.named
        low_quantile, surely = _WATCH.low_quantile, self.unasked
        return WatchSettings(self.kind, self.classes_max, self.low_confidence, low_quantile, named, reported, surely)

    def events(self, errors_margin: float = 0.0) -> tuple[EventSpec, ...]:
        """The events that this section adds to the analysis; ``errors_margin`` is the ``margin_delta`` of `errors`."""
        fault_margin = max(_FAULT_MARGIN, errors_margin) if self.fault_margin is None else self.fault_margin
        mix = mix_names(self.watch())
        mix_share, other_share = _SHARES[self.unasked]
        faults = [
            EventSpec(name, self.mode, Worse.HIGHER, margin_delta=fault_margin, share=other_share) for name in FAULTS
        ]
        mixed = [
            EventSpec(
                name,
                self.mode,
                Worse.DIFFERENT,
                tolerance_delta=self.tolerance,
                margin_ratio=1.0,
                margin_delta=self.margin,
                share=mix_share / len(mix),
                group=ANSWERS,
            )
            for name in mix
        ]
        advises = Mode.OFF if self.mode is Mode.OFF else Mode.ADVISE
        low = EventSpec(LOW_CONFIDENCE, advises, Worse.HIGHER, *_LOW_BOUNDS, other_share)
        return (*faults, *mixed, *([low] if self.kind is ModelKind.CLASSES else []))


BY_DEFAULT = PredictionsConfig(mode=Mode.AUTO)
"""How answers are looked at on a route that says nothing of predictions."""


class LabelsConfig(Section):
    """For how long, and of how many requests at once, labels are awaited."""

    window_s: Annotated[
        Seconds, Doc("How long after its response a request may be labelled. It counts when this time is over.")
    ] = _LABELS.window_s
    requests_max: Annotated[
        Count,
        Doc("How many requests may wait for a label at once; beyond, the oldest are dropped. About 400 bytes each."),
    ] = _LABELS.requests_max


EventHeader = HeaderName
EventHeaderValue = Annotated[str, Field(min_length=1, max_length=200), Noun("text")]
TrialsKey = Annotated[Trials, Field(strict=False)]

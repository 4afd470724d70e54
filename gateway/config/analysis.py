"""The section `analysis` of a route: what a verdict promises, which metrics decide, and what each of them tolerates.

Every default is read from the core's own specs; ``spec()`` turns a section into the core's value. Milliseconds here,
microseconds inside.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field

from gateway.config.errors import BadValue, show
from gateway.config.predictions import (
    BY_DEFAULT,
    EventHeader,
    EventHeaderValue,
    LabelsConfig,
    ModeKey,
    PredictionsConfig,
    TrialsKey,
)
from gateway.config.section import Milliseconds, Ratio, Seconds, Section
from gateway.config.shape import Noun
from gateway.core.analysis.spec import (
    LATENCY_METRICS,
    RATE_METRICS,
    ROUTE_DEFAULT,
    AnalysisSpec,
    EventSpec,
    GuardrailSpec,
    LatencySpec,
    MetricShares,
    Mode,
    RateSpec,
    Unit,
    Worse,
)
from gateway.core.errors import InvalidValueError
from gateway.core.predictions.failures import MODEL_ERRORS, UNREAD_ANSWERS
from gateway.core.stats.outcomes import PLAIN, STATUS_MAX

# The least that an answer can end with (a tunnel).
STATUS_MIN = 101
# Of events and of guardrails, so many each: the core has room for these and for those of the answers.
_EVENTS_MAX = 32
_OWN_MARGINS = ("errors", "client_errors", "overload")
_MARGINS = ("margin_ratio", "margin_delta")
_ANALYSIS = ROUTE_DEFAULT
_RATE = RateSpec()
_LATENCY = LatencySpec()
_DURATION = _ANALYSIS.duration
_STREAM = _ANALYSIS.gap
_EVENT = EventSpec("event")
_GUARDRAIL = GuardrailSpec("errors", 0.5)
_SHARES = MetricShares()


def _event_name(text: str) -> str:
    if text in (MODEL_ERRORS, UNREAD_ANSWERS):
        raise BadValue(f"{show(text)} is a metric of the gateway itself", "choose another name")
    try:
        return EventSpec(text).name
    except InvalidValueError as error:
        raise BadValue(str(error), "choose a name such as low_confidence") from None


def _guarded_metric(text: str) -> str:
    try:
        return GuardrailSpec(text, 0.5, 1 if text in LATENCY_METRICS else None).metric
    except InvalidValueError as error:
        raise BadValue(str(error), "use an outcome class, a latency or an event of this route") from None


def _exempt(status: int) -> int:
    if status == PLAIN:
        raise BadValue(f"{status} is the normal status and always exempt", "remove it")
    return status


def _different(statuses: list[int]) -> list[int]:
    twice = next((one for one in statuses if statuses.count(one) > 1), None)
    if twice is not None:
        raise BadValue(f"{twice} is listed twice", "list each status once")
    return statuses


EventName = Annotated[str, AfterValidator(_event_name), Noun("an event's name")]
GuardedMetric = Annotated[str, AfterValidator(_guarded_metric), Noun("a metric's name")]
PartOfAlpha = Annotated[float, Field(ge=1e-6, le=1), Noun("a share")]
Delta = Annotated[float, Field(ge=0, le=0.99), Noun("a share")]
SliceSeconds = Annotated[float, Field(ge=0.01, le=3600), Noun("a number of seconds")]
Slo = Annotated[float, Field(ge=0.001, le=10_000_000), Noun("a number of milliseconds")]
SmallProbability = Annotated[float, Field(ge=0, le=0.5), Noun("a probability")]
Quantile = Annotated[float, Field(ge=0.01, le=0.9999), Noun("a probability")]
Quantiles = Annotated[list[Quantile], Field(min_length=1, max_length=16)]
ExemptStatus = Annotated[int, Field(ge=STATUS_MIN, le=STATUS_MAX), AfterValidator(_exempt), Noun("a status of HTTP")]
ExemptStatuses = Annotated[list[ExemptStatus], Field(max_length=100), AfterValidator(_different)]
Slos = Annotated[list[Slo], Field(max_length=16)]


class RateConfig(Section):
    """How one class of outcomes is judged."""

    mode: ModeKey = _RATE.mode
    tolerance_ratio: Ratio = _RATE.tolerance_ratio
    tolerance_delta: Delta = _RATE.tolerance_delta
    margin_ratio: Ratio = _RATE.margin_ratio
    margin_delta: Delta = _RATE.margin_delta

    def spec(self) -> RateSpec:
        """The same, as the judge wants it."""
        return RateSpec(self.mode, self.margin_ratio, self.margin_delta, self.tolerance_ratio, self.tolerance_delta)


_Rate = TypeVar("_Rate", bound=RateConfig)


class ModelErrorsConfig(RateConfig):
    """How failures inside of answers are found and judged."""

    mode: ModeKey = Mode.AUTO
    share: PartOfAlpha = _EVENT.share
    samples_per_s_max: Annotated[float, Field(ge=1, le=10_000), Noun("a number per second")] = 50.0

    def event(self) -> EventSpec:
        """The same, as the judge wants it."""
        rate = self.spec()
        return EventSpec(
            MODEL_ERRORS,
            rate.mode,
            Worse.HIGHER,
            rate.tolerance_ratio,
            rate.tolerance_delta,
            rate.margin_ratio,
            rate.margin_delta,
            self.share,
            guarded=True,
        )


class LatencyConfig(Section):
    """How a latency is judged."""

    mode: ModeKey = _LATENCY.mode
    quantiles: Quantiles = list(_LATENCY.quantiles)
    slo_ms: Slos = []
    tolerance_ratio: Ratio = _LATENCY.tolerance_ratio
    tolerance_ms: Milliseconds = _LATENCY.tolerance_us / 1000
    margin_ratio: Ratio = _LATENCY.margin_ratio
    margin_ms: Milliseconds = _LATENCY.margin_us / 1000
    margin_delta: Annotated[float, Field(ge=0, le=0.9), Noun("a share")] = _LATENCY.margin_delta
    slice_s: SliceSeconds = _LATENCY.slice_s

    def spec(self) -> LatencySpec:
        """The same, as the judge wants it."""
        return LatencySpec(
            mode=self.mode,
            quantiles=tuple(self.quantiles),
            tolerance_ratio=self.tolerance_ratio,
            tolerance_us=round(self.tolerance_ms * 1000),
            margin_ratio=self.margin_ratio,
            margin_us=round(self.margin_ms * 1000),
            margin_delta=self.margin_delta,
            slice_s=self.slice_s,
            slo_us=tuple(round(slo_ms * 1000) for slo_ms in self.slo_ms),
        )


class DurationConfig(LatencyConfig):
    """The time to the last byte, which depends on how fast clients read: not looked at unless it is switched on."""

    mode: ModeKey = _DURATION.mode


class StreamConfig(LatencyConfig):
    """A latency that only event streams have."""

    mode: ModeKey = _STREAM.mode


class EventConfig(Section):
    """Where a labelled yes/no event comes from, and how it is judged."""

    name: EventName
    header: EventHeader | None = None
    header_value: EventHeaderValue | None = None
    trial: TrialsKey | None = None
    mode: ModeKey = _EVENT.mode
    worse: Annotated[Worse, Field(strict=False)] = _EVENT.worse
    tolerance_ratio: Ratio = _EVENT.tolerance_ratio
    tolerance_delta: Delta = _EVENT.tolerance_delta
    margin_ratio: Ratio = _EVENT.margin_ratio
    margin_delta: Delta = _EVENT.margin_delta
    share: PartOfAlpha = _EVENT.share
    unit: Annotated[Unit, Field(strict=False)] = _EVENT.unit
    slice_s: SliceSeconds = _EVENT.slice_s

    def spec(self) -> EventSpec:
        """The same, as the judge wants it."""
        return EventSpec(**self.model_dump(exclude={"header", "header_value", "trial"}))


class GuardrailConfig(Section):
    """An absolute limit on the canary."""

    metric: GuardedMetric
    limit: Annotated[float, Field(ge=1e-6, le=0.99), Noun("a share")]
    threshold_ms: Slo | None = None
    mode: ModeKey = _GUARDRAIL.mode
    share: PartOfAlpha = _GUARDRAIL.share
    slice_s: SliceSeconds = _GUARDRAIL.slice_s

    def spec(self) -> GuardrailSpec:
        """The same, as the judge wants it."""
        threshold_us = None if self.threshold_ms is None else round(self.threshold_ms * 1000)
        return GuardrailSpec(self.metric, self.limit, threshold_us, self.mode, self.share, self.slice_s)


class SharesConfig(Section):
    """How the built-in metrics share alpha_rollback."""

    errors: PartOfAlpha = _SHARES.errors
    client_errors: PartOfAlpha = _SHARES.client_errors
    overload: PartOfAlpha = _SHARES.overload
    unauthorized: PartOfAlpha = _SHARES.unauthorized
    not_found: PartOfAlpha = _SHARES.not_found
    redirects: PartOfAlpha = _SHARES.redirects
    empty_body: PartOfAlpha = _SHARES.empty_body
    abandoned: PartOfAlpha = _SHARES.abandoned
    no_content: PartOfAlpha = _SHARES.no_content
    other_success: PartOfAlpha = _SHARES.other_success
    latency: PartOfAlpha = _SHARES.latency
    duration: PartOfAlpha = _SHARES.duration
    gap: PartOfAlpha = _SHARES.gap
    time_per_event: PartOfAlpha = _SHARES.time_per_event

    def spec(self) -> MetricShares:
        """The same, as the judge wants it."""
        return MetricShares(**self.model_dump())


class AnalysisConfig(Section):
    """What a verdict promises, how often it is sought, and what it looks at."""

    alpha_rollback: Annotated[float, Field(ge=1e-12, le=0.5), Noun("a probability")] = _ANALYSIS.alpha_rollback
    alpha_promote: Annotated[float, Field(ge=1e-12, le=0.5), Noun("a probability")] = _ANALYSIS.alpha_promote
    alpha_sample_ratio: SmallProbability = _ANALYSIS.alpha_sample_ratio
    interval_s: Seconds = 0.1
    burst_s: Annotated[float, Field(ge=0, le=10), Noun("a number of seconds")] = _ANALYSIS.burst_s
    errors: RateConfig = RateConfig()
    client_errors: RateConfig = RateConfig()
    overload: RateConfig = RateConfig()
    unauthorized: RateConfig = RateConfig()
    not_found: RateConfig = RateConfig()
    redirects: RateConfig = RateConfig()
    empty_body: RateConfig = RateConfig()
    abandoned: RateConfig = RateConfig()
    no_content: RateConfig = RateConfig()
    other_success: RateConfig = RateConfig()
    exempt_statuses: ExemptStatuses = []
    latency: LatencyConfig = LatencyConfig()
    duration: DurationConfig = DurationConfig()
    gap: StreamConfig = StreamConfig()
    time_per_event: StreamConfig = StreamConfig()
    model_errors: ModelErrorsConfig = ModelErrorsConfig()
    events: Annotated[list[EventConfig], Field(max_length=_EVENTS_MAX)] = []
    guardrails: Annotated[list[GuardrailConfig], Field(max_length=_EVENTS_MAX)] = []
    predictions: PredictionsConfig | None = BY_DEFAULT
    labels: LabelsConfig = LabelsConfig()
    shares: SharesConfig = SharesConfig()

    @property
    def answers(self) -> PredictionsConfig | None:
        """How answers are looked at for predictions; None where they are not."""
        return None if self.predictions is None or self.predictions.mode is Mode.OFF else self.predictions

    def spec(self, *, one_by_one: bool = True) -> AnalysisSpec:
        """The same, as the judge wants it. Without ``one_by_one`` assignment sessions are counted."""
        return AnalysisSpec(
            alpha_rollback=self.alpha_rollback,
            alpha_promote=self.alpha_promote,
            **self._rates(),
            latency=self.latency.spec(),
            shares=self.shares.spec(),
            duration=self.duration.spec(),
            gap=self.gap.spec(),
            time_per_event=self.time_per_event.spec(),
            events=tuple(event.spec() for event in self.events),
            guardrails=tuple(guardrail.spec() for guardrail in self.guardrails),
            alpha_sample_ratio=self.alpha_sample_ratio if one_by_one else 0.0,
            burst_s=self.burst_s,
            sticky=not one_by_one,
        )

    def _rates(self) -> dict[str, Any]:
        return {name: self._rate(name) for name in RATE_METRICS}

    def _rate(self, name: str) -> RateSpec:
        """How an outcome class is judged.

        Rare classes take margins that are not given from `errors`: a plan that is content with a wider one there would
        otherwise wait for the proof of a class that never occurs.
        """
        section: RateConfig = getattr(self, name)
        return section.spec() if name in _OWN_MARGINS else self._as_errors(section).spec()

    def failures_inside(self) -> EventSpec:
        """How failures inside of answers are judged: as a rare class is."""
        return self._as_errors(self.model_errors).event()

    def _as_errors(self, section: _Rate) -> _Rate:
        margins = {key: getattr(self.errors, key) for key in _MARGINS if key not in section.model_fields_set}
        return section.model_copy(update=margins)

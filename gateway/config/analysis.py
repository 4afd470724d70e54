"""The section `analysis` of a route: what a verdict promises, and which metrics decide.

The outcome classes are declared once, in `core/stats/outcomes.py`: each is a key here and in `shares`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import AfterValidator, Field, create_model

from gateway.config.core_values import core_value
from gateway.config.errors import BadValue
from gateway.config.metrics import (
    DurationConfig,
    EventConfig,
    GuardrailConfig,
    LatencyConfig,
    ModelErrorsConfig,
    PartOfAlpha,
    RateConfig,
    StreamConfig,
)
from gateway.config.predictions import BY_DEFAULT, LabelsConfig, PredictionsConfig
from gateway.config.section import Seconds, Section
from gateway.config.shape import Doc, Noun
from gateway.config.texts import TextsConfig
from gateway.config.validators import DataChecksConfig
from gateway.core.analysis.spec import (
    LATENCY_METRICS,
    RATE_METRICS,
    ROUTE_DEFAULT,
    AnalysisSpec,
    EventSpec,
    MetricShares,
    Mode,
    RateSpec,
    Worse,
)
from gateway.core.predictions.failures import MODEL_ERRORS
from gateway.core.stats.outcomes import CLASSES, ERRORS, PLAIN, STATUS_MAX, OutcomeClass

# The least that an answer can end with (a tunnel).
STATUS_MIN = 101
# Of events and of guardrails, so many each: the core has room for these and for those of the answers.
_EVENTS_MAX = 32
_RARE = frozenset(one.name for one in CLASSES if one.rare)
_MARGINS = ("margin_ratio", "margin_delta")
_ANALYSIS = ROUTE_DEFAULT
_SHARES = MetricShares()


def _exempt(status: int) -> int:
    if status == PLAIN:
        raise BadValue(f"{status} is the normal status and always exempt", "remove it")
    return status


def _different(statuses: list[int]) -> list[int]:
    twice = next((one for one in statuses if statuses.count(one) > 1), None)
    if twice is not None:
        raise BadValue(f"{twice} is listed twice", "list each status once")
    return statuses


SmallProbability = Annotated[float, Field(ge=0, le=0.5), Noun("a probability")]
ExemptStatus = Annotated[int, Field(ge=STATUS_MIN, le=STATUS_MAX), AfterValidator(_exempt), Noun("a status of HTTP")]
ExemptStatuses = Annotated[list[ExemptStatus], Field(max_length=100), AfterValidator(_different)]


def _meaning(one: OutcomeClass) -> str:
    said = f"{one.answers[0].upper()}{one.answers[1:]}{one.note and f': {one.note}'}."
    success = " Differing either way is worse, unless failures explain it." if one.success else ""
    return f"{said}{success}{' Margins that are not given are those of `errors`.' if one.rare else ''}"


if TYPE_CHECKING:
    SharesConfig = Section
else:
    SharesConfig = create_model(
        "SharesConfig",
        __base__=Section,
        __doc__="How the built-in metrics share alpha_rollback.",
        **{
            name: (Annotated[PartOfAlpha, Doc(f"The part of `{name}`.")], getattr(_SHARES, name))
            for name in (*RATE_METRICS, *LATENCY_METRICS)
        },
    )
    SharesConfig.core = MetricShares


class PromisesConfig(Section):
    """What a verdict promises, and how often it is sought."""

    alpha_rollback: Annotated[
        float,
        Field(ge=1e-12, le=0.5),
        Noun("a probability"),
        Doc(
            "Probability, over a whole rollout, that a canary which is no worse is rolled back. All metrics and "
            "guardrails share it."
        ),
    ] = _ANALYSIS.alpha_rollback
    alpha_promote: Annotated[
        float,
        Field(ge=1e-12, le=0.5),
        Noun("a probability"),
        Doc("Probability that a canary which is worse by the margin passes."),
    ] = _ANALYSIS.alpha_promote
    alpha_sample_ratio: Annotated[
        SmallProbability,
        Doc(
            "Probability, over a whole rollout, that a sound split of the traffic is taken for a broken one; 0 turns "
            "the check off (it is off for sticky routes)."
        ),
    ] = _ANALYSIS.alpha_sample_ratio
    interval_s: Annotated[
        Seconds,
        Doc(
            "Time between two looks at the evidence. Looking often costs no certainty; at most ten times `burst_s` "
            "(3 s where that is learnt), because looks further apart cannot see bursts (unless it is 0)."
        ),
    ] = 0.1
    burst_s: Annotated[
        Annotated[float, Field(ge=0, le=10), Noun("a number of seconds")] | None,
        Doc(
            "How long a pause or a restart of one variant may make its requests fail together. `null` "
            "learns it: how often stable's bad moments come and how long they last, once stable has been watched for "
            "5 minutes, and 0.3 s before (docs/statistics.md). A number: failures within this time count as about one, "
            "whatever stable does; 0 counts each by itself, which convicts a dead canary in a tenth of a second and a "
            "pausing one too."
        ),
    ] = None
    warmup_s: Annotated[
        float,
        Field(ge=0, le=86_400),
        Noun("a number of seconds"),
        Doc(
            "How long after its first answer the canary's latencies are shown and not counted, because a version that "
            "has just been started is slow. Failures count from the first request on. The warm-up ends when this time "
            "is over, `warmup_requests` are answered and the canary's latency has stopped falling; 0 for this and "
            "`warmup_requests`: there is none."
        ),
    ] = _ANALYSIS.warmup_s
    warmup_requests: Annotated[
        int, Field(ge=0, le=1_000_000_000), Doc("How many answers of the canary the warm-up takes at least.")
    ] = _ANALYSIS.warmup_requests
    warmup_max_s: Annotated[
        float,
        Field(ge=0, le=86_400),
        Noun("a number of seconds"),
        Doc("Maximum time of the warm-up, with however few answers, and while latency still falls."),
    ] = _ANALYSIS.warmup_max_s


if TYPE_CHECKING:
    ClassesConfig = PromisesConfig
else:
    ClassesConfig = create_model(
        "ClassesConfig",
        __base__=PromisesConfig,
        __doc__="How each outcome class is judged.",
        **{one.name: (Annotated[RateConfig, Doc(_meaning(one))], RateConfig()) for one in CLASSES},
    )
_Rate = TypeVar("_Rate", bound=RateConfig)


class AnalysisConfig(ClassesConfig):
    """What a verdict promises, how often it is sought, and what it looks at."""

    core = AnalysisSpec

    exempt_statuses: Annotated[
        ExemptStatuses,
        Doc(
            "Statuses that are ordinary answers of this route: they count as 200 does, in both variants alike, and "
            "are not rescued. `[404]` where clients ask for things that may not be there."
        ),
    ] = []
    latency: Annotated[
        LatencyConfig,
        Doc(
            "Time to the head, of a stream to the first event ([judging.md](judging.md#latencies)), against stable's, "
            "at stable's own running quantiles and at fixed objectives."
        ),
    ] = LatencyConfig()
    duration: Annotated[DurationConfig, Doc("Time to the last byte, judged as `latency` is.")] = DurationConfig()
    gap: Annotated[
        StreamConfig,
        Doc(
            "The largest pause between two events of a stream ([which answers are streams](judging.md#latencies)), "
            "judged as `latency` is."
        ),
    ] = StreamConfig()
    time_per_event: Annotated[
        StreamConfig, Doc("The mean time between two events of a stream, judged as `latency` is.")
    ] = StreamConfig()
    first_token: Annotated[
        StreamConfig,
        Doc(
            "Time to the first event of a stream that has content (not a comment, and not a chunk with a role alone), "
            "judged as `latency` is ([llm.md](llm.md))."
        ),
    ] = StreamConfig()
    model_errors: Annotated[
        ModelErrorsConfig,
        Doc(
            "Failures inside of answers that have a 2xx status: error objects, error events, broken or empty bodies "
            "(docs/judging.md). Found in samples by the inspector, without any configuration."
        ),
    ] = ModelErrorsConfig()
    events: Annotated[
        list[EventConfig],
        Field(max_length=_EVENTS_MAX),
        Doc("Labelled yes/no events, each a metric of its own; names differ."),
    ] = []
    guardrails: Annotated[
        list[GuardrailConfig],
        Field(max_length=_EVENTS_MAX),
        Doc(
            "Absolute limits on the canary, whatever stable does. A crossing must be proven, as everything that rolls "
            "back."
        ),
    ] = []
    predictions: Annotated[
        PredictionsConfig | None,
        Doc(
            "Compares the content of responses, not only status and time: class mix, low confidence, NaN, empty and "
            "unreadable answers, each an event as above. Without this section its mode is `auto`: answers that are "
            "surely predictions are compared, and all others are ignored. A section, also `{}`, asks for them: its "
            "mode is `decide` unless it says otherwise. `null` or `mode: off`: predictions are not read. See "
            "docs/predictions.md."
        ),
    ] = BY_DEFAULT
    data_checks: Annotated[
        DataChecksConfig | None,
        Doc(
            "Windows of sampled requests and answers are judged by a validator, such as a suite of Great Expectations: "
            "`data_rows` and `data_windows` are events as above (docs/pipelines.md)."
        ),
    ] = None
    texts: Annotated[
        TextsConfig,
        Doc(
            "What language models answer: empty answers, refusals, reasons for the end, tools and their arguments, "
            "JSON, length, tokens; see [llm.md](llm.md)."
        ),
    ] = TextsConfig()
    labels: Annotated[LabelsConfig, Doc("For events with a `trial`.")] = LabelsConfig()
    shares: Annotated[
        SharesConfig,
        Doc("How the metrics share `alpha_rollback`: parts of the whole that the deciding ones have together."),
    ] = SharesConfig()

    @property
    def answers(self) -> PredictionsConfig | None:
        """How answers are looked at for predictions; None where they are not."""
        return None if self.predictions is None or self.predictions.mode is Mode.OFF else self.predictions

    @property
    def checks(self) -> DataChecksConfig | None:
        """How windows of data are judged; None where they are not."""
        return None if self.data_checks is None or self.data_checks.mode is Mode.OFF else self.data_checks

    def rate(self, name: str) -> RateConfig:
        """What is said of an outcome class."""
        found: RateConfig = getattr(self, name)
        return found

    def spec(self, *, one_by_one: bool = True) -> AnalysisSpec:
        """The core's value. Without ``one_by_one`` assignment sessions are counted."""
        rates = {
            name: core_value(self._with_margins(self.rate(name), name in _RARE), RateSpec) for name in RATE_METRICS
        }
        split = {} if one_by_one else {"alpha_sample_ratio": 0.0}
        learnt = self.burst_s is None
        burst_s = _ANALYSIS.burst_s if self.burst_s is None else self.burst_s
        bursts = {"burst_s": burst_s, "learn_bursts": learnt}
        return core_value(self, AnalysisSpec, **rates, **split, **bursts, sticky=not one_by_one)

    def failures_inside(self) -> EventSpec:
        """How failures inside of answers are judged: as a rare class is."""
        section = self._with_margins(self.model_errors, True)
        return core_value(section, EventSpec, name=MODEL_ERRORS, worse=Worse.HIGHER, guarded=True)

    def _with_margins(self, section: _Rate, rare: bool) -> _Rate:
        """The section, with the margins of `errors` where a rare class has none of its own.

        A plan that is content with a wider margin would otherwise wait for the proof of a class that never occurs.
        """
        of_errors = self.rate(ERRORS)
        margins = {key: getattr(of_errors, key) for key in _MARGINS if rare and key not in section.model_fields_set}
        return section.model_copy(update=margins) if margins else section

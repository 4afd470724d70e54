"""Before a rollout: how long this traffic needs to catch a regression, and to prove a healthy canary good enough.

Theory. Evidence is counted in nats. A request under weight w brings I(w) of them on average (limit.py); a verdict needs
log(1 / alpha) at the information limit, and at this engine a price more. The price is a constant number of nats: what
it pays for (not knowing the rates, the grid of guesses, the start-time mixture) is paid once, whatever alpha is. So the
engine's factor R, measured at one alpha, gives it for all: price = (R - 1) log(1 / alpha).

Rules:

1. The steps are climbed as the rollout machine climbs it: only PASS advances, never before the step's floor of time
   and canary requests; evidence is kept from step to step. So the first step carries the whole proof (the steps after
   it last as long as their floors), and a canary outside the margin is held at the first weight until it is convicted.
   One inside the margin climbs while it is being convicted, or is promoted first.
2. A regression is found by one rate metric, whose E_bad counts with its share v of alpha_rollback: log(1 / v) more. A
   bake keeps its part of alpha for itself (budget.py). Of a regression counts what lies beyond the metric's tolerances.
3. Promotion needs every metric. The asked rate is computed; latency takes log(1 / alpha) / log(1 + margin_delta)
   slices however much traffic there is, for a canary whose requests are beyond the margin no more often than stable's
   are beyond its quantile (time_slices.py). The other outcome classes are taken to be no slower than these two.
4. A slice closes after ``slice_s`` as soon as both arms have answered in it: on average slice_s + exp(-r slice_s) / r,
   with r the scarcer arm's requests per second (Poisson arrivals).
5. The guard against bursts (guard.py) holds a conviction back: by cells of ``burst_s``, not by requests (delays.py).
   Where stable's bad moments are learnt, what is excused does instead (excused.py).
6. In a bake, stable keeps the holdout. A regression that begins there is found by a CUSUM that has to reach B / alpha
   (wealth.py, rule 3): log B more nats, at the rate that the holdout gives. What users get until then are the version's
   own failures, of all its requests.
7. A healthy canary has bad moments as stable has them, whatever its share of the traffic, so many an hour. Where they
   are learnt they convict nobody, and a regression is found when it has outlasted one. Where ``burst_s`` is fixed, one
   that lasts for longer is more than one failure, and may convict a healthy canary.
8. All times are averages over rollouts, in seconds; single ones scatter around them. Infinity means never.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec

from gateway.core.analysis import budget, materiality
from gateway.core.analysis.betting.eprocess import Null, Rates, within_tolerance, worse_by_margin
from gateway.core.analysis.betting.wealth import HELD_BACK
from gateway.core.analysis.bursts import delays, trimmed
from gateway.core.analysis.metrics import time_slices
from gateway.core.analysis.metrics.kind import TICK_S, bets_in
from gateway.core.analysis.metrics.rates import tolerance_of
from gateway.core.analysis.show.bad_moments import KNOWN_MIN_S
from gateway.core.analysis.sizing import excused
from gateway.core.analysis.sizing.forecasts import (
    BakeForecast,
    Estimate,
    Forecast,
    Journey,
    MomentsForecast,
    Need,
    Outlook,
    Problem,
    Reach,
    SliceEstimate,
    SliceNeed,
    StepForecast,
)
from gateway.core.analysis.sizing.limit import information
from gateway.core.analysis.sizing.question import PlannedStep, Question
from gateway.core.analysis.spec import BURST_MAX_S
from gateway.core.analysis.types import AnalysisSpec, LatencySpec
from gateway.core.types import WEIGHT_BP_MAX

R_DETECT = 1.4
"""Requests to FAIL over the limit's, one metric at alpha 0.01: the mean R of docs/statistics.md, measured by
loadtests/statistics/detection.py. The price in nats then says 1.27 at alpha 0.001 and 1.55 at a share of 0.5; measured
are 1.30 and 1.57."""
R_PROVE = 1.2
"""Requests to PASS over the limit's, one metric at alpha 0.05, a canary as good as stable: the mean R of promotion in
docs/statistics.md, measured by loadtests/statistics/promotion.py (1.18; default margins 1.20, from 0.95 to 1.58)."""
PRICE_DETECT_NATS = (R_DETECT - 1.0) * math.log(1 / 0.01)
PRICE_PROVE_NATS = (R_PROVE - 1.0) * math.log(1 / 0.05)
_MULTIPLES = (1.1, 1.2, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0, 20.0, 50.0, 100.0)
HOLDOUTS_BP = (100, 200, 500, 1000, 2000)
"""Shares for stable that an operator would write."""
_SLICES_MAX = 100_000.0
# Information is a difference of logarithms; less than this has no digits left (and means 10^11 requests).
_NATS_MIN = 1e-11


def forecast(question: Question) -> Forecast:
    """How this plan fares with this traffic."""
    engine = engine_outlook(question)
    return Forecast(
        question=question,
        steps=tuple(_step(question, step) for step in question.steps),
        limit=_outlook(question, _limit_wants(question)),
        engine=engine,
        problems=problems_of(question, engine),
        bake=_bake(question),
        reach=_reach(question),
        moments=_moments(question, engine),
    )


def engine_outlook(question: Question) -> Outlook:
    """Both canaries' ways as expected of this engine."""
    return _outlook(question, _engine_wants(question))


def _reach(question: Question) -> Reach:
    caught, promoted = None, None
    for times in _MULTIPLES:
        rate = times * question.base_rate
        if rate >= 1.0:
            break
        journey = engine_outlook(msgspec.structs.replace(question, regression_rate=rate)).regressed
        if journey.outcome == "promoted":
            promoted = rate
        elif journey.at_s <= question.deadline_s and caught is None:
            caught = rate
    return Reach(caught, promoted)


def _moments(question: Question, engine: Outlook) -> MomentsForecast | None:
    """Rule 7."""
    weather, burst_s = question.weather, question.spec.burst_s
    if weather.known_s < KNOWN_MIN_S:
        return None
    lasts_s = min(engine.healthy.at_s, question.deadline_s)
    wanted_s, detect_s = 0.0, engine.regressed.at_s
    rule = trimmed.rule_for(weather, question.spec)
    if rule is None and weather.longest_s > burst_s:
        wanted_s = min(math.ceil(10.0 * weather.longest_s) / 10.0, BURST_MAX_S)
        spec = msgspec.structs.replace(question.spec, burst_s=wanted_s)
        detect_s = engine_outlook(msgspec.structs.replace(question, spec=spec)).regressed.at_s
    return MomentsForecast(
        weather.known_s,
        weather.per_hour,
        weather.mean_s,
        weather.longest_s,
        weather.per_hour * lasts_s / 3600.0,
        wanted_s,
        detect_s,
        0.0 if rule is None else rule.stretch_s,
    )


def problems_of(question: Question, engine: Outlook) -> tuple[Problem, ...]:
    """Why the plan cannot be decided; empty when it can."""
    found: list[Problem] = []
    if engine.healthy.outcome != "promoted":
        found.append("promotion_never")
    elif engine.healthy.at_s > question.deadline_s:
        found.append("promotion_too_late")
    if engine.regressed.outcome == "promoted":
        found.append("regression_let_through")
    elif engine.regressed.at_s > question.deadline_s:
        found.append("detection_too_late")
    return tuple(found)


# --- what a verdict wants ---


class _Wants(NamedTuple):
    """Nats of E_bad and of E_ok, and slices of latency (0 when it does not decide).

    ``believed``: the nats of E_bad that the guard against bursts has to leave; None at the limit, where nothing guards.
    """

    bad: float
    ok: float
    slices: float
    believed: float | None = None


def _limit_wants(question: Question) -> _Wants:
    spec = question.spec
    slices_wanted = _slices_to_prove(spec)[0] if spec.latency.decides else 0.0
    return _Wants(-math.log(spec.alpha_rollback), -math.log(spec.alpha_promote), slices_wanted)


def _engine_wants(question: Question) -> _Wants:
    spec = question.spec
    slices_wanted = _slices_to_prove(spec)[1] if spec.latency.decides else 0.0
    needed = budget.bad_needed(spec)[question.metric]
    proof = PRICE_PROVE_NATS - math.log(spec.alpha_promote)
    return _Wants(PRICE_DETECT_NATS + needed, proof, slices_wanted, needed)


def _delay_s(question: Question, step: PlannedStep, truth: Rates, believed: float | None) -> float:
    """How much later than by its nats alone a conviction comes, from the first request on."""
    nats_per_s = question.requests_per_s * _bad_nats(question, truth, step.weight)
    if believed is None or nats_per_s <= 0.0:
        return 0.0
    price, burst_s, tolerance = PRICE_DETECT_NATS, question.spec.burst_s, tolerance_of(question.rate_spec)
    rule = trimmed.rule_for(question.weather, question.spec)
    if rule is not None:
        return excused.conviction_s(rule, believed, price, nats_per_s) - (believed + price) / nats_per_s
    said_s = delays.conviction_s(
        question.requests_per_s, step.weight, truth, burst_s, believed, price, nats_per_s, tolerance
    )
    return said_s - (believed + price) / nats_per_s


def _slices_to_prove(spec: AnalysisSpec) -> tuple[float, float]:
    """Slices without excess until E_ok of latency: with the margin as the stake, and with this engine's stakes."""
    delta, wanted = spec.latency.margin_delta, -math.log(spec.alpha_promote)
    if delta == 0.0:
        return math.inf, math.inf
    stake = delta / (1.0 - delta)
    own = (
        (wanted - math.log(prior)) / math.log1p(share * stake)
        for share, prior in zip(time_slices.OK_SHARES, time_slices.OK_PRIORS, strict=True)
    )
    return wanted / math.log1p(delta), min(own)


def _slices_to_convict(spec: AnalysisSpec) -> tuple[float, float]:
    """Slices until E_bad of latency for a canary that is slower than stable ever is."""
    wanted = budget.bad_needed(spec)["latency"]
    bets = [
        (math.log((1.0 - HELD_BACK) * prior / len(spec.latency.quantiles)), math.log1p(share * q))
        for q in spec.latency.quantiles
        for share, prior in zip(time_slices.BAD_LAMBDAS, time_slices.BAD_PRIORS, strict=True)
    ]
    # The question is checked, and refused, before anybody waits for scipy to load.
    import numpy as np  # noqa: PLC0415  # see above
    from scipy.optimize import brentq  # noqa: PLC0415  # see above
    from scipy.special import logsumexp  # noqa: PLC0415  # see above

    logs, gains = (np.array(column) for column in zip(*bets, strict=True))

    def excess(slices: float) -> float:
        return float(logsumexp(logs + slices * gains)) - wanted

    if excess(_SLICES_MAX) < 0.0:
        own = math.inf
    else:
        own = 1.0 if excess(1.0) >= 0.0 else math.ceil(brentq(excess, 1.0, _SLICES_MAX))
    return -math.log(spec.alpha_rollback) / math.log(2.0), own


# --- one step ---


def _step(question: Question, step: PlannedStep) -> StepForecast:
    spec, limit, engine = question.spec, _limit_wants(question), _engine_wants(question)
    bad = _bad_nats(question, _regressed(question), step.weight)
    ok = _nats(_healthy(question), _worse(question), step.weight)
    delay_s = _delay_s(question, step, _regressed(question), engine.believed)
    detect = Estimate(_need(question, step, limit.bad, bad), _need(question, step, engine.bad, bad, delay_s))
    prove = Estimate(_need(question, step, limit.ok, ok), _need(question, step, engine.ok, ok))
    convict_latency = prove_latency = None
    proven_s = prove.engine.time_s
    if spec.latency.decides:
        convict_latency = _slice_estimate(question, step, _slices_to_convict(spec))
        prove_latency = _slice_estimate(question, step, _slices_to_prove(spec))
        proven_s = max(proven_s, prove_latency.engine.time_s)
    floor_s = _floor_s(question, step)
    return StepForecast(
        weight_bp=step.weight_bp,
        floor_s=floor_s,
        detect=detect,
        prove=prove,
        latency_convict=convict_latency,
        latency_prove=prove_latency,
        detects_within_floor=detect.engine.time_s <= floor_s,
        proves_within_floor=proven_s <= floor_s,
    )


def _nats(truth: Rates, null: Null, weight: float) -> float:
    """I(w), with what its rounding leaves of nothing taken for nothing."""
    nats = information(truth, null, weight)
    return nats if nats >= _NATS_MIN else 0.0


def _bad_nats(question: Question, truth: Rates, weight: float) -> float:
    """What a request says against "not worse beyond the tolerance", which may be two sets: the least of both."""
    if materiality.too_small(question.spec, question.metric, truth):
        return 0.0
    nulls = within_tolerance(question.rate_spec.tolerance_ratio, question.rate_spec.tolerance_delta)
    return min(_nats(truth, null, weight) for null in nulls)


def _need(question: Question, step: PlannedStep, nats: float, per_request: float, delay_s: float = 0.0) -> Need:
    requests = nats / per_request + delay_s * question.requests_per_s if per_request > 0.0 else math.inf
    return Need(requests * step.weight, requests / question.requests_per_s)


def _slice_estimate(question: Question, step: PlannedStep, wanted: tuple[float, float]) -> SliceEstimate:
    length_s, warm_s = _slice_s(question, step), _warm_s(question, step)
    limit, engine = (SliceNeed(count, warm_s + count * length_s) for count in wanted)
    return SliceEstimate(limit, engine)


def _slice_s(question: Question, step: PlannedStep) -> float:
    """How long a slice lasts on average (rule 4)."""
    latency: LatencySpec = question.spec.latency
    scarcer_per_s = question.requests_per_s * min(step.weight, 1.0 - step.weight)
    return latency.slice_s + math.exp(-scarcer_per_s * latency.slice_s) / scarcer_per_s


def _warm_s(question: Question, step: PlannedStep) -> float:
    """How long stable takes to answer the requests that set the first thresholds."""
    return time_slices.PAST_MIN / (question.requests_per_s * (1.0 - step.weight))


def _floor_s(question: Question, step: PlannedStep) -> float:
    return max(step.min_time_s, step.min_requests / (question.requests_per_s * step.weight))


def _healthy(question: Question) -> Rates:
    return Rates(question.base_rate, question.base_rate)


def _worse(question: Question) -> Null:
    """What PASS refutes: worse by the margin."""
    return worse_by_margin(question.rate_spec.margin_ratio, question.rate_spec.margin_delta)


def _regressed(question: Question) -> Rates:
    return Rates(question.base_rate, question.regression_rate)


# --- the bake ---


def _bake(question: Question) -> tuple[BakeForecast, ...]:
    if not question.bake_s:
        return ()
    own = question.bake_holdout_bp
    return tuple(_bake_with(question, bp) for bp in (own, *(bp for bp in HOLDOUTS_BP if bp != own)))


def _bake_with(question: Question, holdout_bp: int) -> BakeForecast:
    if not holdout_bp:
        return BakeForecast(0.0, math.inf, math.inf)
    step, truth = PlannedStep(WEIGHT_BP_MAX - holdout_bp), _regressed(question)
    bets = bets_in(question.bake_s, TICK_S)
    believed = budget.bad_needed(question.spec, baking=True)[question.metric]
    nats_per_s = question.requests_per_s * _bad_nats(question, truth, step.weight)
    detect_s = _left_s(believed + math.log(bets) + PRICE_DETECT_NATS, nats_per_s)
    # A bet is made once in TICK_S.
    detect_s += _delay_s(question, step, truth, believed) + TICK_S if detect_s < math.inf else 0.0
    return BakeForecast(holdout_bp / 100, detect_s, detect_s * question.requests_per_s * step.weight * truth.canary)


# --- all steps ---


def _outlook(question: Question, wants: _Wants) -> Outlook:
    return Outlook(_climb(question, wants, _healthy(question)), _climb(question, wants, _regressed(question)))


def _climb(question: Question, wants: _Wants, truth: Rates) -> Journey:
    """The rollout of a canary with these rates, all evidence at its average (rule 1)."""
    at_s, proven_at_s, proven_in_step = 0.0, math.inf, None
    bad, ok, sliced, believed = wants
    if sliced:
        sliced += _warm_s(question, question.steps[0]) / _slice_s(question, question.steps[0])
    entered: list[float] = []
    for number, step in enumerate(question.steps, start=1):
        entered.append(at_s)
        bad_per_s = question.requests_per_s * _bad_nats(question, truth, step.weight)
        ok_per_s = question.requests_per_s * _nats(truth, _worse(question), step.weight)
        slices_per_s = 1.0 / _slice_s(question, step)
        to_bad_s = _left_s(bad, bad_per_s) + _delay_s(question, step, truth, believed)
        to_pass_s = max(_left_s(ok, ok_per_s), _left_s(sliced, slices_per_s))
        stay_s = max(to_pass_s, _floor_s(question, step))
        if proven_in_step is None and to_pass_s < min(to_bad_s, math.inf):
            proven_at_s, proven_in_step = at_s + to_pass_s, number
        if to_bad_s <= stay_s and to_bad_s < math.inf:
            return Journey("detected", at_s + to_bad_s, number, tuple(entered), proven_at_s, proven_in_step)
        if stay_s == math.inf:
            return Journey("undecided", math.inf, number, tuple(entered), math.inf, None)
        at_s += stay_s
        bad, ok, sliced = bad - stay_s * bad_per_s, ok - stay_s * ok_per_s, sliced - stay_s * slices_per_s
    return Journey("promoted", at_s, len(question.steps), tuple(entered), proven_at_s, proven_in_step)


def _left_s(wanted: float, per_s: float) -> float:
    if wanted <= 1e-9:  # what the climb's own rounding leaves of a want that was met
        return 0.0
    return wanted / per_s if per_s > 0.0 else math.inf

"""Findings in sentences: what was seen, what it weighs, what it would need.

Rules:

1. Every reason carries both arms' numbers and the evidence as "X of the Y needed": E itself, not its logarithm.
2. Nothing here decides: verdicts are made from logarithms in judge.py and handed in.
3. A verdict needs numbers, not sentences: `answers` are made at every look, and told when somebody reads.
4. What costs time (intervals, quantiles, what is still needed) is for showing: explain.py adds it to a finding.
5. A metric in mode ``auto`` without data advises. Its share of alpha_rollback is reserved all the same, so its E (1
   before any data) always counts towards FAIL: nothing depends on when data appear. Promotion waits for its proof from
   the first data of either version on; of a latency, from the time that `AUTO_SHARE_MIN` of either version's requests
   have one, so that a stray event stream in ten thousand requests, which could never be proven, holds nothing up.
6. One that cannot be judged (silence.py) holds no promotion up in mode ``auto`` when that is for good; it does while
   the data are there and their meaning is being learnt.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gateway.core.analysis.betting import wealth
from gateway.core.analysis.bursts import guard
from gateway.core.analysis.metrics import event_slices, rates, silence
from gateway.core.analysis.metrics.guardrails import GuardState
from gateway.core.analysis.metrics.rates import RateState, stable_guess
from gateway.core.analysis.metrics.sample_ratio import SplitState
from gateway.core.analysis.metrics.time_slices import PAST_MIN, LatencyState
from gateway.core.analysis.spec import (
    RATE_METRICS,
    EventSpec,
    GuardrailSpec,
    LatencySpec,
    Mode,
    RateSpec,
    Unit,
    Worse,
)
from gateway.core.analysis.types import GUARDRAIL, Finding, Verdict
from gateway.core.numbers import e_value, points, share
from gateway.core.stats.histogram import lower_us, total
from gateway.core.types import Unjudged, Why

if TYPE_CHECKING:
    from gateway.core.analysis.judge import AnalysisState

# A latency is passed on proof about all but `margin_delta` (5 %) of requests; what fewer have is no reason to wait.
AUTO_SHARE_MIN = 0.01
_AUTO_SILENT = (
    f"; holds no promotion up while less than {100 * AUTO_SHARE_MIN:g} % of either version's requests have one"
)


class Needed(NamedTuple):
    """The logarithms of E at which a metric convicts by itself, and at which it is proven."""

    bad: float
    ok: float


class _Seen(NamedTuple):
    """What a rate metric counted: (events, trials) of each arm, and how many units (trials or slices) could speak."""

    stable: tuple[int, int]
    canary: tuple[int, int]
    units: int
    unit: str


class Answer(NamedTuple):
    """What one metric says to the verdict; `tell` makes the finding, when somebody wants to read.

    ``convicts``: its E counts towards FAIL. ``decides``: it takes part in the verdict now (rule 5).
    """

    metric: str
    verdict: Verdict
    convicts: bool
    decides: bool
    log_e_bad: float
    log_e_ok: float
    tell: Callable[[], Finding]
    unjudged: Unjudged | None = None

    @property
    def must_pass(self) -> bool:
        """Whether PASS waits for this metric's proof: guardrails prove nothing."""
        return self.decides and not self.metric.startswith(GUARDRAIL)


def answers(state: AnalysisState, bad_needed: Mapping[str, float], ok_needed: float) -> tuple[Answer, ...]:
    """Everything that is looked at, in the order of ``bad_needed``, and the check of the split when there is one."""
    spec = state.spec
    made: dict[str, Answer] = {}
    known: dict[int, tuple[float, float]] = {}
    for name, rate in zip(RATE_METRICS, spec.rates, strict=True):
        if name in bad_needed:
            made[name] = _outcome(name, rate, state, Needed(bad_needed[name], ok_needed), known)
    for name, latency in state.latencies.items():
        made[name] = _latency(spec.latencies[name], latency, Needed(bad_needed[name], ok_needed), name, state)
    for event in spec.events:
        if event.name in bad_needed:
            made[event.name] = _event(event, state, Needed(bad_needed[event.name], ok_needed))
    for one in spec.guardrails:
        if one.name in bad_needed:
            made[one.name] = _guardrail(one, state, bad_needed[one.name])
    auto = {event.name for event in spec.events if event.mode is Mode.AUTO}
    for name, silent in silence.unjudged(state).items():
        if name in made:
            made[name] = _silenced(made[name], silent, auto=name in auto)
    checked = _split(state.split, spec.alpha_sample_ratio)
    return (*[made[name] for name in bad_needed], *checked)


def _silenced(answer: Answer, unjudged: Unjudged, *, auto: bool) -> Answer:
    """The answer of a metric that has nothing to compare."""
    why = unjudged.why
    decides = answer.decides and why is not Why.ABSENT and not (auto and why is Why.NEVER)
    decides = decides or (auto and why is Why.LEARNING)
    bad, ok = min(answer.log_e_bad, 0.0), min(answer.log_e_ok, 0.0)

    def tell() -> Finding:
        return msgspec.structs.replace(
            answer.tell(),
            verdict=Verdict.NODATA,
            reason=f"{answer.metric} cannot be judged: {unjudged.reason}",
            decides=decides,
            log_e_bad=bad,
            log_e_ok=ok,
        )

    return Answer(answer.metric, Verdict.NODATA, answer.convicts, decides, bad, ok, tell, unjudged)


def _outcome(
    name: str, spec: RateSpec, whole: AnalysisState, needed: Needed, known: dict[int, tuple[float, float]]
) -> Answer:
    stable, canary = whole.stable_requests, whole.canary_requests
    if whole.spec.sticky:
        stable, canary = whole.rates.stable, whole.rates.canary
    tests = rates.of_class(whole.rates, name)
    evidence = rates.evidence(tests, known)
    verdict = _verdict(*evidence, needed, canary if stable else 0)
    decides = _decides(spec.mode, verdict, material=stable > 0 or canary > 0)

    def tell() -> Finding:
        unit = "canary sessions" if whole.spec.sticky else "canary requests"
        seen = _Seen((tests[-1].stable_events, stable), (tests[0].canary_events, canary), canary, unit)
        worse = Worse.DIFFERENT if len(tests) > 1 else Worse.HIGHER
        return _rate_finding(name, spec, worse, seen, evidence, needed, verdict, tests[0], decides=decides)

    return Answer(name, verdict, spec.decides, decides, *evidence, tell)


def _event(spec: EventSpec, whole: AnalysisState, needed: Needed) -> Answer:
    if spec.unit is Unit.SLICE:
        vote = whole.votes[spec.name]
        stable, canary = (vote.stable_events, vote.stable), (vote.canary_events, vote.canary)
        seen, evidence = (
            _Seen(stable, canary, vote.slices, "slices"),
            (event_slices.log_e_bad(vote), event_slices.log_e_ok(vote)),
        )
    else:
        state = whole.events[spec.name]
        one = state.metrics[0]
        stable, canary = (one.stable_events, state.stable), (one.canary_events, state.canary)
        seen, evidence = (
            _Seen(stable, canary, state.canary, "canary trials"),
            (rates.log_e_bad(state.metrics), rates.log_e_ok(state.metrics)),
        )
    return _rate(spec.name, spec.rate, spec.worse, seen, evidence, needed)


def _rate(
    name: str,
    spec: RateSpec,
    worse: Worse,
    seen: _Seen,
    evidence: tuple[float, float],
    needed: Needed,
) -> Answer:
    bad, ok = evidence
    verdict = _verdict(bad, ok, needed, seen.units if min(seen.stable[1], seen.canary[1]) else 0)
    decides = _decides(spec.mode, verdict, material=seen.stable[1] > 0 or seen.canary[1] > 0)
    tell = functools.partial(_rate_finding, name, spec, worse, seen, evidence, needed, verdict, None, decides=decides)
    return Answer(name, verdict, spec.decides, decides, bad, ok, tell)


def _decides(mode: Mode, verdict: Verdict, *, material: bool) -> bool:
    """Whether a metric takes part in the verdict now (rule 5)."""
    return mode is Mode.DECIDE or (mode is Mode.AUTO and (material or verdict is Verdict.FAIL))


def _rate_finding(
    name: str,
    spec: RateSpec,
    worse: Worse,
    seen: _Seen,
    evidence: tuple[float, float],
    needed: Needed,
    verdict: Verdict,
    guessed: RateState | None,
    *,
    decides: bool,
) -> Finding:
    numbers = f"canary {name} {share(*seen.canary)} against stable {share(*seen.stable)}"
    guess = {} if guessed is None else {"stable_rate_guess": stable_guess(guessed)}
    return Finding(
        metric=name,
        verdict=verdict,
        reason=_sentence(
            verdict, numbers, evidence, needed, (_within(spec, worse), _beyond(spec, worse)), _missing(seen)
        ),
        decides=decides,
        log_e_bad=evidence[0],
        log_e_ok=evidence[1],
        stable_events=seen.stable[0],
        stable_trials=seen.stable[1],
        canary_events=seen.canary[0],
        canary_trials=seen.canary[1],
        details={
            "log_e_bad_needed": needed.bad,
            "log_e_ok_needed": needed.ok,
            "margin_ratio": spec.margin_ratio,
            "margin_delta": spec.margin_delta,
            "tolerance_ratio": spec.tolerance_ratio,
            "tolerance_delta": spec.tolerance_delta,
            **guess,
        },
    )


@functools.lru_cache(maxsize=256)
def _within(spec: RateSpec, worse: Worse) -> str:
    """The null of E_bad in words."""
    direction = {Worse.HIGHER: "not worse", Worse.LOWER: "not lower", Worse.DIFFERENT: "not different"}[worse]
    parts = []
    if spec.tolerance_ratio > 1.0:
        parts.append(f"{spec.tolerance_ratio:g} x")
    if spec.tolerance_delta > 0.0:
        parts.append(points(spec.tolerance_delta))
    return f"{direction} beyond {' or '.join(parts)}" if parts else direction


@functools.lru_cache(maxsize=256)
def _beyond(spec: RateSpec, worse: Worse) -> str:
    """The null of E_ok in words.

    >>> _beyond(RateSpec(), Worse.HIGHER)
    'worse than 1.5 x stable and stable + 1 point'
    >>> _beyond(RateSpec(margin_ratio=1.0, margin_delta=0.2), Worse.DIFFERENT)
    'different by 20 points'
    """
    by, ratio = points(spec.margin_delta), f"{spec.margin_ratio:g}"
    by_ratio = spec.margin_ratio > 1.0
    if worse is Worse.HIGHER:
        return f"worse than {f'{ratio} x stable and ' * by_ratio}stable + {by}"
    if worse is Worse.LOWER:
        return f"lower than {f'stable / {ratio} and ' * by_ratio}stable - {by}"
    return f"different by {f'{ratio} x and ' * by_ratio}{by}"


def _latency(spec: LatencySpec, state: LatencyState, needed: Needed, name: str, whole: AnalysisState) -> Answer:
    bads, oks = [wealth.log_e(q.bad) for q in state.quantiles], [wealth.log_e(q.ok) for q in state.quantiles]
    bad, ok = wealth.mean_logs(bads), min(oks)
    verdict = _verdict(bad, ok, needed, state.slices)
    index = bads.index(max(bads)) if verdict is Verdict.FAIL else oks.index(ok)
    material = spec.mode is Mode.AUTO and _material(state, whole)
    decides = _decides(spec.mode, verdict, material=material)
    tell = functools.partial(
        _latency_finding, name, spec, state, (bad, ok), needed, verdict, index, decides=decides, material=material
    )
    return Answer(name, verdict, spec.decides, decides, bad, ok, tell)


def _material(state: LatencyState, whole: AnalysisState) -> bool:
    """Whether enough of either version's requests have this latency."""
    stable, canary = total(state.stable_seen) + state.stable_left, total(state.canary_seen) + state.canary_left
    pairs = ((stable, whole.stable_requests), (canary, whole.canary_requests))
    return any(seen and seen >= AUTO_SHARE_MIN * requests for seen, requests in pairs)


def _latency_finding(
    name: str,
    spec: LatencySpec,
    state: LatencyState,
    evidence: tuple[float, float],
    needed: Needed,
    verdict: Verdict,
    index: int,
    *,
    decides: bool,
    material: bool,
) -> Finding:
    """A latency, told at the threshold that made it FAIL or keeps it from PASS. Events and trials: closed slices."""
    worst = state.quantiles[index]
    if state.slices:
        tolerance, edge, margin = _latency_words(spec, index)
        seen = (
            f"canary {name} beyond {tolerance} in {share(worst.canary_bad, state.canary)} requests against stable"
            f" beyond {edge} in {share(worst.stable_slow, state.stable)}, {state.slices} slices{_left(state)}"
        )
        reason = _sentence(verdict, seen, evidence, needed, ("not slower", margin), "slices")
    else:
        reason = _waiting(spec, state, name)
    if spec.mode is Mode.AUTO and not material:
        reason += _AUTO_SILENT
    told = {"quantile": spec.quantiles[index]} if index < len(spec.quantiles) else {}
    return Finding(
        metric=name,
        verdict=verdict,
        reason=reason,
        decides=decides,
        log_e_bad=evidence[0],
        log_e_ok=evidence[1],
        stable_events=worst.stable_slow,
        stable_trials=state.stable,
        canary_events=worst.canary_bad,
        canary_trials=state.canary,
        details={
            "log_e_bad_needed": needed.bad,
            "log_e_ok_needed": needed.ok,
            **told,
            "slices": float(state.slices),
            "mean_excess": worst.excess_sum / state.slices if state.slices else 0.0,
            **_thresholds(spec, state),
        },
    )


def _left(state: LatencyState) -> str:
    """How many of the requests were not seen to their end."""
    if not state.stable_left and not state.canary_left:
        return ""
    return f" (clients left before its end: {state.canary_left} on canary, {state.stable_left} on stable)"


def _latency_words(spec: LatencySpec, index: int) -> tuple[str, str, str]:
    """What the canary may not exceed, what stable is compared at, and the null of E_ok, of one threshold."""
    if index >= len(spec.quantiles):
        slo = f"{spec.slo_us[index - len(spec.quantiles)] / 1000:g} ms"
        return slo, "it", f"slower by {points(spec.margin_delta)} of requests"
    name = f"p{100 * spec.quantiles[index]:g}"
    tolerance = f"{spec.tolerance_ratio:g} x stable's {name} + {spec.tolerance_us / 1000:g} ms"
    return tolerance, f"its {name}", f"slower than {spec.margin_ratio:g} x stable + {spec.margin_us / 1000:g} ms"


def _believed(spec: GuardrailSpec, log_e: float, whole: AnalysisState) -> float:
    """A limit on an outcome class believes no more of a burst than the class itself does."""
    if spec.metric not in RATE_METRICS:
        return log_e
    return guard.guarded(log_e, rates.of_class(whole.rates, spec.metric)[0].bursts)


def _guardrail(spec: GuardrailSpec, whole: AnalysisState, bad_needed: float) -> Answer:
    state = whole.guardrails[spec.name]
    bad = _believed(spec, wealth.log_e(state.bad), whole)
    verdict = Verdict.FAIL if bad >= bad_needed else Verdict.UNDECIDED if state.trials else Verdict.NODATA
    tell = functools.partial(_guardrail_finding, spec, state, bad, bad_needed, verdict)
    return Answer(spec.name, verdict, spec.decides, spec.decides, bad, 0.0, tell)


def _guardrail_finding(
    spec: GuardrailSpec, state: GuardState, bad: float, bad_needed: float, verdict: Verdict
) -> Finding:
    slow = "" if spec.threshold_us is None else f" beyond {spec.threshold_us / 1000:g} ms"
    limit = f"at most {100 * spec.limit:g} %"
    evidence = f"evidence {e_value(bad)} of the {_known(bad_needed)} needed against '{limit}'"
    reason = (
        f"canary {spec.metric}{slow} {share(state.events, state.trials)} against a limit of {100 * spec.limit:g} %:"
        f" {evidence if state.trials else 'no canary trials yet'}"
    )
    return Finding(
        metric=spec.name,
        verdict=verdict,
        reason=reason,
        decides=spec.decides,
        log_e_bad=bad,
        log_e_ok=0.0,
        stable_events=0,
        stable_trials=0,
        canary_events=state.events,
        canary_trials=state.trials,
        details={"log_e_bad_needed": bad_needed, "limit": spec.limit},
    )


def _split(state: SplitState, alpha: float) -> tuple[Answer, ...]:
    """The check of the split: nothing while it is off or nothing was counted at assignment."""
    if not alpha or not state.stable + state.canary:
        return ()
    bad, needed = wealth.log_e(state.wealth), -math.log(alpha)
    verdict = Verdict.ERROR if bad >= needed else Verdict.UNDECIDED
    tell = functools.partial(_split_finding, state, bad, needed, verdict)
    return (Answer("sample_ratio", verdict, False, False, bad, 0.0, tell),)


def _split_finding(state: SplitState, bad: float, needed: float, verdict: Verdict) -> Finding:
    whole, broken = state.stable + state.canary, verdict is Verdict.ERROR
    says = "the split is broken, the experiment is at fault" if broken else "no sign of a broken split"
    reason = (
        f"{says}: canary was assigned {share(state.canary, whole)} of requests, by its weight"
        f" {100 * state.expected / whole:.3g} %; evidence {e_value(bad)} of the {e_value(needed)} needed"
    )
    return Finding(
        metric="sample_ratio",
        verdict=verdict,
        reason=reason,
        decides=False,
        log_e_bad=bad,
        log_e_ok=0.0,
        stable_events=state.stable,
        stable_trials=whole,
        canary_events=state.canary,
        canary_trials=whole,
        details={"log_e_bad_needed": needed, "expected_share": state.expected / whole},
    )


# What is needed stays the same from look to look.
_known = functools.lru_cache(maxsize=256)(e_value)


def _verdict(bad: float, ok: float, needed: tuple[float, float], units: int) -> Verdict:
    if bad >= needed[0]:
        return Verdict.FAIL
    if not units:
        return Verdict.NODATA
    return Verdict.PASS if ok >= needed[1] else Verdict.UNDECIDED


def _missing(seen: _Seen) -> str:
    """What there is none of: both versions' units, or those of the one that is missing."""
    unit = seen.unit.removeprefix("canary ")
    if bool(seen.stable[1]) == bool(seen.canary[1]):
        return unit if seen.stable[1] else f"{unit} of either version"
    return f"{'canary' if seen.stable[1] else 'stable'} {unit}"


def _sentence(
    verdict: Verdict,
    seen: str,
    evidence: tuple[float, float],
    needed: Needed,
    nulls: tuple[str, str],
    missing: str,
) -> str:
    bad, ok = evidence
    against = f"evidence {e_value(bad)} of the {_known(needed.bad)} needed against '{nulls[0]}'"
    if verdict is Verdict.FAIL:
        return f"{seen}: {against}"
    passing = f"{e_value(ok)} of the {_known(needed.ok)} needed against '{nulls[1]}'"
    if verdict is Verdict.NODATA:
        return f"{seen}: no {missing} yet"
    if verdict is Verdict.PASS:
        return f"{seen}: evidence {passing}; {e_value(bad)} of {_known(needed.bad)} against '{nulls[0]}'"
    return f"{seen}: {against}, {passing}"


def _waiting(spec: LatencySpec, state: LatencyState, name: str) -> str:
    past, canary = total(state.past) + total(state.past_left), total(state.canary_seen) + state.canary_left
    if canary and not past:
        return f"{name}: {canary} canary requests have one and no stable request has: nothing to compare with"
    if past < PAST_MIN:
        return f"{name}: {past} of the {PAST_MIN} stable requests needed to set thresholds"
    return f"{name}: the first slice of {spec.slice_s:g} s is open until both arms have answered in it"


def _thresholds(spec: LatencySpec, state: LatencyState) -> dict[str, float]:
    if state.open is None:
        return {}
    out = {}
    for q, threshold in zip(spec.quantiles, state.open.thresholds, strict=False):
        out[f"p{100 * q:g}_stable_us"] = float(lower_us(threshold.stable))
        out[f"p{100 * q:g}_tolerated_us"] = float(lower_us(threshold.canary_bad))
        out[f"p{100 * q:g}_margin_us"] = float(lower_us(threshold.canary_ok))
    return out

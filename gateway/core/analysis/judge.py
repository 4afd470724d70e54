"""The judge: evidence in, verdict out; pure, so that a journal or a snapshot always leads to the same answer.

Rules:

1. FAIL when the average of E_bad over everything that decides, weighted by the shares of budget.py, reaches 1 / alpha
   (values of this moment, never running maxima). The causes are what e-BH blames.
2. PASS when EVERY deciding metric's E_ok is at 1 / alpha_promote now. "Now" and not "ever": a canary that has become
   worse must prove itself again. A deciding metric without data, or with nothing to compare (silence.py), keeps PASS
   away; one in mode ``auto`` decides as soon as either version has data for it (8). What is not known yet keeps it
   away, too (missing_outcomes.py).
3. A split of the traffic that contradicts the weights is ERROR with the cause ``sample_ratio``: the experiment is at
   fault. FAIL goes before it, because a rollback is safe whatever the split.
4. NODATA until the canary has answered a request of the experiment; otherwise UNDECIDED. Requests that were forced, or
   assigned at 0 or 100 %, are no part of it: ``outside`` says how many there were.
5. Evidence that cannot be true, or a state made for another question, is ERROR without a cause; the state stays as it
   was and no exception leaves this module.
6. After promotion a small holdout stays with stable and the judge goes on with the state that `bake` makes: CUSUMs
   instead of e-processes (wealth.py, rule 3), the bake's part of alpha, and no PASS. The bake passes when its time is
   over. There a rate bets at most once in ``TICK_S``, and a latency once a slice.
7. There is no clock here (``evidence.at_s`` is the time) and no latch: FAIL is the answer of this moment, and the
   caller acts on it at once.
8. A metric in mode ``auto`` without data advises. Its share of alpha_rollback is reserved all the same, so its E (1
   before any data) always counts towards FAIL: nothing depends on when data appear. Promotion waits for its proof from
   the first data of either version on. One that cannot be judged (silence.py) holds no promotion up in mode ``auto``
   when that is for good; it does while the data are there and their meaning is being learnt.
9. Nothing here knows a kind of metric: each is asked through its interface (metrics/kind.py). A look takes numbers and
   one sentence, the verdict's; the others are made when somebody reads.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from gateway.core.analysis import budget, materiality
from gateway.core.analysis.betting import wealth
from gateway.core.analysis.betting.wealth import Wealth
from gateway.core.analysis.bursts import trimmed
from gateway.core.analysis.bursts.past import Weather
from gateway.core.analysis.evidence import intake, warmup
from gateway.core.analysis.evidence.intake import Arrival, Intake
from gateway.core.analysis.findings import MetricFinding, Needed, Traffic
from gateway.core.analysis.metrics import registry, silence
from gateway.core.analysis.metrics.kind import TICK_S, Measure, Metric, MetricKind, Role, Standing, Tick
from gateway.core.analysis.show import sentences, strata
from gateway.core.analysis.spec import LATENCY_METRICS, AnalysisSpec, Mode
from gateway.core.analysis.state import STATE_VERSION, AnalysisState, Pace
from gateway.core.analysis.types import Analysis, Evidence, Finding, Verdict
from gateway.core.errors import EvidenceError, InvalidValueError
from gateway.core.types import WEIGHT_BP_MAX, Unjudged, Why


def fresh_state(spec: AnalysisSpec, weather: Mapping[str, Weather] | None = None) -> AnalysisState:
    """The state before any evidence; one unit of wealth in every test.

    ``weather`` is what stable's past says of its bad moments, by failure class; nothing is known of a class without.
    """
    tests = {kind.name: kind.fresh(spec) for kind, _ in registry.metrics_of(spec)}
    return AnalysisState(spec, Intake(), tests, warmup=warmup.fresh(spec.warmup), weather=dict(weather or {}))


def restore(encoded: bytes) -> AnalysisState:
    """The state that `AnalysisState.encode` wrote.

    Raises EvidenceError for one that this gateway cannot go on with.
    """
    try:
        state = msgspec.json.decode(encoded, type=AnalysisState)
        kinds = [kind for kind, _ in registry.metrics_of(state.spec)]
        if state.version != STATE_VERSION:
            raise EvidenceError(f"the analysis state has version {state.version}, this gateway reads {STATE_VERSION}")
        tests = {kind.name: msgspec.convert(state.tests[kind.name], kind.state_type, str_keys=True) for kind in kinds}
    except (msgspec.DecodeError, KeyError, InvalidValueError) as error:
        raise EvidenceError(f"the analysis state cannot be read: {error}") from error
    if _sizes(tests) != _sizes(fresh_state(state.spec).tests):
        raise EvidenceError("the analysis state was made for different tests: start a new rollout")
    return msgspec.structs.replace(state, tests=tests)


def _sizes(value: Any) -> object:
    """How many guesses each test in a state has, whatever else it holds."""
    if isinstance(value, Wealth):
        return len(value.logs)
    if isinstance(value, msgspec.Struct):
        value = {name: getattr(value, name) for name in value.__struct_fields__}
    if isinstance(value, Mapping):
        return {key: found for key, each in value.items() if (found := _sizes(each)) is not None} or None
    if isinstance(value, tuple):
        return [found for each in value if (found := _sizes(each)) is not None] or None
    return None


def bake(state: AnalysisState, bake_s: float) -> AnalysisState:
    """The state with which a promoted version is watched for ``bake_s`` seconds: new tests, what was learnt stays.

    Raises InvalidValueError for an invalid time.
    """
    if not 0.0 < bake_s < math.inf:
        raise InvalidValueError(f"a bake must be longer than 0 seconds, not {bake_s!r}")
    tests = {kind.name: kind.baked(kind.own(state), state.spec, bake_s) for kind, _ in registry.metrics_of(state.spec)}
    return msgspec.structs.replace(state, tests=tests, bake_s=bake_s, since=materiality.baked(state))


class Look:
    """What one look says: the verdict, its reason and causes. The whole analysis is made when it is asked for.

    ``silent``: the deciding metrics that cannot have data as things are, and why. ``unknown``: what is not known of the
    canary, and holds the end of a bake.
    """

    def __init__(
        self,
        verdict: Verdict,
        reason: str,
        causes: tuple[str, ...],
        canary_requests: int,
        whole: Callable[[], Analysis],
        silent: Mapping[str, Unjudged] | None = None,
        unknown: str = "",
    ) -> None:
        self.verdict = verdict
        self.reason = reason
        self.causes = causes
        self.canary_requests = canary_requests
        self.silent = silent or {}
        self.unknown = unknown
        self._whole = whole

    @classmethod
    def of(cls, analysis: Analysis) -> Look:
        """The look at an analysis that was made already."""
        return cls(analysis.verdict, analysis.reason, analysis.causes, analysis.canary_requests, lambda: analysis)

    def adding(self, said: str, complete: Callable[[Analysis], Analysis]) -> Look:
        """The same look with this after its reason; ``complete`` adds to the rest of the analysis when it is made."""

        def whole() -> Analysis:
            found = complete(self.analysis)
            return msgspec.structs.replace(found, reason=found.reason + said) if said else found

        return Look(
            self.verdict, self.reason + said, self.causes, self.canary_requests, whole, self.silent, self.unknown
        )

    @functools.cached_property
    def analysis(self) -> Analysis:
        """Everything, with a sentence for each metric. Never raises: what is decided stands, in words or not."""
        try:
            return self._whole()
        except Exception as error:  # noqa: BLE001  # a word that cannot be found must not undo a decision
            reason = f"{self.reason}; the findings cannot be shown: {type(error).__name__}: {error}"
            return Analysis(self.verdict, reason, self.causes, (), 0.0, 0.0, 0.0, 0, self.canary_requests)


def judge(spec: AnalysisSpec, state: AnalysisState, evidence: Evidence) -> tuple[AnalysisState, Analysis]:
    """The state after this evidence, and the verdict at ``evidence.at_s``. Never raises."""
    after, found = look(spec, state, evidence)
    return after, found.analysis


def look(spec: AnalysisSpec, state: AnalysisState, evidence: Evidence) -> tuple[AnalysisState, Look]:
    """`judge` for those who look often and read seldom: sentences about each metric are not made yet. Never raises."""
    try:
        if state.spec is not spec and state.spec != spec:
            raise EvidenceError(
                "the analysis settings changed during the rollout: start a new rollout (its error bounds are fixed)"
            )
        after = _take(state, evidence)
        return after, _decide(after)
    except EvidenceError as error:
        return state, Look.of(_error(str(error)))
    except Exception as error:  # noqa: BLE001  # see below
        # Evidence comes over a wire: whatever got through its types must hold the rollout, not kill the loop.
        return state, Look.of(_error(f"the evidence cannot be read: {type(error).__name__}: {error}"))


def explained(state: AnalysisState, analysis: Analysis, *, forecast: bool = True) -> Analysis:
    """The analysis with what people want to see: effects with their intervals, quantiles, and what is still needed.

    ``analysis`` is what `judge` said together with ``state``; without ``forecast``, as when a rollout is over, nothing
    is said of what would still be needed. Costs some milliseconds: for showing, not for ticks.
    """
    if analysis.verdict is Verdict.ERROR and not analysis.causes:
        return analysis
    # scipy takes longer to load than the control process takes to start: only what is shown needs it.
    from gateway.core.analysis.show import explain  # noqa: PLC0415  # see above

    traffic = _traffic(state) if forecast and not state.baking else None
    known = {standing.metric: _found(state, kind, standing) for kind, standing in _standings(state)}
    findings = tuple(
        explain.explained(state, finding, known[finding.metric], traffic) if finding.metric in known else finding
        for finding in analysis.findings
    )
    return msgspec.structs.replace(analysis, findings=findings)


# --- evidence in ---


def _take(state: AnalysisState, evidence: Evidence) -> AnalysisState:
    """The state with everything new in the evidence consumed. Raises EvidenceError, having changed nothing."""
    spec, at_s = state.spec, evidence.at_s
    memory, arrivals = intake.take(state.intake, evidence, unread(spec))
    live = sorted(memory.epochs)
    needed = budget.bad_needed(spec, baking=state.baking)
    warming = warmup.take(state.warmup, spec.warmup, arrivals, at_s)
    every_s = TICK_S if state.baking else 0.0
    tick = Tick(spec, at_s, arrivals, live, needed, every_s, state.warmup.over, state.weather)
    after = AnalysisState(
        spec=spec,
        intake=memory,
        tests={kind.name: kind.take(kind.own(state), tick) for kind, _ in registry.metrics_of(spec)},
        unjudged=dict(evidence.unjudged),
        stable_requests=state.stable_requests + _requests(arrivals, "stable"),
        canary_requests=state.canary_requests + _requests(arrivals, "canary"),
        outside=evidence.outside,
        pace=_pace(state, live, at_s),
        bake_s=state.bake_s,
        folded=strata.folded(state.folded, state.intake, memory),
        warmup=warming,
        since=state.since,
        weather=state.weather,
    )
    return materiality.taken(after)


@functools.lru_cache(maxsize=64)
def unread(spec: AnalysisSpec) -> tuple[str, ...]:
    """The latencies that nothing is judged by; of the histograms of those that left, what they need is always kept."""
    read = {*spec.latencies, *(one.metric for one in spec.guardrails), *(one.of for one in spec.events)}
    return tuple(name for name in LATENCY_METRICS if name not in read)


def _pace(state: AnalysisState, live: list[int], at_s: float) -> Pace:
    if not live:
        return state.pace
    pace = state.pace
    if live[-1] != pace.epoch or at_s < pace.at_s:
        # A new weight, or a clock that went backwards (a restart): what came before has another pace.
        return Pace(live[-1], at_s, at_s, state.stable_requests, state.canary_requests)
    return Pace(pace.epoch, pace.since_s, at_s, pace.stable_before, pace.canary_before)


def _traffic(state: AnalysisState) -> Traffic | None:
    """What a forecast goes by; None before the first epoch with evidence."""
    entry, pace = state.intake.epochs.get(state.pace.epoch), state.pace
    if entry is None:
        return None
    for_s = pace.at_s - pace.since_s
    per_s = (state.canary_requests - pace.canary_before) / for_s if for_s > 0.0 else 0.0
    return Traffic(entry.weight_bp / WEIGHT_BP_MAX, per_s, state.canary_requests)


def _requests(arrivals: list[Arrival], arm: str) -> int:
    return sum(getattr(arrival, arm).requests for arrival in arrivals)


# --- the verdict out ---


def _standings(state: AnalysisState) -> list[tuple[MetricKind[Any], Standing]]:
    """What each metric says to the verdict, in the order of the report."""
    spec = state.spec
    bad_needed = budget.bad_needed(spec, baking=state.baking)
    ok_needed = -math.log(spec.alpha_promote)
    unjudged = silence.unjudged(state)
    found = []
    for kind, metrics in registry.metrics_of(spec):
        known: dict[int, tuple[float, float]] = {}
        for metric in metrics:
            measure = materiality.held_back(state, metric.name, kind.measure(state, metric, known))
            if metric.role is Role.CHECK or metric.role is Role.HOLD:
                if measure.units:
                    found.append((kind, _checked(metric, measure, ok_needed)))
                continue
            standing = _standing(metric, measure, Needed(bad_needed[metric.name], ok_needed))
            if metric.name in unjudged:
                standing = _silenced(standing, unjudged[metric.name], auto=metric.mode is Mode.AUTO)
            found.append((kind, standing))
    return found


def _standing(metric: Metric, measure: Measure, needed: Needed) -> Standing:
    """A metric that shares alpha_rollback."""
    bad, ok, units, present = measure
    if bad >= needed.bad:
        verdict = Verdict.FAIL
    elif not units:
        verdict = Verdict.NODATA
    else:
        proven = metric.role is Role.COMPARED and ok >= needed.ok
        verdict = Verdict.PASS if proven else Verdict.UNDECIDED
    convicts = decides = metric.mode.may_decide
    if metric.mode is Mode.AUTO and metric.role is Role.COMPARED:
        decides = present or verdict is Verdict.FAIL
    return Standing(metric.name, verdict, convicts, decides, bad, ok, needed, metric.role)


def _checked(metric: Metric, measure: Measure, ok_needed: float) -> Standing:
    """What holds a PASS, or a check of the experiment, with an alpha of its own (rule 3)."""
    if metric.role is Role.HOLD:
        verdict = Verdict.PASS if measure.log_e_ok >= ok_needed else Verdict.UNDECIDED
        needed = Needed(0.0, ok_needed)
        return Standing(metric.name, verdict, False, True, 0.0, measure.log_e_ok, needed, Role.HOLD)
    needed = Needed(-math.log(metric.alpha), 0.0)
    verdict = Verdict.ERROR if measure.log_e_bad >= needed.bad else Verdict.UNDECIDED
    return Standing(metric.name, verdict, False, False, measure.log_e_bad, measure.log_e_ok, needed, Role.CHECK)


def _silenced(standing: Standing, unjudged: Unjudged, *, auto: bool) -> Standing:
    """A metric that has nothing to compare (rule 8)."""
    why = unjudged.why
    decides = standing.decides and why is not Why.ABSENT and not (auto and why is Why.NEVER)
    return standing._replace(
        verdict=Verdict.NODATA,
        decides=decides or (auto and why is Why.LEARNING),
        log_e_bad=min(standing.log_e_bad, 0.0),
        log_e_ok=min(standing.log_e_ok, 0.0),
        unjudged=unjudged,
    )


def _found(state: AnalysisState, kind: MetricKind[Any], standing: Standing) -> MetricFinding:
    """One metric's finding in numbers, and what was known of stable's bad moments."""
    numbers = kind.finding(state, standing)
    weather = state.weather.get(standing.metric)
    if weather is None:
        return numbers
    rule = trimmed.rule_for(weather, state.spec)
    excused_s = 0.0 if rule is None else rule.stretch_s
    return msgspec.structs.replace(numbers, weather=weather, burst_s=state.spec.burst_s, excused_s=excused_s)


def _numbers(state: AnalysisState, kind: MetricKind[Any], standing: Standing) -> MetricFinding:
    """One metric's finding in numbers, also of one that has nothing to compare."""
    numbers = strata.with_rates(state, _found(state, kind, standing))
    if materiality.holds_back(state, standing.metric):
        numbers = msgspec.structs.replace(numbers, immaterial=True)
    if standing.unjudged is None:
        return numbers
    return msgspec.structs.replace(numbers, unjudged=standing.unjudged.reason)


def _decide(state: AnalysisState) -> Look:
    spec = state.spec
    shares = budget.log_shares(spec)
    alpha, ok_needed = budget.log_alpha(spec, baking=state.baking), -math.log(spec.alpha_promote)
    asked = _standings(state)
    standings = [standing for _, standing in asked]
    weighted = {one.metric: one.log_e_bad + shares[one.metric] for one in standings if one.convicts}
    log_e_bad = wealth.sum_logs(list(weighted.values())) if weighted else 0.0
    proving = [one for one in standings if one.must_pass]
    missing = [one for one in proving if one.log_e_ok < ok_needed or one.verdict is Verdict.NODATA]
    broken = tuple(one.metric for one in standings if one.role is Role.CHECK and one.verdict is Verdict.ERROR)

    def numbers_of(*names: str) -> list[MetricFinding]:
        return [_numbers(state, kind, one) for kind, one in asked if one.metric in names]

    causes: tuple[str, ...] = ()
    if log_e_bad >= -alpha:
        verdict, causes = Verdict.FAIL, budget.blamed(weighted, alpha)
        reason = sentences.blame(numbers_of(*causes))
    elif broken:
        verdict, causes, reason = Verdict.ERROR, broken, sentences.reason(numbers_of(*broken)[0])
    elif not state.canary_requests:
        verdict, reason = Verdict.NODATA, sentences.nothing_yet(state.outside)
    elif not any(one.decides for one in standings if one.role is not Role.HOLD):
        verdict, reason = Verdict.UNDECIDED, sentences.NOTHING_DECIDES
    elif state.baking:
        watched = [one.metric for one in standings if one.convicts and one.decides]
        verdict, reason = Verdict.UNDECIDED, sentences.watched(watched)
    elif all(one.role is Role.HOLD for one in proving):
        verdict, reason = Verdict.UNDECIDED, sentences.ONLY_LIMITS
    elif not missing:
        verdict, reason = Verdict.PASS, sentences.proven([one.metric for one in proving], state.canary_requests)
    else:
        verdict = Verdict.UNDECIDED
        silent = {one.metric: one.unjudged for one in missing if one.unjudged is not None}
        furthest = min(missing, key=lambda one: one.log_e_ok)
        why = sentences.unjudged(silent) or f"furthest: {sentences.reason(numbers_of(furthest.metric)[0])}"
        reason = sentences.unproven([one.metric for one in missing], why)

    def whole() -> Analysis:
        return Analysis(
            verdict=verdict,
            reason=reason,
            causes=causes,
            findings=tuple([sentences.finding_of(_numbers(state, kind, one)) for kind, one in asked]),
            log_e_bad=log_e_bad,
            log_e_bad_needed=-alpha,
            log_e_ok_needed=ok_needed,
            stable_requests=state.stable_requests,
            canary_requests=state.canary_requests,
        )

    never = {one.metric: one.unjudged for one in proving if one.unjudged is not None and one.unjudged.why is Why.NEVER}
    holding = [one.metric for one in standings if one.role is Role.HOLD and one.verdict is not Verdict.PASS]
    unknown = "; ".join(sentences.reason(one) for one in numbers_of(*holding)) if state.baking and holding else ""
    return Look(verdict, reason, causes, state.canary_requests, whole, never, unknown)


def _error(reason: str) -> Analysis:
    """The answer to evidence that must not be used; it claims nothing about either arm."""
    return Analysis(
        verdict=Verdict.ERROR,
        reason=f"evidence refused: {reason}",
        causes=(),
        findings=(Finding("evidence", Verdict.ERROR, reason, False, 0.0, 0.0, 0, 0, 0, 0),),
        log_e_bad=0.0,
        log_e_bad_needed=0.0,
        log_e_ok_needed=0.0,
        stable_requests=0,
        canary_requests=0,
    )

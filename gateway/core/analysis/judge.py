"""The judge: evidence in, verdict out; pure, so that a journal or a snapshot always leads to the same answer.

Rules:

1. FAIL when the average of E_bad over everything that decides, weighted by the shares of budget.py, reaches 1 / alpha
   (values of this moment, never running maxima). The causes are what e-BH blames.
2. PASS when EVERY deciding metric's E_ok is at 1 / alpha_promote now. "Now" and not "ever": a canary that has become
   worse must prove itself again. A deciding metric without data, or with nothing to compare (silence.py), keeps PASS
   away; one in mode ``auto`` decides as soon
   as either version has data for it (report.py, rule 5).
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
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import msgspec

from gateway.core.analysis import budget
from gateway.core.analysis.betting import wealth
from gateway.core.analysis.evidence import intake
from gateway.core.analysis.evidence.intake import Arrival, Intake
from gateway.core.analysis.evidence.trials import CLASS_TESTS
from gateway.core.analysis.metrics import event_slices, guardrails, rates, sample_ratio, time_slices
from gateway.core.analysis.metrics.event_slices import VotesState
from gateway.core.analysis.metrics.guardrails import GuardState
from gateway.core.analysis.metrics.rates import RatesState
from gateway.core.analysis.metrics.sample_ratio import SplitState
from gateway.core.analysis.metrics.silence import sentence, some
from gateway.core.analysis.metrics.time_slices import LatencyState
from gateway.core.analysis.show import explain, report
from gateway.core.analysis.spec import LATENCY_METRICS, Mode, Unit
from gateway.core.analysis.types import Analysis, AnalysisSpec, Evidence, Finding, Verdict
from gateway.core.errors import EvidenceError, InvalidValueError
from gateway.core.types import Unjudged, Why

STATE_VERSION = 5
# The bet of a rate in a bake: what happens in a second is one.
TICK_S = 1.0
# An epoch may close its last batch beside the newest one's.
_SPARE_BETS = 8


class Pace(msgspec.Struct, frozen=True):
    """How fast evidence comes: since when the newest epoch does, and the requests counted before it."""

    epoch: int = -1
    since_s: float = 0.0
    at_s: float = 0.0
    stable_before: int = 0
    canary_before: int = 0


class AnalysisState(msgspec.Struct, frozen=True):
    """Everything that the next verdict needs: what was consumed, log-wealths, thresholds, and the spec they belong to.

    Plain finite numbers throughout: ``msgspec.json`` writes and reads it back bit for bit. ``latencies`` holds the
    latencies that are looked at, ``events`` the labelled events with the request as unit, ``votes`` those with the
    slice. ``bake_s`` is 0 during the climb.
    """

    spec: AnalysisSpec
    intake: Intake
    rates: RatesState
    latencies: dict[str, LatencyState]
    events: dict[str, RatesState]
    votes: dict[str, VotesState]
    guardrails: dict[str, GuardState]
    split: SplitState
    unjudged: dict[str, Unjudged] = {}
    stable_requests: int = 0
    canary_requests: int = 0
    outside: int = 0
    pace: Pace = Pace()
    bake_s: float = 0.0
    version: int = STATE_VERSION

    @classmethod
    def fresh(cls, spec: AnalysisSpec) -> AnalysisState:
        """The state before any evidence; one unit of wealth in every test."""
        by_request = [event for event in spec.events if event.unit is Unit.REQUEST and event.mode is not Mode.OFF]
        by_slice = [event for event in spec.events if event.unit is Unit.SLICE and event.mode is not Mode.OFF]
        return cls(
            spec=spec,
            intake=Intake(),
            rates=rates.fresh(),
            latencies={name: time_slices.fresh(latency) for name, latency in spec.latencies.items()},
            events={
                event.name: rates.fresh(len(rates.directions_of(event)), rates.LABELLED_PRIOR) for event in by_request
            },
            votes={event.name: event_slices.fresh(event) for event in by_slice},
            guardrails={one.name: guardrails.fresh() for one in spec.guardrails if one.mode is not Mode.OFF},
            split=sample_ratio.fresh(),
        )

    @property
    def latency(self) -> LatencyState:
        """The latency of the first byte. Raises KeyError when it is not looked at."""
        return self.latencies["latency"]

    @property
    def baking(self) -> bool:
        """Whether this is the time after promotion."""
        return self.bake_s > 0.0


def bake(state: AnalysisState, bake_s: float) -> AnalysisState:
    """The state with which a promoted version is watched for ``bake_s`` seconds: new tests, what was learnt stays.

    Raises InvalidValueError for a time that is none.
    """
    if not 0.0 < bake_s < math.inf:
        raise InvalidValueError(f"a bake lasts more than 0 seconds, not {bake_s!r}")
    latency_specs = state.spec.latencies
    event_slices_s = {event.name: event.slice_s for event in state.spec.events}
    guard_slices_s = {one.name: max(TICK_S, one.slice_s) for one in state.spec.guardrails}
    return msgspec.structs.replace(
        state,
        rates=rates.baked(state.rates, _bets(bake_s, TICK_S)),
        latencies={
            name: time_slices.baked(one, _bets(bake_s, latency_specs[name].slice_s))
            for name, one in state.latencies.items()
        },
        events={name: rates.baked(one, _bets(bake_s, TICK_S)) for name, one in state.events.items()},
        votes={name: event_slices.baked(one, _bets(bake_s, event_slices_s[name])) for name, one in state.votes.items()},
        guardrails={
            name: guardrails.baked(one, _bets(bake_s, guard_slices_s[name])) for name, one in state.guardrails.items()
        },
        bake_s=bake_s,
    )


def asked_anew(state: AnalysisState, group: str) -> AnalysisState:
    """The state when the events of a group have come to mean something else (what is compared was chosen anew)."""
    names = {event.name for event in state.spec.events if event.group == group}
    events = {name: rates.asked_anew(one) if name in names else one for name, one in state.events.items()}
    return msgspec.structs.replace(state, events=events)


def _bets(bake_s: float, tick_s: float) -> int:
    """How many bets the bake has room for."""
    return math.ceil(bake_s / tick_s) + _SPARE_BETS


class Look:
    """What one look says: the verdict, its reason and causes. The whole analysis is made when it is asked for.

    ``silent``: the deciding metrics that cannot have data as things are, and why.
    """

    def __init__(
        self,
        verdict: Verdict,
        reason: str,
        causes: tuple[str, ...],
        canary_requests: int,
        tell: Callable[[], Analysis],
        silent: Mapping[str, Unjudged] | None = None,
    ) -> None:
        self.verdict = verdict
        self.reason = reason
        self.causes = causes
        self.canary_requests = canary_requests
        self.silent = silent or {}
        self._tell = tell

    @classmethod
    def of(cls, analysis: Analysis) -> Look:
        """The look at what has been told already."""
        return cls(analysis.verdict, analysis.reason, analysis.causes, analysis.canary_requests, lambda: analysis)

    @functools.cached_property
    def analysis(self) -> Analysis:
        """Everything, with a sentence for each metric. Never raises: what is decided stands, told or not."""
        try:
            return self._tell()
        except Exception as error:  # noqa: BLE001  # a word that cannot be found must not undo a decision
            reason = f"{self.reason}; the metrics cannot be told: {type(error).__name__}: {error}"
            return Analysis(self.verdict, reason, self.causes, (), 0.0, 0.0, 0.0, 0, self.canary_requests)


def judge(spec: AnalysisSpec, state: AnalysisState, evidence: Evidence) -> tuple[AnalysisState, Analysis]:
    """The state after this evidence, and the verdict at ``evidence.at_s``. Never raises."""
    after, found = look(spec, state, evidence)
    return after, found.analysis


def look(spec: AnalysisSpec, state: AnalysisState, evidence: Evidence) -> tuple[AnalysisState, Look]:
    """`judge` for those who look often and read seldom: sentences about each metric are not made yet. Never raises."""
    try:
        _check_state(spec, state)
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
    return msgspec.structs.replace(
        analysis, findings=tuple(explain.explained(state, finding, forecast=forecast) for finding in analysis.findings)
    )


def _check_state(spec: AnalysisSpec, state: AnalysisState) -> None:
    if state.version != STATE_VERSION:
        raise EvidenceError(f"the analysis state has version {state.version}, this gateway reads {STATE_VERSION}")
    if state.spec is not spec and state.spec != spec:
        raise EvidenceError(
            "the analysis spec changed under way: start a new rollout, its promise is fixed at the start"
        )
    if _shape(state) != _shape_of(spec):
        raise EvidenceError("the analysis state holds other tests than this gateway's: start a new rollout")


def _shape(state: AnalysisState) -> list[object]:
    """Names and sizes of every test in a state."""
    return [
        [(len(test.bad.logs), len(test.ok.logs)) for test in state.rates.metrics],
        {n: [(len(q.bad.logs), len(q.ok.logs)) for q in one.quantiles] for n, one in state.latencies.items()},
        {n: [(len(test.bad.logs), len(test.ok.logs)) for test in one.metrics] for n, one in state.events.items()},
        {n: [(len(test.bad.logs), len(test.ok.logs)) for test in one.tests] for n, one in state.votes.items()},
        {n: len(one.bad.logs) for n, one in state.guardrails.items()},
        len(state.split.wealth.logs),
    ]


@functools.lru_cache(maxsize=64)
def _shape_of(spec: AnalysisSpec) -> list[object]:
    return _shape(AnalysisState.fresh(spec))


def _take(state: AnalysisState, evidence: Evidence) -> AnalysisState:
    """The state with everything new in the evidence consumed. Raises EvidenceError, having changed nothing."""
    spec, at_s = state.spec, evidence.at_s
    memory, arrivals = intake.take(state.intake, evidence, _unread(spec))
    live = sorted(memory.epochs)
    needed = budget.bad_needed(spec, baking=state.baking)
    every_s = TICK_S if state.baking else 0.0
    by_test = [needed.get(test.name, math.inf) for test in CLASS_TESTS]
    latency_specs = spec.latencies
    return AnalysisState(
        spec=spec,
        intake=memory,
        rates=rates.take(
            state.rates,
            tuple(getattr(spec, test.name) for test in CLASS_TESTS),
            arrivals,
            live,
            by_test,
            at_s,
            every_s,
            spec.burst_s,
            sticky=spec.sticky,
        ),
        latencies={
            name: time_slices.take(one, latency_specs[name], arrivals, live, at_s, name)
            for name, one in state.latencies.items()
        },
        events={
            event.name: rates.take_event(
                state.events[event.name], event, arrivals, live, needed[event.name], at_s, every_s, spec.burst_s
            )
            for event in spec.events
            if event.name in state.events
        },
        votes={
            event.name: event_slices.take(state.votes[event.name], event, arrivals, live, at_s)
            for event in spec.events
            if event.name in state.votes
        },
        guardrails={
            one.name: guardrails.take(state.guardrails[one.name], one, arrivals, at_s, every_s)
            for one in spec.guardrails
            if one.name in state.guardrails
        },
        split=sample_ratio.take(state.split, arrivals, memory) if spec.alpha_sample_ratio else state.split,
        unjudged=dict(evidence.unjudged),
        stable_requests=state.stable_requests + _requests(arrivals, "stable"),
        canary_requests=state.canary_requests + _requests(arrivals, "canary"),
        outside=evidence.outside,
        pace=_pace(state, live, at_s),
        bake_s=state.bake_s,
    )


@functools.lru_cache(maxsize=64)
def _unread(spec: AnalysisSpec) -> tuple[str, ...]:
    """The latencies that nothing is judged by; of the histograms of those that left, what they need is always kept."""
    read = {*spec.latencies, *(one.metric for one in spec.guardrails)}
    return tuple(name for name in LATENCY_METRICS if name not in read)


def _pace(state: AnalysisState, live: list[int], at_s: float) -> Pace:
    if not live:
        return state.pace
    pace = state.pace
    if live[-1] != pace.epoch or at_s < pace.at_s:
        # A new weight, or a clock that went backwards (a restart): what came before has another pace.
        return Pace(live[-1], at_s, at_s, state.stable_requests, state.canary_requests)
    return Pace(pace.epoch, pace.since_s, at_s, pace.stable_before, pace.canary_before)


def _requests(arrivals: list[Arrival], arm: str) -> int:
    return sum(getattr(arrival, arm).requests for arrival in arrivals)


def _decide(state: AnalysisState) -> Look:
    spec = state.spec
    shares = budget.log_shares(spec)
    alpha, ok_needed = budget.log_alpha(spec, baking=state.baking), -math.log(spec.alpha_promote)
    answers = report.answers(state, budget.bad_needed(spec, baking=state.baking), ok_needed)
    by_name = {answer.metric: answer for answer in answers}
    weighted = {one.metric: one.log_e_bad + shares[one.metric] for one in answers if one.convicts}
    log_e_bad = wealth.sum_logs(list(weighted.values())) if weighted else 0.0
    causes: tuple[str, ...] = ()
    proving = [answer for answer in answers if answer.must_pass]
    missing = [answer for answer in proving if answer.log_e_ok < ok_needed or answer.verdict is Verdict.NODATA]
    if log_e_bad >= -alpha:
        verdict, causes = Verdict.FAIL, budget.blamed(weighted, alpha)
        reason = _blame([by_name[name].tell() for name in causes])
    elif "sample_ratio" in by_name and by_name["sample_ratio"].verdict is Verdict.ERROR:
        verdict, causes, reason = Verdict.ERROR, ("sample_ratio",), by_name["sample_ratio"].tell().reason
    elif not state.canary_requests:
        verdict, reason = Verdict.NODATA, _nothing_yet(state)
    elif not any(answer.decides for answer in answers):
        verdict, reason = Verdict.UNDECIDED, "no metric decides"
    elif state.baking:
        names = some([answer.metric for answer in answers if answer.decides])
        verdict, reason = Verdict.UNDECIDED, f"nothing has turned bad since promotion: {names} are watched"
    elif not missing and proving:
        names = some([answer.metric for answer in proving])
        verdict, reason = Verdict.PASS, f"proven within the margin: {names}, {state.canary_requests} canary requests"
    elif not proving:
        verdict, reason = Verdict.UNDECIDED, "only guardrails decide: they can roll back, but prove nothing"
    else:
        names = some([answer.metric for answer in missing])
        silent = {one.metric: one.unjudged for one in missing if one.unjudged is not None}
        if silent:
            verdict, reason = Verdict.UNDECIDED, f"not proven yet: {names}; {sentence(silent)}"
        else:
            furthest = min(missing, key=lambda answer: answer.log_e_ok)
            verdict, reason = Verdict.UNDECIDED, f"not proven yet: {names}; furthest: {furthest.tell().reason}"

    def tell() -> Analysis:
        return Analysis(
            verdict=verdict,
            reason=reason,
            causes=causes,
            findings=tuple(answer.tell() for answer in answers),
            log_e_bad=log_e_bad,
            log_e_bad_needed=-alpha,
            log_e_ok_needed=ok_needed,
            stable_requests=state.stable_requests,
            canary_requests=state.canary_requests,
        )

    silent = {one.metric: one.unjudged for one in proving if one.unjudged is not None}
    never = {name: one for name, one in silent.items() if one.why is Why.NEVER}
    return Look(verdict, reason, causes, state.canary_requests, tell, never)


def _nothing_yet(state: AnalysisState) -> str:
    """Why there is no verdict at all."""
    if not state.outside:
        return "no canary request of the experiment has been answered yet"
    return (
        f"no canary request of the experiment has been answered yet; {state.outside:,} others were, forced ones or at a"
        " weight of 0 or 100 %: those have nothing to be compared with"
    )


def _blame(guilty: list[Finding]) -> str:
    """Why, in one sentence: worse than stable, or beyond an absolute limit."""
    worse = "; ".join(finding.reason for finding in guilty if not finding.guardrail)
    beyond = "; ".join(finding.reason for finding in guilty if finding.guardrail)
    return "; ".join(
        part
        for part in (f"worse than stable: {worse}" if worse else "", f"beyond its limit: {beyond}" if beyond else "")
        if part
    )


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

"""The judge: evidence in, verdict out; pure, so that a journal or a snapshot always leads to the same answer.

Rules:

1. FAIL when the average of the deciding metrics' E_bad, weighted by their shares v (positive, sum 1), reaches
   1 / alpha_rollback. The average of e-processes is one, whatever their dependence (values of this moment, never
   running maxima), so P(ever FAIL | not worse) <= alpha. The causes are the metrics whose own E_bad reaches
   1 / (alpha v): each would have convicted alone. Failing that (several that only together suffice), the one with the
   largest v E_bad.
2. PASS when EVERY deciding metric's E_ok is at 1 / alpha_promote now. Each null alone bounds the error (intersection-
   union), so many metrics cost nothing. "Now" and not "ever": a canary that has become worse must prove itself again.
3. NODATA until the canary has answered a request of the experiment; otherwise UNDECIDED.
4. Evidence that cannot be true, or a state made for another question, is ERROR with its reason; the state stays as it
   was and no exception leaves this module.
5. There is no clock here (``evidence.at_s`` is the time) and no latch: FAIL is the answer of this moment, and the
   caller acts on it at once.
"""

from __future__ import annotations

import math

import msgspec

from gateway.core.analysis import intake, rates, report, slices, wealth
from gateway.core.analysis.intake import Arrival, Intake
from gateway.core.analysis.rates import RATE_METRICS, RatesState
from gateway.core.analysis.slices import LatencyState
from gateway.core.analysis.types import Analysis, AnalysisSpec, Evidence, Finding, RateSpec, Verdict
from gateway.core.errors import EvidenceError

STATE_VERSION = 2


class AnalysisState(msgspec.Struct, frozen=True):
    """Everything that the next verdict needs: what was consumed, log-wealths, thresholds, and the spec they belong to.

    Plain finite numbers throughout: ``msgspec.json`` writes and reads it back bit for bit.
    """

    spec: AnalysisSpec
    intake: Intake
    rates: RatesState
    latency: LatencyState
    stable_requests: int = 0
    canary_requests: int = 0
    version: int = STATE_VERSION

    @classmethod
    def fresh(cls, spec: AnalysisSpec) -> AnalysisState:
        """The state before any evidence; one unit of wealth in every test."""
        return cls(spec, Intake(), rates.fresh(), slices.fresh(spec.latency))


def judge(spec: AnalysisSpec, state: AnalysisState, evidence: Evidence) -> tuple[AnalysisState, Analysis]:
    """The state after this evidence, and the verdict at ``evidence.at_s``. Never raises."""
    try:
        _check_state(spec, state)
        after = _take(state, evidence)
        return after, _decide(after)
    except EvidenceError as error:
        return state, _error(str(error))
    except Exception as error:  # noqa: BLE001  # see below
        # Evidence comes over a wire: whatever got through its types must hold the rollout, not kill the loop.
        return state, _error(f"the evidence cannot be read: {type(error).__name__}: {error}")


def _check_state(spec: AnalysisSpec, state: AnalysisState) -> None:
    if state.version != STATE_VERSION:
        raise EvidenceError(f"the analysis state has version {state.version}, this gateway reads {STATE_VERSION}")
    if state.spec != spec:
        raise EvidenceError(
            "the analysis spec changed under way: start a new rollout, its promise is fixed at the start"
        )
    grids = (len(rates.BAD_PRIORS), len(rates.OK_PRIORS)), (len(slices.BAD_PRIORS), len(slices.OK_PRIORS))
    tests = (state.rates.metrics, grids[0]), (state.latency.quantiles, grids[1])
    sizes = (len(state.rates.metrics), len(state.latency.quantiles))
    if sizes != (len(RATE_METRICS), len(spec.latency.quantiles)) or any(
        (len(test.bad.logs), len(test.ok.logs)) != grid for group, grid in tests for test in group
    ):
        raise EvidenceError("the analysis state holds other tests than this gateway's: start a new rollout")


def _take(state: AnalysisState, evidence: Evidence) -> AnalysisState:
    """The state with everything new in the evidence consumed. Raises EvidenceError, having changed nothing."""
    memory, arrivals = intake.take(state.intake, evidence)
    live = sorted(memory.epochs)
    return AnalysisState(
        spec=state.spec,
        intake=memory,
        rates=rates.take(state.rates, _rate_specs(state.spec), arrivals, live, _bad_needed(state.spec)[:-1]),
        latency=slices.take(state.latency, state.spec.latency, arrivals, live, evidence.at_s),
        stable_requests=state.stable_requests + _requests(arrivals, "stable"),
        canary_requests=state.canary_requests + _requests(arrivals, "canary"),
    )


def _requests(arrivals: list[Arrival], arm: str) -> int:
    return sum(getattr(arrival, arm).requests for arrival in arrivals)


def _rate_specs(spec: AnalysisSpec) -> tuple[RateSpec, ...]:
    return (spec.errors, spec.client_errors, spec.overload)


def _decide(state: AnalysisState) -> Analysis:
    spec = state.spec
    logs = _log_shares(spec)
    bad_needed, ok_needed = -math.log(spec.alpha_rollback), -math.log(spec.alpha_promote)
    findings = _findings(state, _bad_needed(spec), ok_needed)
    deciding = [finding for finding in findings if finding.decides]
    weighted = {f.metric: f.log_e_bad + share for f, share in zip(findings, logs, strict=True) if f.decides}
    log_e_bad = wealth.sum_logs(list(weighted.values())) if deciding else 0.0
    causes: tuple[str, ...] = ()
    if log_e_bad >= bad_needed:
        verdict = Verdict.FAIL
        guilty = [finding for finding in deciding if finding.verdict is Verdict.FAIL]
        guilty = guilty or [max(deciding, key=lambda finding: weighted[finding.metric])]
        causes = tuple(finding.metric for finding in guilty)
        reason = "worse than stable: " + "; ".join(finding.reason for finding in guilty)
    elif not state.canary_requests:
        verdict, reason = Verdict.NODATA, "no canary request has been answered under an experiment's weight"
    elif deciding and all(finding.log_e_ok >= ok_needed for finding in deciding):
        names = ", ".join(finding.metric for finding in deciding)
        verdict, reason = Verdict.PASS, f"proven within the margin: {names}, {state.canary_requests} canary requests"
    elif not deciding:
        verdict, reason = Verdict.UNDECIDED, "no metric decides"
    else:
        missing = [finding for finding in deciding if finding.log_e_ok < ok_needed]
        furthest = min(missing, key=lambda finding: finding.log_e_ok)
        names = ", ".join(finding.metric for finding in missing)
        verdict, reason = Verdict.UNDECIDED, f"not proven yet: {names}; furthest: {furthest.reason}"
    return Analysis(
        verdict=verdict,
        reason=reason,
        causes=causes,
        findings=findings,
        log_e_bad=log_e_bad,
        log_e_bad_needed=bad_needed,
        log_e_ok_needed=ok_needed,
        stable_requests=state.stable_requests,
        canary_requests=state.canary_requests,
    )


def _log_shares(spec: AnalysisSpec) -> list[float]:
    """log v of every metric. One that does not decide gets the share it would have if it did."""
    shares = spec.shares
    parts = (shares.errors, shares.client_errors, shares.overload, shares.latency)
    decides = [rate.decides for rate in _rate_specs(spec)] + [spec.latency.decides]
    whole = math.fsum(part for part, counts in zip(parts, decides, strict=True) if counts)
    return [
        math.log(part) - math.log(whole if counts else whole + part)
        for part, counts in zip(parts, decides, strict=True)
    ]


def _bad_needed(spec: AnalysisSpec) -> list[float]:
    """log E_bad at which each metric convicts by itself, 1 / (alpha v)."""
    return [-math.log(spec.alpha_rollback) - share for share in _log_shares(spec)]


def _findings(state: AnalysisState, bad_needed: list[float], ok_needed: float) -> tuple[Finding, ...]:
    """Every metric's finding, in the order of ``bad_needed`` (rates, then latency)."""
    trials = (state.stable_requests, state.canary_requests)
    failures = tuple(
        report.rate_finding(metric, spec, rate, trials, (bad, ok_needed))
        for metric, spec, rate, bad in zip(
            RATE_METRICS, _rate_specs(state.spec), state.rates.metrics, bad_needed[:-1], strict=True
        )
    )
    return (*failures, report.latency_finding(state.spec.latency, state.latency, (bad_needed[-1], ok_needed)))


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

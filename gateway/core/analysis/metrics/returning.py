"""Returning sessions: on a sticky route, users who were well and come back to a canary that has died.

Each session is in the evidence of the outcome classes once, so a canary that dies when most users were counted
already would never be convicted by them. What becomes of the sessions that were well is counted beside it
(proxy/counting/sticky_sessions.py, rule 7): so many came again, so many of these failed.

Rules:

1. A trial is a session's window, an event its first failure after it was well. Each session has one event at most
   (until it has been well for minutes), so a user whose requests fail by themselves is not counted as often as it
   comes. Sessions are assigned at random, so the arms' sessions that are still well are alike where the versions are.
2. E_bad is conditional on a batch's totals (hypergeometric.py), as that of sessions is: windows without an event, of
   which a busy session has many, cost and earn nothing. Failures that come together are guarded as others are
   (bursts/).
3. It convicts and proves nothing good (a LIMIT): the windows of sessions that stay are the better ones. PASS is
   proven by the first window of every session, as before.
4. There is one test for all classes of failures, and its part of alpha_rollback is reserved on sticky routes alone.
"""

from __future__ import annotations

import msgspec

from gateway.core.analysis.bursts import guard
from gateway.core.analysis.evidence.trials import labelled, summed
from gateway.core.analysis.findings import MetricFinding, ReturningClaim, Share
from gateway.core.analysis.metrics import rates
from gateway.core.analysis.metrics.kind import TICK_S, Metric, MetricKind, Role, Standing, Tick, bets_in
from gateway.core.analysis.metrics.rates import PairSpec, RatesState, tolerance_of
from gateway.core.analysis.spec import AnalysisSpec, Mode, RateSpec
from gateway.core.analysis.state import AnalysisState
from gateway.core.analysis.types import RETURNING_SESSIONS
from gateway.core.stats.counts import RETURNING

# Beside 0.6 for errors.
SHARE = 0.3
_SPEC = RateSpec()
_TESTS = (PairSpec(_SPEC, conditional=True),)


class Returning(MetricKind[RatesState]):
    """The kind of the returning sessions, its only metric."""

    name = "returning"
    state_type = RatesState

    def metrics(self, spec: AnalysisSpec) -> tuple[Metric, ...]:
        """One metric, where sessions are counted."""
        return (Metric(RETURNING_SESSIONS, Mode.DECIDE, SHARE, Role.LIMIT),) if spec.sticky else ()

    def fresh(self, spec: AnalysisSpec) -> RatesState:  # the same test for every spec
        """Nothing seen."""
        return rates.fresh(len(_TESTS))

    def baked(self, state: RatesState, spec: AnalysisSpec, bake_s: float) -> RatesState:
        """A new test for the bake."""
        return rates.baked(state, bets_in(bake_s, TICK_S))

    def take(self, state: RatesState, tick: Tick) -> RatesState:
        """The state after one look's sessions."""
        if not tick.spec.sticky:
            return state
        parts = {arrival.epoch: labelled(arrival, RETURNING) for arrival in tick.arrivals}
        needed = (tick.needed[RETURNING_SESSIONS],)
        after = rates.advance(state, _TESTS, parts, tick.live, needed, tick.at_s, tick.every_s)
        if not tick.spec.burst_s:
            return after
        (test,), seen = after.metrics, summed(parts).batch(0)
        bursts = guard.take(test.bursts, seen, tick.at_s, tick.spec.burst_s, tolerance_of(_SPEC))
        return msgspec.structs.replace(after, metrics=(msgspec.structs.replace(test, bursts=bursts),))

    def log_e_bad(self, whole: AnalysisState, metric: str) -> float:  # there is one
        """log of E against "no more of the canary's sessions fail when they come back"."""
        return rates.log_e_bad(self.own(whole).metrics)

    def log_e_ok(self, whole: AnalysisState, metric: str) -> float:
        """Nothing (rule 3)."""
        return 0.0

    def units(self, whole: AnalysisState, metric: str) -> tuple[int, bool]:
        """The canary's sessions that came back, once some of stable's have."""
        state = self.own(whole)
        return state.canary if state.stable else 0, state.stable > 0 or state.canary > 0

    def finding(self, whole: AnalysisState, standing: Standing) -> MetricFinding:
        """Both arms' returning sessions, in numbers."""
        state = self.own(whole)
        (test,) = state.metrics
        return standing.finding(
            stable=Share(test.stable_events, state.stable),
            canary=Share(test.canary_events, state.canary),
            units="returning sessions",
            claim=ReturningClaim(),
        )


RETURNING_KIND = Returning()

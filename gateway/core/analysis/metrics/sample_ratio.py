"""The check of the split (sample ratio): do requests reach the arms as the weight says?

Theory. The gateway throws a coin for each request, so under H0 the assigned requests of an epoch are canary with
probability w, the weight of that epoch, independently. For a guess w' the product of f(w', A) / f(w, A) over requests
is a martingale. Guesses are shifts of the log-odds of w in both directions, the same in every epoch, because a fault of
the split (a filter before the gateway, a biased key, a cache that answers for one arm) lasts.

It looks at requests when they are ASSIGNED: an arm that answers late, or not at all, is no mismatch. Where requests
are not assigned one by one (sticky sessions) a busy session is a cluster and the check must be off (alpha 0). A
mismatch is a fault of the experiment and speaks for or against no version: it is ERROR, with its own small alpha.
"""

from __future__ import annotations

import functools
import math

import msgspec

from gateway.core.analysis.betting import wealth
from gateway.core.analysis.betting.eprocess import from_log_odds, log_odds
from gateway.core.analysis.betting.wealth import Wealth
from gateway.core.analysis.evidence.intake import Arrival
from gateway.core.analysis.findings import MetricFinding, Share, SplitClaim
from gateway.core.analysis.metrics.kind import Metric, MetricKind, Role, Standing, Tick
from gateway.core.analysis.spec import AnalysisSpec, Mode
from gateway.core.analysis.state import AnalysisState
from gateway.core.types import WEIGHT_BP_MAX

SHIFTS = (-2.0, -0.6, -0.2, -0.05, 0.05, 0.2, 0.6, 2.0)
PRIORS = (0.125,) * len(SHIFTS)


class SampleRatioState(msgspec.Struct, frozen=True):
    """The e-process; assigned requests of both arms, and how many of them the weights would give the canary."""

    wealth: Wealth
    stable: int = 0
    canary: int = 0
    expected: float = 0.0


class SampleRatio(MetricKind[SampleRatioState]):
    """The kind of the check of the split, its only metric."""

    name = "sample_ratio"
    state_type = SampleRatioState

    def metrics(self, spec: AnalysisSpec) -> tuple[Metric, ...]:
        """The check, unless it is off."""
        if not spec.alpha_sample_ratio:
            return ()
        return (Metric(self.name, Mode.ADVISE, 0.0, Role.CHECK, alpha=spec.alpha_sample_ratio),)

    def fresh(self, spec: AnalysisSpec) -> SampleRatioState:  # the same test for every spec
        """Nothing seen."""
        return fresh()

    def baked(self, state: SampleRatioState, spec: AnalysisSpec, bake_s: float) -> SampleRatioState:
        """The check goes on: the split is the same experiment's."""
        return state

    def take(self, state: SampleRatioState, tick: Tick) -> SampleRatioState:
        """The state after one look's assignments."""
        return take(state, tick.arrivals) if tick.spec.alpha_sample_ratio else state

    def log_e_bad(self, whole: AnalysisState, metric: str) -> float:  # there is one
        """log of E against "assigned by its weight"."""
        return wealth.log_e(self.own(whole).wealth)

    def log_e_ok(self, whole: AnalysisState, metric: str) -> float:  # it proves nothing good
        """Nothing."""
        return 0.0

    def units(self, whole: AnalysisState, metric: str) -> tuple[int, bool]:  # there is one
        """The requests that were assigned."""
        state = self.own(whole)
        return state.stable + state.canary, state.stable + state.canary > 0

    def finding(self, whole: AnalysisState, standing: Standing) -> MetricFinding:
        """The split, in numbers."""
        state = self.own(whole)
        assigned = state.stable + state.canary
        return standing.finding(
            stable=Share(state.stable, assigned),
            canary=Share(state.canary, assigned),
            units="requests",
            claim=SplitClaim(state.expected / assigned),
            details={"expected_share": state.expected / assigned},
        )


SAMPLE_RATIO = SampleRatio()


def fresh() -> SampleRatioState:
    """Nothing seen, one unit of wealth."""
    return SampleRatioState(wealth.fresh(PRIORS, wealth.HELD_BACK))


def take(state: SampleRatioState, arrivals: list[Arrival]) -> SampleRatioState:
    """The state after one look's arrivals."""
    for arrival in arrivals:
        stable, canary = arrival.stable.assigned, arrival.canary.assigned
        if stable or canary:
            weight = arrival.weight_bp / WEIGHT_BP_MAX
            state = SampleRatioState(
                wealth.grow(state.wealth, gains(weight, stable, canary), PRIORS),
                state.stable + stable,
                state.canary + canary,
                state.expected + weight * (stable + canary),
            )
    return state


def gains(weight: float, stable: int, canary: int) -> list[float]:
    """log factors of assigned requests, one for each shift."""
    return [canary * of_canary + stable * of_stable for of_stable, of_canary in _factors(weight, SHIFTS)]


@functools.lru_cache(maxsize=256)
def _factors(weight: float, shifts: tuple[float, ...]) -> tuple[tuple[float, float], ...]:
    """log factors of a request for stable and of one for the canary, for each shift."""
    odds = log_odds(weight)
    guesses = [from_log_odds(odds + shift) for shift in shifts]
    return tuple((math.log1p(-guess) - math.log1p(-weight), math.log(guess / weight)) for guess in guesses)

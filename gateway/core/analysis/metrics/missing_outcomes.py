"""Missing outcomes: what is not known yet holds a PASS.

A request has an outcome when its answer is over. Until then it is *missing*: it is open (and may hang until its
timeout), or it ended without an outcome that counts (its client or the gateway broke it, its worker died). The tests
of the outcome classes see only what has come, and a canary that hangs looks well for as long as it hangs.

Rules:

1. Of each epoch the canary's missing requests are compared with stable's: what is beyond stable's number times the
   odds of the assignment. The arms' requests of an epoch have the same ages, so slow answers alone are in both.
2. A canary whose answers take longer, and end, has more of them open at any time: its requests per second times how
   much longer its known ones lasted (Little). So much is explained. The rest, `beyond`, is not known to end well.
3. For PASS `beyond` counts as failures: E_ok of every failure class that decides is asked again with so many failures
   of the canary more (`log_e_ok`). Nothing of this is ever in E_bad: a rollback needs failures that happened.
4. What a canary proved an hour ago says nothing of requests that hang since a minute. So there is no PASS either, and
   no end of a bake, while the canary requests of the last `WINDOW_S` would break the least margin of a failure class
   if those that have gone missing meanwhile failed (`held`).
5. What ends it: an outcome, at ``total_s`` at the latest, for what is open. What never gets one (rule 4) holds for
   `WINDOW_S`, and then weighs one failure each (rule 3), which further answers outweigh: some 250 each with the
   default margins. So a client that leaves streams open, on one version of a sticky route, does not hold a rollout
   for ever.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from gateway.core.analysis.betting import wealth
from gateway.core.analysis.betting.eprocess import TrialBatch, log_gains, worse_by_margin
from gateway.core.analysis.evidence.trials import CLASS_TESTS
from gateway.core.analysis.findings import MetricFinding, MissingClaim, Share
from gateway.core.analysis.metrics import rates
from gateway.core.analysis.metrics.kind import Metric, MetricKind, Role, Standing, Tick
from gateway.core.analysis.metrics.outcomes import OUTCOMES
from gateway.core.analysis.metrics.rates import RateState
from gateway.core.analysis.spec import AnalysisSpec, Mode, RateSpec
from gateway.core.analysis.state import AnalysisState
from gateway.core.stats.counts import Counts

WINDOW_S = 60.0
# A mark each, so that a window has a dozen.
_MARK_EVERY_S = 5.0
_DEFAULT_MARGIN = RateSpec().margin_delta


class ArmOutcomes(msgspec.Struct, frozen=True):
    """One arm's requests: how many were assigned, how many have an outcome, and how long those lasted together."""

    assigned: int = 0
    known: int = 0
    lasted_us: int = 0

    @property
    def missing(self) -> int:
        """Those without an outcome. Recorded evidence does not say how many were assigned: then there are none."""
        return max(0, self.assigned - self.known)

    def after(self, new: Counts) -> ArmOutcomes:
        """With one look's."""
        return ArmOutcomes(self.assigned + new.assigned, self.known + new.requests, self.lasted_us + new.lasted_us)


class WindowMark(msgspec.Struct, frozen=True):
    """What was missing of the canary at a time, beyond what is explained, and how many it had been assigned."""

    at_s: float
    beyond: float
    assigned: int


class MissingState(msgspec.Struct, frozen=True):
    """The requests of the epochs in evidence, stable's and the canary's; ``gone`` is the excess of those that left it.

    ``stable`` and ``canary`` are of all epochs. ``marks`` are of the last `WINDOW_S`, the oldest a little older.
    """

    epochs: dict[int, tuple[ArmOutcomes, ArmOutcomes]] = {}
    gone: float = 0.0
    stable: ArmOutcomes = ArmOutcomes()
    canary: ArmOutcomes = ArmOutcomes()
    marks: tuple[WindowMark, ...] = ()
    beyond: float = 0.0

    @property
    def recent(self) -> tuple[float, int]:
        """How many have gone missing since the oldest mark, and of how many that were assigned since."""
        if not self.marks:
            return 0.0, 0
        return self.beyond - self.marks[0].beyond, self.canary.assigned - self.marks[0].assigned


class MissingOutcomes(MetricKind[MissingState]):
    """The kind of the missing outcomes, its only metric."""

    name = "missing_outcomes"
    state_type = MissingState

    def metrics(self, spec: AnalysisSpec) -> tuple[Metric, ...]:
        """The one metric: it holds, and never convicts."""
        return (Metric(self.name, Mode.DECIDE, 0.0, Role.HOLD),)

    def fresh(self, spec: AnalysisSpec) -> MissingState:  # the same for every spec
        """Nothing seen."""
        return MissingState()

    def baked(self, state: MissingState, spec: AnalysisSpec, bake_s: float) -> MissingState:
        """What is missing stays missing."""
        return state

    def take(self, state: MissingState, tick: Tick) -> MissingState:
        """The state after one look's requests."""
        return take(state, tick)

    def log_e_bad(self, whole: AnalysisState, metric: str) -> float:  # it never convicts (rule 3)
        """Nothing."""
        return 0.0

    def log_e_ok(self, whole: AnalysisState, metric: str) -> float:
        """The least E_ok of the failure classes if what is missing had failed; all that is needed if nothing is."""
        state, needed = self.own(whole), -math.log(whole.spec.alpha_promote)
        if held(state, margin(whole.spec)):
            return 0.0
        failures = round(state.beyond)
        if whole.baking or not failures:
            return needed
        stable = max(1, round(failures * state.stable.assigned / max(state.canary.assigned, 1)))
        found = [_log_e_ok_with(test, rate, failures, stable) for test, rate in _deciding(whole)]
        return min(found, default=needed)

    def units(self, whole: AnalysisState, metric: str) -> tuple[int, bool]:
        """The canary's requests that were assigned."""
        assigned = self.own(whole).canary.assigned
        return assigned, assigned > 0

    def finding(self, whole: AnalysisState, standing: Standing) -> MetricFinding:
        """What is missing, in numbers."""
        state = self.own(whole)
        recent, assigned = state.recent
        least = margin(whole.spec)
        return standing.finding(
            stable=Share(state.stable.missing, state.stable.assigned),
            canary=Share(state.canary.missing, state.canary.assigned),
            units="requests",
            claim=MissingClaim(state.beyond, recent, assigned, WINDOW_S, least, held(state, least)),
            details={"beyond_stable": state.beyond, "recent": recent, "recent_assigned": float(assigned)},
        )


MISSING_OUTCOMES = MissingOutcomes()


def take(state: MissingState, tick: Tick) -> MissingState:
    """The state after one look."""
    epochs = dict(state.epochs)
    stable, canary, gone = state.stable, state.canary, state.gone
    for epoch in epochs.keys() - set(tick.live):
        gone += _excess(*epochs.pop(epoch))
    for arrival in tick.arrivals:
        before = epochs.get(arrival.epoch, (ArmOutcomes(), ArmOutcomes()))
        epochs[arrival.epoch] = before[0].after(arrival.stable), before[1].after(arrival.canary)
        stable, canary = stable.after(arrival.stable), canary.after(arrival.canary)
    if not canary.assigned:
        return MissingState(epochs, gone, stable, canary)
    marks, at_s = state.marks, tick.at_s
    if marks and at_s < marks[-1].at_s:  # a clock that went backwards (a restart): the window begins anew
        marks = ()
    excess = gone + math.fsum(_excess(*arms) for arms in epochs.values())
    beyond = max(0.0, excess - _explained(stable, canary, marks, at_s))
    if not marks or at_s - marks[-1].at_s >= _MARK_EVERY_S:
        # The first mark is the beginning, when nothing was missing.
        marks = (*marks, WindowMark(at_s, beyond, canary.assigned) if marks else WindowMark(at_s, 0.0, 0))
    while len(marks) > 1 and at_s - marks[1].at_s >= WINDOW_S:
        marks = marks[1:]
    return MissingState(epochs, gone, stable, canary, marks, beyond)


def held(state: MissingState, least: float) -> bool:
    """Whether what has gone missing lately would be too many failures (rule 4); ``least`` is the margin."""
    missing, assigned = state.recent
    return round(missing) > least * assigned


def margin(spec: AnalysisSpec) -> float:
    """The least margin of a failure class that decides."""
    found = [getattr(spec, test.name) for test in CLASS_TESTS if not test.success]
    return min((one.margin_delta for one in found if one.decides and one.margin_delta > 0.0), default=_DEFAULT_MARGIN)


def _excess(stable: ArmOutcomes, canary: ArmOutcomes) -> float:
    """The canary's missing requests of one epoch beyond what stable's let expect (rule 1)."""
    if not stable.assigned:
        return float(canary.missing)
    return canary.missing - stable.missing * canary.assigned / stable.assigned


def _explained(stable: ArmOutcomes, canary: ArmOutcomes, marks: tuple[WindowMark, ...], at_s: float) -> float:
    """How many more are open because the canary's answers take longer (rule 2)."""
    if not marks or at_s <= marks[0].at_s or not stable.known or not canary.known:
        return 0.0
    longer_s = 1e-6 * (canary.lasted_us / canary.known - stable.lasted_us / stable.known)
    per_s = (canary.assigned - marks[0].assigned) / (at_s - marks[0].at_s)
    return max(0.0, longer_s) * per_s


def _deciding(whole: AnalysisState) -> Iterator[tuple[RateState, RateSpec]]:
    """The tests of the failure classes that decide, those in the same state once."""
    asked = set()
    for test, state in zip(CLASS_TESTS, OUTCOMES.own(whole).metrics, strict=True):
        rate: RateSpec = getattr(whole.spec, test.name)
        if not test.success and rate.decides and (id(state), rate) not in asked:
            asked.add((id(state), rate))
            yield state, rate


def _log_e_ok_with(test: RateState, rate: RateSpec, failures: int, stable: int) -> float:
    """log E_ok of a class as it would be if so many more of the canary's requests had failed, beside stable's well."""
    worse = worse_by_margin(rate.margin_ratio, rate.margin_delta)
    guesses = rates.ok_guesses(rates.stable_guess(test), rate)
    gains = log_gains(guesses, worse, TrialBatch(0, stable, failures, failures))
    return rates.log_ok(msgspec.structs.replace(test, ok=wealth.grow(test.ok, gains, rates.OK_PRIORS)))

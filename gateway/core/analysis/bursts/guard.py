"""Bursts: failures of one arm that come together are one incident, not many votes.

An endpoint restarts, a process pauses for 300 ms: every request that was open fails. Counted as independent coins,
such a burst of a HEALTHY canary is a dozen votes against it. Bursts strike each arm by itself, as often the small
canary as the large stable, so one of them is worth no more than one toss of a fair coin: log 2 nats, whatever the
weight says about single requests. This module looks at how failures clump in time and says how much of the evidence
of rates.py (log E, requests as unit) may be believed.

Rules:

1. Time is cut into cells of ``burst_s`` (of one look, where looks are further apart). A burst lies in one cell or in
   two neighbouring ones, so pairs of failures in the same or in adjacent cells are counted, less as many as
   independent failures would make: x_j (x_j - 1) + 2 x_j x_{j-1} - x_j R (n_j - 1 + 2 n_{j-1}), with R the arm's
   failure rate before the two cells, recent or overall, whichever is higher (overall with `QUIET_CELLS` cells without
   failure put before the first: a clump at the very start is one). ``phi`` = 1 + excess pairs / failures is how many
   failures come together; 1 where they are independent.
2. What the excess owes to chance is forgiven: `CHANCE` standard deviations of the expected pairs, and of what is left
   most where it is little: c^2 / (c + LITTLE) for c = phi - 1. Bursts show as a phi of several, and where few failures
   clump, chance does most of it.
3. The evidence that counts is log E / (1 + (phi - 1)(1 + log2(1 / w))): a clump weighs about log 2.
4. Where the canary has few requests per cell, a burst shows as a SINGLE failure there: nothing clumps until stable has
   had a burst too. So no more is believed than its incidents are worth, of which each may be the next toss between
   the arms (evidence_cap.py): five or six of them, instead of two failures, for some percent of 200 requests per
   second. In sparse traffic, where a burst meets fewer than two requests of both arms, that holds hardly anything back.
5. A dead canary clumps too, and must not wait for many clumps. So a second e-process has cells as its unit: the shares
   y_c, y_s of a cell's failures, bounded, are bet on as coins of one toss each. Its null is that of a healthy canary
   with bursts: p_c <= p_s, and at most `BURST_SHARE` of an arm's cells are lost to bursts of its own (plus the
   failures it always has). A dead canary beside a sound stable earns about 3 nats per cell. Bursts of both arms
   together cancel. For that assumption it is believed only for what bursts are: instead of what rules 3 and 4 leave,
   with half of the metric's error probability, and never beyond log E.
6. What is believed is never more than log E, so for independent failures the promise stands whatever these rules make
   of chance: P(ever convicted) <= alpha.
7. To pass, the failures of both arms count by how far they clump: log E_ok / D, with D the factor by which clumps
   widen the difference of the two rates, ((1 - w) phi_c + w phi_s for equal rates). A burst takes in as many requests
   as an arm has, so (1 - w)(phi_c - 1) and w (phi_s - 1) estimate the same, and the larger one speaks for both: a
   canary that had no burst yet is not taken for one that has none, once stable has had one. `WIDER` more, because D is
   learnt from few clumps.
8. A tolerance ("p_c <= max(r p_s, p_s + d)") tolerates as many more bursts: a toss falls to the canary with odds of m
   = max(r, 1 + d / p_s) to 1, so that rule 3 has w m / (1 - w + w m) and log(1 + 1 / m) for w and log 2, the tosses of
   rule 4 have the same odds, and rule 5 lets the canary lose as many more of its cells. For this p_s is at least
   `MULTIPLE_OF`: a difference is no multiple of nothing, and beside a stable that never fails no toss would be worth
   anything.
9. Where looks are further apart than `COARSE` cells from the start, clumps cannot be seen, and what arrives is not
   guarded; they may be half as late again, because a look is never early. A single late look after timely ones closes
   a cell like any other: what stalls the looking (a busy machine) is what makes an arm pause.

Under bursts this is a design measured by simulation (docs/statistics.md), not a theorem: no test can bound its errors
under arbitrary dependence and convict within a second.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec

from gateway.core.analysis.betting import wealth
from gateway.core.analysis.betting.eprocess import TrialBatch
from gateway.core.analysis.betting.wealth import Wealth
from gateway.core.analysis.bursts import evidence_cap
from gateway.core.analysis.bursts.evidence_cap import Incidents

QUIET_CELLS = 3
RECENT_CELLS = 8
CHANCE = 0.7
PRIOR_EVENTS = 0.3
COARSE = 10.0
_LATE = 1.5
LITTLE = 0.1
MULTIPLE_OF = 0.005
WIDER = 1.2

BURST_SHARE = 0.03
DEAD_SHARES = (0.99, 0.6)
DEAD_PRIORS = (0.5, 0.5)
DEAD_HELD_BACK = 0.1
SOUND = 0.002
PRIOR_TRIALS = 70.0
# 1, and what rounding makes of it where both are equally steep.
STEEP = 1.0 - 1e-9


class Tolerance(NamedTuple):
    """How many failures more than stable the canary may have: ``max(ratio * p_s, p_s + delta)``."""

    ratio: float = 1.0
    delta: float = 0.0

    def edge(self, rate: float) -> float:
        """The rate that is just tolerated beside stable's."""
        return max(self.ratio * rate, rate + self.delta)

    def odds(self, rate: float) -> float:
        """How many bursts of the canary are tolerated for each of stable's (rule 8)."""
        rate = max(rate, MULTIPLE_OF)
        return self.edge(rate) / rate


NONE = Tolerance()


class ArmFailures(msgspec.Struct, frozen=True):
    """One arm's failures in time: the open cell, the one before, all closed ones (recent ones decay), their pairs."""

    events: float = 0.0
    trials: float = 0.0
    before_events: float = 0.0
    before_trials: float = 0.0
    all_events: float = 0.0
    all_trials: float = 0.0
    recent_events: float = 0.0
    recent_trials: float = 0.0
    quiet: float = 0.0
    excess: float = 0.0
    expected: float = 0.0


class BurstState(msgspec.Struct, frozen=True):
    """Both arms' clumping, the e-process of rule 5, and since when the cell is open.

    ``cells`` have closed, counted in ``burst_s`` (a longer one is several); ``neighbours`` is the sum over their
    requests of how many others each found in ``burst_s``. ``odds`` is m of rule 8.
    """

    stable: ArmFailures = ArmFailures()
    canary: ArmFailures = ArmFailures()
    dead: Wealth = wealth.fresh(DEAD_PRIORS, DEAD_HELD_BACK)
    since_s: float | None = None
    seen_s: float | None = None
    cells: float = 0.0
    neighbours: float = 0.0
    incidents: Incidents = Incidents()
    odds: float = 1.0


def fresh() -> BurstState:
    """Nothing seen."""
    return BurstState()


def take(state: BurstState, counts: TrialBatch, at_s: float, burst_s: float, tolerance: Tolerance = NONE) -> BurstState:
    """The state after one look's new trials and events (both may be 0), at ``at_s`` seconds."""
    if state.seen_s is None and not counts.stable_trials and not counts.canary_trials:
        return state
    seen_s = at_s if state.seen_s is None else min(state.seen_s, at_s)
    since_s = seen_s if state.since_s is None else min(state.since_s, at_s)
    if at_s - seen_s > _LATE * COARSE * burst_s and not state.cells:
        stable, canary = (msgspec.structs.replace(arm, events=0.0, trials=0.0) for arm in (state.stable, state.canary))
        incidents = evidence_cap.believe(state.incidents, state.canary.events + counts.canary_events)
        return msgspec.structs.replace(
            state, stable=stable, canary=canary, since_s=at_s, seen_s=at_s, incidents=incidents
        )
    stable = _add(state.stable, counts.stable_events, counts.stable_trials)
    canary = _add(state.canary, counts.canary_events, counts.canary_trials)
    odds = tolerance.odds(_always(stable))
    # Half a millisecond: looks at multiples of the cell's length must not miss its end by a rounding.
    if at_s - since_s < burst_s - 0.0005:
        return BurstState(
            stable, canary, state.dead, since_s, at_s, state.cells, state.neighbours, state.incidents, odds
        )
    dead = state.dead
    if stable.trials and canary.trials:
        dead = wealth.grow(dead, _dead_gains(stable, canary, tolerance), DEAD_PRIORS)
    length = max((at_s - since_s) / burst_s, 1.0)
    neighbours = state.neighbours + _neighbours(stable, canary) / length
    hit, weight = _hit(stable, canary, neighbours), _weight(stable, canary)
    incidents = evidence_cap.grow(state.incidents, canary.events, hit, weight, odds)
    stable = _close(stable)
    odds = tolerance.odds(_always(stable))
    return BurstState(stable, _close(canary), dead, at_s, at_s, state.cells + length, neighbours, incidents, odds)


def guarded(log_e: float, state: BurstState) -> float:
    """The part of log E (requests as unit) that holds when failures come in bursts; at most ``log_e``.

    All of it while nothing was taken: then nothing is guarded.
    """
    if log_e <= 0.0 or state.seen_s is None:
        return log_e
    stable, canary = state.stable, state.canary
    weight = _weight(stable, canary)
    phi = max(clumping(stable), clumping(canary))
    left = log_e
    if phi > 1.0:
        single = -math.log(weight * state.odds / (1.0 - weight + weight * state.odds))
        left = log_e / (1.0 + (phi - 1.0) * (1.0 + single / math.log1p(1.0 / state.odds)))
    hit = _hit(stable, canary, state.neighbours + _neighbours(stable, canary))
    incidents = evidence_cap.grow(state.incidents, canary.events, hit, weight, state.odds)
    left = min(left, evidence_cap.worth(incidents, hit, weight))
    if left >= log_e:
        return log_e
    return min(log_e, max(left, wealth.log_e(state.dead) - math.log(2.0)))


def guarded_ok(log_e: float, state: BurstState) -> float:
    """The part of log E_ok (requests as unit) that holds when failures come in bursts; at most ``log_e``."""
    if log_e <= 0.0:
        return log_e
    weight = _weight(state.stable, state.canary)
    clumps = max((1.0 - weight) * (clumping(state.canary) - 1.0), weight * (clumping(state.stable) - 1.0))
    return log_e / (1.0 + 2.0 * WIDER * clumps)


def clumping(arm: ArmFailures) -> float:
    """phi: about how many of the arm's failures come together, at least 1."""
    excess, expected = _pairs(arm)
    more = excess - CHANCE * math.sqrt(2.0 * expected)
    if more <= 0.0:
        return 1.0
    more /= arm.all_events + arm.events + PRIOR_EVENTS
    return 1.0 + more * more / (more + LITTLE)


def _neighbours(stable: ArmFailures, canary: ArmFailures) -> float:
    """How many others each request of the open cell finds in it, summed over all of them."""
    requests = stable.trials + canary.trials
    return requests * (requests - 1.0)


def _hit(stable: ArmFailures, canary: ArmFailures, neighbours: float) -> float:
    """The requests of both arms that a burst meets: how many others a request finds around it, on average."""
    return neighbours / max(_all_trials(stable) + _all_trials(canary), 1.0)


def _weight(stable: ArmFailures, canary: ArmFailures) -> float:
    """The canary's share of all trials, above 0."""
    trials_c = max(_all_trials(canary), 1.0)
    return trials_c / (trials_c + _all_trials(stable))


def _all_trials(arm: ArmFailures) -> float:
    return arm.all_trials + arm.trials


def _add(arm: ArmFailures, events: int, trials: int) -> ArmFailures:
    if not trials and not events:
        return arm
    return msgspec.structs.replace(arm, events=arm.events + events, trials=arm.trials + trials)


def _pairs(arm: ArmFailures) -> tuple[float, float]:
    """Excess and expected pairs so far, with those of the open cell."""
    x, n = arm.events, arm.trials
    if not x:
        return arm.excess, arm.expected
    quiet = arm.quiet or QUIET_CELLS * n
    overall = (arm.all_events - arm.before_events) / max(arm.all_trials - arm.before_trials + quiet, 1.0)
    rate = max(arm.recent_events / max(arm.recent_trials, 1.0), overall)
    expected = x * rate * (n - 1.0 + 2.0 * arm.before_trials)
    return arm.excess + x * (x - 1.0) + 2.0 * x * arm.before_events - expected, arm.expected + expected


def _close(arm: ArmFailures) -> ArmFailures:
    """The arm with its open cell closed."""
    excess, expected = _pairs(arm)
    quiet = arm.quiet or QUIET_CELLS * arm.trials
    kept = 1.0 - 1.0 / RECENT_CELLS
    recent_trials = arm.recent_trials if arm.quiet else quiet
    return ArmFailures(
        before_events=arm.events,
        before_trials=arm.trials,
        all_events=arm.all_events + arm.events,
        all_trials=arm.all_trials + arm.trials,
        recent_events=kept * arm.recent_events + arm.events,
        recent_trials=kept * recent_trials + arm.trials,
        quiet=quiet,
        excess=excess,
        expected=expected,
    )


def _dead_gains(stable: ArmFailures, canary: ArmFailures, tolerance: Tolerance = NONE) -> list[float]:
    """log e-variables of one cell; what stable always fails is known from the cells before.

    Fair on the whole edge of the tolerance, whose slope is 1 or more, as long as the canary's bet is the steeper one;
    beside a tolerance so wide that it is not, nothing is bet.
    """
    lost = BURST_SHARE + 3.0 * _always(stable)
    share_s, share_c = stable.events / stable.trials, canary.events / canary.trials
    gains = []
    for guess in DEAD_SHARES:
        null_s = min(0.5 * (SOUND + guess), lost)
        null_c = tolerance.edge(null_s)
        fair = null_c < guess and (guess - null_c) / (null_c * (1.0 - null_c)) >= STEEP * (null_s - SOUND) / (
            null_s * (1.0 - null_s)
        )
        gains.append(_toss(share_c, guess, null_c) + _toss(share_s, SOUND, null_s) if fair else 0.0)
    return gains


def _always(stable: ArmFailures) -> float:
    """Stable's failure rate in the cells before, shrunken towards a small one."""
    return (stable.all_events + PRIOR_EVENTS) / (stable.all_trials + PRIOR_TRIALS)


def _toss(share: float, guess: float, null: float) -> float:
    return math.log(share * guess / null + (1.0 - share) * (1.0 - guess) / (1.0 - null))

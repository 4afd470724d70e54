"""What the canary's incidents may be worth: each may have been a toss between the arms that fell to the canary.

An incident is a cell of guard.py with failures of the canary, or two neighbouring ones: a burst may lie in both.
Where it meets few requests of the canary it shows as a single failure and nothing clumps, so before stable's first
burst a healthy canary that had some looks worse by all that is known. What distinguishes it is the SHAPE of its
incidents.

Rules:

1. A burst meets a share f of an arm's requests while it lasts: all of them, or (shorter than a cell, or half an outage:
   one replica of three) less. With Poisson numbers, m_c of the canary and m_s of stable, it shows as a single failure
   of the canary with v_1 = f m_c exp(-f m_c), as several with v_2 = 1 - v_1 - exp(-f m_c), at stable with
   v_s = 1 - exp(-f m_s). The m are what a request finds around it, so that idle time does not thin out the bouts.
2. Bursts strike both arms alike (m times as often the canary, where a tolerance allows m), so under the null the next
   incident to be seen is a single one of the canary with chance m v_1 / (m (v_1 + v_2) + v_s), and of several
   failures with m v_2 / (...).
3. The alternative bets that nearly all are the canary's, and on their shapes as they come: a Dirichlet mixture over
   the shares of single ones, of those with several failures, and of stable's (Krichevsky and Trofimov, 1981). The
   priors are 1/2, 1/2 (times m_c where that is below 1: there several are scarce whatever happens) and `STABLES`.
4. They are worth log(alternative / null), for the share f of `SHARES` that makes it least: fair (a mean of at most 1
   of its exponential, whatever f is down to 1 %) for incidents before stable's first burst. Stable's are not counted
   here: once it had some they clump, and rule 3 of guard.py speaks. So this cap is for the beginning; over hours,
   single failures that any version has lift it out of the way.
5. Where a burst meets fewer than `SPARSE` requests of both arms together, each failure is a incident of its own, and
   the evidence by requests counts it as just that. It is worth log(1 / w) there, as much as a failure can be by the
   weight w, and `SCATTER` more, because few requests scatter around their weight.
"""

from __future__ import annotations

import math

import msgspec

# Shares of the requests that a burst meets, so that for 1 to 100 requests f m_c comes near 1 for one of them: there
# single failures are likeliest.
SHARES = (1.0, 0.3, 0.1, 0.03, 0.01)
SPARSE = 2.0
SCATTER = 1.0
STABLES = 0.25
# More than any verdict needs of one failure: for what comes in looks too far apart to be guarded.
UNGUARDED = 20.0
# Chances below are taken for this one.
CHANCE_MIN = 1e-12
PRIOR_MIN = 5e-4
_NONE = (0.0,) * len(SHARES)


class Incidents(msgspec.Struct, frozen=True):
    """Those of the canary so far: single failures, several at once, and log of the null's chance for each of `SHARES`.

    ``last`` is how many failures the newest cell had if a incident began there, else 0: the next cell belongs to it.
    ``before`` is ``log_null`` without a single one that began there and may turn out to be of several.
    """

    single: float = 0.0
    several: float = 0.0
    log_null: tuple[float, ...] = _NONE
    last: float = 0.0
    before: tuple[float, ...] = _NONE


def grow(so_far: Incidents, events: float, hit: float, weight: float, odds: float) -> Incidents:
    """With the canary's ``events`` (a whole number) in the next cell.

    ``hit`` are the requests of both arms that a burst meets, ``weight`` the canary's share of them, above 0, and
    ``odds`` the m of rule 2.
    """
    single, several, last = so_far.single, so_far.several, so_far.last
    if not events:
        return Incidents(single, several, so_far.log_null) if last else so_far
    if hit < SPARSE:
        return believe(so_far, events, SCATTER - math.log(weight))
    if last > 1.0:  # the second cell of one that was of several already
        return Incidents(single, several, so_far.log_null)
    before = so_far.before if last else so_far.log_null
    chances = [_log_chance(share * hit, weight, odds, several=last + events > 1.0) for share in SHARES]
    log_null = tuple(old + new for old, new in zip(before, chances, strict=True))
    if last:
        return Incidents(single - 1.0, several + 1.0, log_null)
    if events > 1.0:
        return Incidents(single, several + 1.0, log_null, events)
    return Incidents(single + 1.0, several, log_null, events, before)


def believe(so_far: Incidents, events: float, nats: float = UNGUARDED) -> Incidents:
    """With failures that are worth so many nats each, whatever their shape."""
    log_null = tuple(one - nats * events for one in so_far.log_null)
    return Incidents(so_far.single, so_far.several, log_null)


def worth(so_far: Incidents, hit: float, weight: float) -> float:
    """The most that they are worth together, in nats."""
    both, a, b = so_far.single + so_far.several, 0.5, max(0.5 * min(hit * weight, 1.0), PRIOR_MIN)
    bet = _log_beta(so_far.single + a, so_far.several + b) - _log_beta(a, b)
    bet += _log_beta(both + a + b, STABLES) - _log_beta(a + b, STABLES)
    return max(bet - max(so_far.log_null), 0.0)


def _log_chance(hit: float, weight: float, odds: float, *, several: bool) -> float:
    """log of the null's chance that the next incident is the canary's, of this shape (rule 2)."""
    mean = hit * weight
    none = math.exp(-mean)
    one = mean * none
    more = 1.0 - none - one
    seen = odds * (one + more) + 1.0 - math.exp(-hit * (1.0 - weight))
    return math.log(max(odds * (more if several else one), CHANCE_MIN) / max(seen, CHANCE_MIN))


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

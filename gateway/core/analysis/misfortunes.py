"""What the canary's misfortunes may be worth: each may have been a toss between the arms that fell to the canary.

A misfortune is a cell of bursts.py with failures of the canary, or two neighbouring ones: a burst lies in no more.
Where it meets few requests of the canary it shows as a single failure and nothing clumps, so before stable's first
burst a healthy canary that had some looks worse by all that is known. What can be told is the SHAPE of its misfortunes.

Rules:

1. A burst meets a share f of an arm's requests while it lasts: all of them, or (shorter than a cell, or half an outage:
   one replica of three) less. The m_c of the canary in ``burst_s`` are Poisson, so it shows there as a single failure
   with v_1 = f m_c exp(-f m_c), as several with v_2 = 1 - v_1 - exp(-f m_c), at stable with v_s = 1 - exp(-f m_s).
2. Bursts strike both arms alike (m times as often the canary, where a tolerance allows m), so under the null the next
   misfortune to be seen is a single one of the canary with chance m v_1 / (m (v_1 + v_2) + v_s), and of several
   failures with m v_2 / (...).
3. The alternative bets that nearly all are the canary's, and on their shapes as they come: a Dirichlet mixture over
   the shares of single ones, of those with several failures, and of stable's (Krichevsky and Trofimov, 1981), which are
   not counted here: where stable has bursts, they clump. Its priors are 1/2, 1/2 (where the canary has less than one
   request in ``burst_s``, as much less) and `STABLES`.
4. The misfortunes are worth log(alternative / null), for the share f of `SHARES` that makes it least.
5. Where a burst meets fewer than `SPARSE` requests of both arms together, failures are told apart by nothing, but they
   are not many votes either: a request is seldom more than a misfortune. All of the evidence is believed there.
"""

from __future__ import annotations

import math

import msgspec

# Shares of the requests that a burst meets: f m_c passes 1, where single failures are likeliest, in steps of about 3.
SHARES = (1.0, 0.3, 0.1, 0.03, 0.01)
SPARSE = 2.0
STABLES = 0.25
# More than any failure is ever worth.
BELIEVED = 20.0
_LEAST = 1e-12


class Misfortunes(msgspec.Struct, frozen=True):
    """Those of the canary so far: single failures, several at once, and log of the null's chance for each of `SHARES`.

    ``last`` is how many failures the newest cell had if a misfortune began there, else 0: the next cell belongs to it.
    """

    single: float = 0.0
    several: float = 0.0
    log_null: tuple[float, ...] = (0.0,) * len(SHARES)
    last: float = 0.0


def grow(so_far: Misfortunes, events: float, mean_s: float, mean_c: float, odds: float = 1.0) -> Misfortunes:
    """With the canary's ``events`` in the next cell; ``mean_s`` and ``mean_c``: the arms' requests in ``burst_s``."""
    if not events:
        return Misfortunes(so_far.single, so_far.several, so_far.log_null) if so_far.last else so_far
    if mean_s + mean_c < SPARSE:
        return believe(so_far, events)
    single, several, log_null = so_far.single, so_far.several, so_far.log_null
    if not so_far.last:
        chances = [_log_chance(share, events > 1.0, mean_s, mean_c, odds) for share in SHARES]
        single, several = (single, several + 1.0) if events > 1.0 else (single + 1.0, several)
    elif so_far.last == 1.0:
        # The single one of the cell before was not alone.
        chances = [
            _log_chance(share, True, mean_s, mean_c, odds) - _log_chance(share, False, mean_s, mean_c, odds)
            for share in SHARES
        ]
        single, several = max(single - 1.0, 0.0), several + 1.0
    else:
        return Misfortunes(single, several, log_null)
    log_null = tuple(old + new for old, new in zip(log_null, chances, strict=True))
    return Misfortunes(single, several, log_null, 0.0 if so_far.last else events)


def believe(so_far: Misfortunes, events: float) -> Misfortunes:
    """With failures that are believed whole (rule 5, and what comes in looks too far apart to be guarded)."""
    log_null = tuple(one - BELIEVED * events for one in so_far.log_null)
    return Misfortunes(so_far.single, so_far.several, log_null)


def worth(so_far: Misfortunes, mean_c: float) -> float:
    """The most that they are worth together, in nats."""
    a, b = 0.5, 0.5 * min(max(mean_c, 1e-3), 1.0)
    both = so_far.single + so_far.several
    bet = _log_beta(so_far.single + a, so_far.several + b) - _log_beta(a, b)
    bet += _log_beta(both + a + b, STABLES) - _log_beta(a + b, STABLES)
    return max(bet - max(so_far.log_null), 0.0)


def _log_chance(share: float, several: bool, mean_s: float, mean_c: float, odds: float) -> float:
    """log of the null's chance that the next misfortune is the canary's, of this shape (rule 2)."""
    met = share * mean_c
    none = math.exp(-met)
    one = met * none
    more = 1.0 - none - one
    seen = odds * (one + more) + 1.0 - math.exp(-share * mean_s)
    return math.log(max(odds * (more if several else one), _LEAST) / max(seen, _LEAST))


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

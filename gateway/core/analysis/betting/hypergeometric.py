"""The conditional e-variable: what a batch says about an odds ratio when nothing random assigned its units.

Where assignment is not an independent coin for each request (sticky sessions, counts that were scraped elsewhere), the
batch is judged GIVEN its totals: n_c canary and n_s stable units with E events together. If the arms' odds of an event
have the ratio psi, the canary's events y follow Fisher's non-central hypergeometric distribution,

    P(y) = C(n_c, y) C(n_s, E - y) psi^y / Z(psi),      Z(psi) = sum over y of C(n_c, y) C(n_s, E - y) psi^y

whatever the rates themselves are and however they drift from batch to batch. For a guess psi > psi_0 made before it

    e = P_psi(y) / P_psi0(y) = (psi / psi_0)^y Z(psi_0) / Z(psi)

has mean exactly 1 at psi_0 and less below (the likelihood ratio is monotone), so products of batches and averages over
guesses are e-processes against "the odds ratio is at most psi_0", with psi_0 = 1: "not worse". Nothing is guessed about
stable. What it costs: a batch's totals say nothing, so small batches of frequent events are worth less than in
eprocess.py; for rare events there is no difference.

The ratio Z(psi_0) / Z(psi) is a quotient of two sums of the same positive terms, taken relative to one of them and over
all that is within double precision of the largest; the terms follow one another by a rational factor.
"""

from __future__ import annotations

import math

from gateway.core.analysis.betting.eprocess import TrialBatch

# Sums of up to so many terms are added up in plain Python, longer ones as arrays.
_PLAIN_MAX = 64
# Beyond this (a batch of some 10^11 units with as many events) a batch is not judged: e = 1.
TERMS_MAX = 4_000_000
# Terms further from the mode than this many standard deviations are below 1e-30 of it.
_DEVIATIONS = 12.0


def log_gain(odds_ratio: float, batch: TrialBatch, null: float = 1.0) -> float:
    """log e of a batch for a guess of the odds ratio made before it; 0 for a guess inside the null."""
    if odds_ratio <= null:
        return 0.0
    low, high = support(batch)
    if low == high:
        return 0.0
    y = batch.canary_events
    first = min(max(low, math.floor(_mode(batch, null) - _reach(batch, null))), y)
    last = max(min(high, math.ceil(_mode(batch, odds_ratio) + _reach(batch, odds_ratio))), y)
    if last - first >= TERMS_MAX:
        return 0.0
    sums = _log_sums(batch, first, last, (math.log(null), math.log(odds_ratio)))
    return (y - first) * (math.log(odds_ratio) - math.log(null)) + sums[0] - sums[1]


def support(batch: TrialBatch) -> tuple[int, int]:
    """The least and the most events that the canary can have had, given the totals."""
    events = batch.stable_events + batch.canary_events
    return max(0, events - batch.stable_trials), min(batch.canary_trials, events)


def _log_sums(batch: TrialBatch, first: int, last: int, log_ratios: tuple[float, float]) -> tuple[float, float]:
    """log of sum over k in [first, last] of C(n_c, k) C(n_s, E - k) psi^(k - first), relative to the first term."""
    events = batch.stable_events + batch.canary_events
    n_c, rest = batch.canary_trials, batch.stable_trials - events
    if last - first <= _PLAIN_MAX:
        steps = [math.log((n_c - k + 1) / k * ((events - k + 1) / (rest + k))) for k in range(first + 1, last + 1)]
        return _plain(steps, log_ratios[0]), _plain(steps, log_ratios[1])
    # numpy takes longer to import than most commands run; only sums of this length need it.
    import numpy as np  # noqa: PLC0415  # see above

    k = np.arange(first + 1, last + 1, dtype=np.float64)
    logs = np.log((n_c - k + 1.0) / k * ((events - k + 1.0) / (rest + k)))
    out = []
    for log_ratio in log_ratios:
        terms = np.concatenate(([0.0], np.cumsum(logs + log_ratio)))
        top = float(terms.max())
        out.append(top + math.log(float(np.exp(terms - top).sum())))
    return out[0], out[1]


def _plain(steps: list[float], log_ratio: float) -> float:
    terms = [0.0]
    for step in steps:
        terms.append(terms[-1] + step + log_ratio)
    top = max(terms)
    return top + math.log(math.fsum(math.exp(term - top) for term in terms))


def _mode(batch: TrialBatch, odds_ratio: float) -> float:
    """Where the distribution is highest: the root of the terms' factor at 1 (a quadratic, in its stable form)."""
    events = batch.stable_events + batch.canary_events
    n_c, rest = batch.canary_trials, batch.stable_trials - events
    square = 1.0 - odds_ratio
    linear = odds_ratio * (n_c + events + 2.0) + rest
    constant = odds_ratio * (n_c + 1.0) * (events + 1.0)
    root = math.sqrt(max(linear * linear + 4.0 * square * constant, 0.0))
    low, high = support(batch)
    return min(max(2.0 * constant / (linear + root), float(low)), float(high))


def _reach(batch: TrialBatch, odds_ratio: float) -> float:
    """How far from the mode terms matter: 12 standard deviations, of the normal approximation, and some more."""
    events = batch.stable_events + batch.canary_events
    mode = _mode(batch, odds_ratio)
    cells = (mode, batch.canary_trials - mode, events - mode, batch.stable_trials - events + mode)
    precision = math.fsum(1.0 / (cell + 1.0) for cell in cells)
    return 40.0 + _DEVIATIONS / math.sqrt(precision)

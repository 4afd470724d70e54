"""For plans: how long the guard against bursts (guard.py) holds a conviction back when failures come one by one.

Nothing is imitated: the guard itself is shown the traffic as it is on average, requests and failures at even distances,
while the evidence grows as it does on average, until the guard believes enough of it. Single rollouts scatter, and
scatter holds back too: measured by loadtests/statistics/guarded.py, convictions take 0.9 to 2.2 times as long as said
here, on average as long at 2 requests per second, 1.05 times at 20 and 1.18 times at 200.
"""

from __future__ import annotations

import functools

from gateway.core.analysis.betting.eprocess import Rates, TrialBatch
from gateway.core.analysis.bursts import guard
from gateway.core.analysis.bursts.guard import NONE, Tolerance

# What takes more cells than this is decided by failures that are far apart, which are believed at once.
CELLS_MAX = 600
# The gateway looks more often than a cell closes; for what takes long a look each cell says the same.
_FINE_CELLS, _LOOKS = 40, 3
# Denser traffic says the same, and stays countable.
_PER_S_MAX = 1e6


@functools.lru_cache(maxsize=4096)
def conviction_s(
    requests_per_s: float,
    weight: float,
    truth: Rates,
    burst_s: float,
    needed: float,
    price: float,
    nats_per_s: float,
    tolerance: Tolerance = NONE,
) -> float:
    """Seconds until ``needed`` nats are believed, of evidence that grows by ``nats_per_s`` after ``price`` of them.

    (needed + price) / nats_per_s where nothing holds it back, and never less.
    """
    plain_s = (needed + price) / nats_per_s
    if not burst_s or plain_s > CELLS_MAX * burst_s:
        return plain_s
    looks = _LOOKS if plain_s < _FINE_CELLS * burst_s else 1
    look_s = burst_s / looks
    state, before = guard.fresh(), TrialBatch(0, 0, 0, 0)
    for n in range(1, 3 * looks * CELLS_MAX):
        seen = _batch(min(requests_per_s, _PER_S_MAX) * n * look_s, weight, truth)
        state = guard.take(state, _since(before, seen), n * look_s, burst_s, tolerance)
        before = seen
        log_e = nats_per_s * n * look_s - price
        if log_e >= needed and guard.guarded(log_e, state) >= needed:
            return max(plain_s, n * look_s)
    return 3 * CELLS_MAX * burst_s


def _batch(requests: float, weight: float, truth: Rates) -> TrialBatch:
    """What so many requests have brought, at even distances."""
    stable, canary = int(requests * (1.0 - weight) + 0.5), int(requests * weight + 0.5)
    return TrialBatch(int(stable * truth.stable + 0.5), stable, int(canary * truth.canary + 0.5), canary)


def _since(old: TrialBatch, new: TrialBatch) -> TrialBatch:
    stable, canary = new.stable_trials - old.stable_trials, new.canary_trials - old.canary_trials
    return TrialBatch(
        min(new.stable_events - old.stable_events, stable),
        stable,
        min(new.canary_events - old.canary_events, canary),
        canary,
    )

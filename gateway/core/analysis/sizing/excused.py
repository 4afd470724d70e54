"""For plans: how much later a conviction comes because bad moments like stable's are not held against a canary.

The evidence of a regression grows evenly. Of what it had grown to by any time, as many stretches may be taken out as
the canary may have had moments (bursts/trimmed.py, theory 4), each at its greatest length, and each is paid for by how
improbable so many moments would be. The plan says when what is left is enough.
"""

from __future__ import annotations

import functools

from gateway.core.analysis.bursts import trimmed
from gateway.core.analysis.bursts.trimmed import TrimmingRule

_STRETCHES_MAX = 30
_DOUBLINGS_MAX = 40
_HALVINGS = 40


@functools.lru_cache(maxsize=4096)
def conviction_s(rule: TrimmingRule, needed: float, price: float, nats_per_s: float) -> float:
    """Seconds until ``needed`` nats are believed, of evidence that grows by ``nats_per_s`` after ``price`` of them."""
    plain_s = (needed + price) / nats_per_s
    late_s = plain_s
    for _ in range(_DOUBLINGS_MAX):
        if _believed(rule, price, nats_per_s, late_s) >= needed:
            break
        late_s = 2.0 * late_s + rule.stretch_s
    early_s = plain_s
    for _ in range(_HALVINGS):
        middle_s = 0.5 * (early_s + late_s)
        if _believed(rule, price, nats_per_s, middle_s) >= needed:
            late_s = middle_s
        else:
            early_s = middle_s
    return late_s


def _believed(rule: TrimmingRule, price: float, nats_per_s: float, at_s: float) -> float:
    """What is left at this time of evidence without scatter: between stretches there is time that counts."""
    left = nats_per_s * at_s - price
    worths = trimmed.worths(_STRETCHES_MAX, at_s, rule, 0.0)
    for n in range(1, _STRETCHES_MAX):
        if (n - 1) * (rule.stretch_s + rule.apart_s) > at_s:
            break
        seen_s = max(at_s - n * rule.stretch_s, (n - 1) * rule.apart_s)
        worth = min(worths[n], trimmed.WORTH_MAX * n)
        left = min(left, max(nats_per_s * seen_s - price, 0.0) + worth)
    return left

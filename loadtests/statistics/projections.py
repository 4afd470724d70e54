"""`eprocess`'s e-variable over arrays: a guess's nearest pair of rates on a line, and what a batch says against it.

All arrays broadcast: programs that simulate rollouts have one axis for these and one for the guesses.
"""

from __future__ import annotations

import numpy as np

from loadtests.statistics.detection import Floats

# Zero and one have no logarithm.
_TINY = 1e-15
_HALVINGS = 40


def onto_ratio(stable: Floats, canary: Floats, weight: Floats, ratio: float) -> Floats:
    """Stable's rate in the nearest pair with q_c = ratio * q_s."""
    constant = (1.0 - weight) * stable + weight * canary
    linear = (1.0 - weight) * (1.0 + ratio * stable) + weight * (ratio + canary)
    return np.asarray(2.0 * constant / (linear + np.sqrt(np.maximum(linear * linear - 4.0 * ratio * constant, 0.0))))


def onto_shift(stable: Floats, canary: Floats, weight: Floats, shift: float) -> Floats:
    """Stable's rate in the nearest pair with q_c = q_s + shift, by bisection between the two guesses."""
    down = canary - shift
    low, high = np.maximum(np.minimum(stable, down), 0.0), np.minimum(np.maximum(stable, down), 1.0 - shift)
    for _ in range(_HALVINGS):
        q = 0.5 * (low + high)
        above = q + shift
        slope = (1.0 - weight) * (q - stable) * above * (1.0 - above) + weight * (above - canary) * q * (1.0 - q)
        low, high = np.where(slope > 0.0, low, q), np.where(slope > 0.0, q, high)
    return np.asarray(0.5 * (low + high))


def log_gain(guess: tuple[Floats, Floats], nearest: tuple[Floats, Floats], counts: tuple[Floats, ...]) -> Floats:
    """log e of batches, ``counts`` being (stable events, stable trials, canary events, canary trials)."""
    events_s, trials_s, events_c, trials_c = counts
    (stable, canary), (q_s, q_c) = guess, (np.clip(q, _TINY, 1.0 - _TINY) for q in nearest)
    gain = events_s * np.log(stable / q_s) + (trials_s - events_s) * np.log((1.0 - stable) / (1.0 - q_s))
    gain = gain + events_c * np.log(canary / q_c) + (trials_c - events_c) * np.log((1.0 - canary) / (1.0 - q_c))
    return np.asarray(gain)

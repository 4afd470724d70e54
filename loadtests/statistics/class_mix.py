"""How many of the canary's answers the default metrics of predictions take: to be proven, and to convict.

    python -m loadtests.statistics.class_mix [--runs 30] [--seed 1]

The engine's own `rates.take_event`, 20 requests to a look. Prints for each share of a class and each weight the mean
and the largest number of canary answers until a class mix without a difference is proven; the mean for the faults, of
which there are none, at several margins; and the mean until a class of 10 % that takes over is convicted by itself.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys

from gateway.config.predictions import BY_DEFAULT
from gateway.core.analysis import AnalysisSpec, EventSpec, budget
from gateway.core.analysis.evidence.intake import Arrival
from gateway.core.analysis.metrics import events, rates
from gateway.core.stats import Counts

WEIGHTS = (0.01, 0.05, 0.25, 0.5)
SHARES = (0.02, 0.1, 0.3, 0.5, 0.7, 0.95)
MARGINS = (0.01, 0.02, 0.03, 0.05)
LOOK_REQUESTS = 20
EVENTS = BY_DEFAULT.events()
CLASS = next(event for event in EVENTS if event.name == "class_0")
SPEC = AnalysisSpec(events=EVENTS)
OK_NEEDED = -math.log(SPEC.alpha_promote)
BAD_NEEDED = budget.bad_needed(SPEC)[CLASS.name]


def answers(spec: EventSpec, weight: float, rates_of: tuple[float, float], rng: random.Random) -> int:
    """The canary's answers until the event is proven, or convicts; ``rates_of`` are stable's and the canary's rate."""
    state = rates.fresh(len(rates.directions_of(spec)), rates.LABELLED_PRIOR)
    canary = look = 0
    while True:
        arms = (Counts(), Counts())
        for _ in range(LOOK_REQUESTS):
            arm = rng.random() < weight
            arms[arm].label(spec.name, rng.random() < rates_of[arm])
            canary += arm
        look += 1
        state = events.take(state, spec, [Arrival(1, arms[0], arms[1])], [1], BAD_NEEDED, 0.1 * look)
        if rates.log_e_bad(state.metrics) >= BAD_NEEDED or rates.log_e_ok(state.metrics) >= OK_NEEDED:
            return canary


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng, runs = random.Random(options.seed), range(options.runs)
    print("proof of a class mix: weight, share, mean, largest")
    for weight in WEIGHTS:
        for share in SHARES:
            found = [answers(CLASS, weight, (share, share), rng) for _ in runs]
            print(f"{weight:5} {share:5} {statistics.mean(found):6.1f} {max(found):5}")
    print("proof of no faults: margin, weight, mean")
    for margin in MARGINS:
        fault = EventSpec("nan", margin_delta=margin)
        for weight in WEIGHTS[1:]:
            print(
                f"{margin:5} {weight:5} {statistics.mean(answers(fault, weight, (0, 0), rng) for _ in range(3)):6.1f}"
            )
    print("a class that takes over: weight, mean")
    for weight in WEIGHTS[1:]:
        print(f"{weight:5} {statistics.mean(answers(CLASS, weight, (0.1, 1.0), rng) for _ in runs):6.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

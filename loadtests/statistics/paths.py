"""What the pictures of docs/statistics.md need beyond the tables: the evidence of one rollout, and alarms over time.

    python -m loadtests.statistics.paths [--runs 1000] [--seed 1] [--out paths.jsonl]

The rollout: 200 requests per second, canary 10 %, both arms fail 0.5 % of them; the canary 5 % from the 60th second on.
Real judge, default settings, a look each 100 ms. The curves: the share of healthy canaries that were convicted by a
time, under the pauses of bursts.py, as the gateway judges and by requests alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gateway.core.analysis import AnalysisSpec, Evidence, Verdict, fresh_state, judge
from gateway.core.stats import Counts, EpochCounts, bucket_of
from loadtests.statistics import bursts
from loadtests.statistics.lines import finish, options

TURN_S = 60.0
PER_TICK = 20
CURVES = ((200.0, 0.05), (200.0, 0.5))


@dataclass(frozen=True)
class Look:
    """The evidence at one look of the example, in decimal logarithms."""

    table: str
    at_s: float
    bad: float
    bad_needed: float
    ok: float
    ok_needed: float
    verdict: str


@dataclass(frozen=True)
class CurvePoint:
    """The share of healthy canaries convicted by this time."""

    table: str
    requests_per_s: float
    weight: float
    alpha: float
    at_s: float
    guarded: float
    by_requests: float


def example(seed: int) -> list[Look]:
    """Looks until FAIL; a verdict PASS is noted and the traffic goes on, as on a long step."""
    rng = np.random.default_rng([seed, 61])
    spec = AnalysisSpec()
    state = fresh_state(spec)
    arms, found = (Counts(), Counts()), []
    for tick in range(2000):
        at_s = 0.1 * tick
        canary = int(rng.binomial(PER_TICK, 0.1))
        for arm, n in zip(arms, (PER_TICK - canary, canary), strict=True):
            arm.requests += n
            arm.assigned += n
            rate = 0.05 if arm is arms[1] and at_s >= TURN_S else 0.005
            arm.enter("errors", int(rng.binomial(n, rate)))
            for latency_us in rng.lognormal(10.6, 0.3, n):
                bucket = bucket_of(int(latency_us))
                arm.latency[bucket] = arm.latency.get(bucket, 0) + 1
        entry = EpochCounts("r", 1, 1000, arms[0].copy(), arms[1].copy())
        state, analysis = judge(spec, state, Evidence(at_s, (entry,)))
        errors = analysis.findings[0]
        ten = np.log(10.0)
        found.append(
            Look(
                "example",
                round(at_s, 1),
                errors.log_e_bad / ten,
                errors.details["log_e_bad_needed"] / ten,
                errors.log_e_ok / ten,
                errors.details["log_e_ok_needed"] / ten,
                analysis.verdict.value,
            )
        )
        if analysis.verdict is Verdict.FAIL:
            break
    return found


def curve(requests_per_s: float, weight: float, runs: int, rng: np.random.Generator) -> list[CurvePoint]:
    """Alarms over five minutes, alpha 1 %."""
    ticks = round(bursts.AA_S / bursts.TICK_S)
    rates = bursts.pauses(rng, runs, ticks), bursts.pauses(rng, runs, ticks)
    seconds = bursts.simulate(rates, requests_per_s, weight, ticks, bursts.judging(runs, 0.01), rng)
    return [
        CurvePoint("curve", requests_per_s, weight, 0.01, at_s, *(float((s <= at_s).mean()) for s in seconds))
        for at_s in np.arange(0.0, bursts.AA_S + 1.0, 5.0).tolist()
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Both, to a file."""
    asked = options("The data of the pictures in docs/statistics.md.", 1000).parse_args(arguments)
    looks = example(asked.seed)
    points = [
        point
        for i, (rps, weight) in enumerate(CURVES)
        for point in curve(rps, weight, asked.runs, np.random.default_rng([asked.seed, 62, i]))
    ]
    passed = next((look.at_s for look in looks if look.verdict == Verdict.PASS.value), None)
    print(f"example: PASS at {passed} s, {looks[-1].verdict} at {looks[-1].at_s} s")
    return finish(asked, [*looks, *points])


if __name__ == "__main__":
    sys.exit(main())

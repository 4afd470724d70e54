"""Users of a sticky route who come back: to a canary that has died, and to equal versions.

    python -m loadtests.statistics.returning [--runs 300] [--seed 1] [--out returning.jsonl]

The workers' own counting (`StickySessions`) and the judge, default settings. 2,000 users come at random, again and
again (200 requests a second); a canary is dead from the 300th second on, with a look each 0.1 s. Of equal versions,
at 100 requests and three looks a second for five minutes: one user in 200 whose requests always fail, of ordinary
pace or hammering; and one in 100 whose requests fail one time in five. Convicted at ANY look.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from gateway.core.analysis import Evidence, Verdict, fresh_state, look
from gateway.core.analysis.spec import ROUTE_DEFAULT, LatencySpec, Mode
from gateway.core.traffic.table import Route, Sticky
from gateway.core.types import Variant
from gateway.proxy.counting.counters import WorkerCounters
from loadtests.statistics.lines import finish, options, upper_bound, write

USERS = 2000
DEAD_S = 300.0
_OFF = LatencySpec(mode=Mode.OFF)
SPEC = msgspec.structs.replace(
    ROUTE_DEFAULT, sticky=True, alpha_sample_ratio=0.0, latency=_OFF, gap=_OFF, time_per_event=_OFF
)


@dataclass(frozen=True)
class Returning:
    """One row: rollouts convicted, in the median after so many seconds (of a dead canary, from its death on)."""

    table: str
    world: str
    weight: float
    alpha: float
    runs: int
    alarms: int
    upper: float
    median_s: float


@dataclass(frozen=True)
class Kind:
    """A world: when the canary dies, the share of users whose requests fail with a chance, and how fast those come."""

    name: str
    dead_s: float = math.inf
    share: float = 0.0
    chance: float = 1.0
    pace: float = 1.0
    length_s: float = 300.0
    requests_per_s: float = 100.0
    tick_s: float = 0.3


KINDS = (
    Kind("dead from second 300 on", dead_s=DEAD_S, length_s=360.0, requests_per_s=200.0, tick_s=0.1),
    Kind("some users always fail", share=0.005),
    Kind("some users always fail, and hammer", share=0.005, pace=20.0),
    Kind("some users fail now and then", share=0.01, chance=0.2),
)
WEIGHTS = (0.05, 0.5)


def rollout(kind: Kind, weight: float, rng: np.random.Generator) -> float:
    """When the canary is convicted; infinite: never."""
    workers = WorkerCounters("boot")
    route = Route("r", "/", "a", "b", round(1e4 * weight), sticky=Sticky(header="x-session"))
    counters = workers.enter_table(1, (route,))["r"]
    sessions = workers.sessions["r"]
    points = rng.random(USERS) * 1e4
    canary = points < 1e4 * weight
    bad = rng.random(USERS) < kind.share
    pace = np.where(bad, kind.pace, 1.0)
    upto = np.cumsum(pace)[:-1] / pace.sum()
    state = fresh_state(SPEC)
    for tick in range(1, round(kind.length_s / kind.tick_s) + 1):
        at_s = tick * kind.tick_s
        come = int(rng.poisson(kind.requests_per_s * kind.tick_s))
        for user in np.searchsorted(upto, rng.random(come)).tolist():
            arm = Variant.CANARY if canary[user] else Variant.STABLE
            dead = arm is Variant.CANARY and at_s >= kind.dead_s
            fails = dead or rng.random() < (kind.chance if bad[user] else 0.0005)
            counts = counters.arms[arm]
            counts.assigned += 1
            counts.requests += 1
            if fails:
                counts.enter("errors")
            sessions.outcome(float(points[user]), counters, arm, "errors" if fails else "ok", at_s)
        workers.sweep_sessions(at_s)
        state, seen = look(SPEC, state, Evidence(at_s, (counters.evidence,)))
        if seen.verdict is Verdict.FAIL:
            return at_s
    return math.inf


def row(kind: Kind, weight: float, runs: int, seed: Sequence[int]) -> Returning:
    """Many rollouts of one kind."""
    times = [rollout(kind, weight, np.random.default_rng([*seed, run])) for run in range(runs)]
    dies = math.isfinite(kind.dead_s)
    convicted = [at_s - (kind.dead_s if dies else 0.0) for at_s in times if math.isfinite(at_s)]
    alarms = sum(one < 0.0 for one in convicted) if dies else len(convicted)
    median = float(np.median([one for one in convicted if one >= 0.0] or [math.inf]))
    return Returning(
        "returning", kind.name, weight, SPEC.alpha_rollback, runs, alarms, upper_bound(alarms, runs), median
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The table; returns 1 when a bound exceeds its alpha."""
    asked = options("Users who come back.", 300).parse_args(arguments)
    print("| world | weight | wrongly convicted | 95 % upper bound | median time to FAIL |\n|---|---|---|---|---|")
    found: list[Returning] = []
    for i, kind in enumerate(KINDS):
        for j, weight in enumerate(WEIGHTS):
            runs = asked.runs if math.isinf(kind.dead_s) else max(2, asked.runs // 15)
            found.append(row(kind, weight, runs, (asked.seed, 171, i, j)))
            one = found[-1]
            print(
                f"| {one.world} | {100 * weight:g} % | {one.alarms} of {one.runs} | {100 * one.upper:.2f} % |"
                f" {one.median_s:.1f} s |",
                flush=True,
            )
            write(asked.out, found)
    return finish(asked, found, (one for one in found if one.world != KINDS[0].name))


if __name__ == "__main__":
    sys.exit(main())

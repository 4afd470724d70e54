"""What is not known yet: late failures, requests that hang, cold starts, users who come back, endpoints that crash.

    python -m loadtests.statistics.known [--runs 40] [--seed 1] [--out known.jsonl]

Whole rollouts by the pure API, default settings (`rollouts.py`). Bad canaries must never be promoted and must be rolled
back; healthy ones must not be rolled back, and promoted in a time that is shown.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gateway.core.rollout import Phase, Plan
from loadtests.statistics.lines import finish, options, upper_bound, write
from loadtests.statistics.rollouts import DEFAULT_PLAN, Ending, Simulation, World

BASE = 0.002
LATE_S = 60.0
TOTAL_S = 300.0


def _mix(*bad: Ending, after_s: float = 0.05, latency_s: float | None = None) -> tuple[Ending, ...]:
    """Bad endings, stable's own failures, and the rest well."""
    endings = (*bad, Ending(BASE, 0.05, "errors"))
    return (*endings, Ending(1.0 - sum(one.chance for one in endings), after_s, "", latency_s))


def late_failures(arm: int, at_s: float, had: int) -> tuple[Ending, ...]:
    """1.3 % more fail, a minute after they were assigned."""
    return _mix(Ending(0.013, LATE_S, "errors", 0.05)) if arm else _mix()


def hangs(arm: int, at_s: float, had: int) -> tuple[Ending, ...]:
    """5 % hang until ``total_s``."""
    return _mix(Ending(0.05, TOTAL_S, "errors")) if arm else _mix()


def hangs_for_ever(arm: int, at_s: float, had: int) -> tuple[Ending, ...]:
    """5 % have no outcome at all."""
    return _mix(Ending(0.05, outcome=None)) if arm else _mix()


def hangs_later(arm: int, at_s: float, had: int) -> tuple[Ending, ...]:
    """5 % hang, from the 200th second on."""
    return hangs(arm, at_s, had) if at_s > 200.0 else _mix()


def slow_answers(arm: int, at_s: float, had: int) -> tuple[Ending, ...]:
    """Both versions answer in 20 s, the first event in 0.2 s."""
    return _mix(after_s=20.0, latency_s=0.2)


def longer_answers(arm: int, at_s: float, had: int) -> tuple[Ending, ...]:
    """The canary's answers are a quarter longer than stable's 20 s."""
    return _mix(after_s=25.0 if arm else 20.0, latency_s=0.2)


def lost(arm: int, at_s: float, had: int) -> tuple[Ending, ...]:
    """Half a percent of the requests of both versions never get an outcome."""
    return _mix(Ending(0.005, outcome=None))


def open_streams(arm: int, at_s: float, had: int) -> tuple[Ending, ...]:
    """A client opens streams on the canary in the first seconds and leaves them open for ever."""
    return (Ending(0.5, outcome=None), Ending(0.5)) if arm and at_s < 5.0 else _mix()


def healthy(arm: int, at_s: float, had: int) -> tuple[Ending, ...]:
    """Equal versions."""
    return _mix()


def cold_30_s(arm: int, at_s: float, had: int) -> tuple[Ending, ...]:
    """The canary is four times slower for 30 s."""
    return _mix(after_s=0.2) if arm and at_s < 30.0 else _mix()


def cold_300(arm: int, at_s: float, had: int) -> tuple[Ending, ...]:
    """The canary is four times slower for its first 300 requests."""
    return _mix(after_s=0.2) if arm and had < 300 else _mix()


def cold_curve(arm: int, at_s: float, had: int) -> tuple[Ending, ...]:
    """The canary's latency falls from five times to once stable's, by half every 20 s."""
    return _mix(after_s=0.05 * (1.0 + 4.0 * 0.5 ** (at_s / 20.0))) if arm else _mix()


def stays_slow(arm: int, at_s: float, had: int) -> tuple[Ending, ...]:
    """The canary is four times slower."""
    return _mix(after_s=0.2) if arm else _mix()


@dataclass(frozen=True)
class Row:
    """One world: how its rollouts ended, and the median time of those that did as they should."""

    table: str
    world: str
    requests_per_s: float
    good: bool
    alpha: float
    runs: int
    promoted: int
    rolled_back: int
    upper: float
    median_s: float


@dataclass(frozen=True)
class Case:
    """A world to simulate; ``good``: its canary must not be rolled back, else it must not be promoted."""

    world: World
    requests_per_s: float
    good: bool
    plan: Plan = DEFAULT_PLAN
    until_s: float = 1800.0


CASES = (
    Case(healthy, 200.0, True),
    Case(late_failures, 2000.0, False),
    Case(hangs, 200.0, False),
    Case(hangs_for_ever, 200.0, False),
    Case(hangs_later, 200.0, False),
    Case(slow_answers, 100.0, True),
    Case(longer_answers, 100.0, True),
    Case(lost, 200.0, True),
    Case(open_streams, 200.0, True),
    Case(cold_30_s, 200.0, True),
    Case(cold_300, 20.0, True, until_s=900.0),
    Case(cold_curve, 200.0, True),
    Case(stays_slow, 200.0, False),
    Case(stays_slow, 20.0, False),
)


def simulate(case: Case, runs: int, seed: Sequence[int], done: Callable[[int], None] | None = None) -> Row:
    """Many rollouts of one world."""
    found = []
    for run in range(runs):
        rng = np.random.default_rng([*seed, run])
        found.append(Simulation(case.world, case.requests_per_s, rng, plan=case.plan, until_s=case.until_s).run())
        if done is not None:
            done(run)
    promoted = sum(one.phase is Phase.PROMOTED for one in found)
    back = sum(one.phase is Phase.ROLLED_BACK for one in found)
    wrong = back if case.good else promoted
    wanted = Phase.PROMOTED if case.good else Phase.ROLLED_BACK
    times = [one.at_s for one in found if one.phase is wanted] or [float("inf")]
    return Row(
        "known",
        (case.world.__doc__ or "").strip().rstrip("."),
        case.requests_per_s,
        case.good,
        0.01 if case.good else 0.05,
        runs,
        promoted,
        back,
        upper_bound(wrong, runs),
        float(np.median(times)),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The table; returns 1 where a canary did what it must not, more often than its alpha allows."""
    parser = options(__doc__ or "", 40)
    parser.add_argument("--only", default="", help="only worlds of this name")
    asked = parser.parse_args(arguments)
    print("| world | requests/s | promoted | rolled back | median time |\n|---|---|---|---|---|")
    found: list[Row] = []
    for i, case in enumerate(CASES):
        if asked.only and asked.only != case.world.__name__:
            continue
        found.append(simulate(case, asked.runs, (asked.seed, 131, i)))
        one = found[-1]
        print(
            f"| {one.world} | {one.requests_per_s:g} | {one.promoted} of {one.runs} | {one.rolled_back} of {one.runs} |"
            f" {one.median_s:.0f} s |",
            flush=True,
        )
        write(asked.out, found)
    return finish(asked, found)


if __name__ == "__main__":
    sys.exit(main())

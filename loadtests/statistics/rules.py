"""The gateway beside the rules that people run now, on the same simulated traffic.

    python -m loadtests.statistics.rules [--runs 20] [--seed 1] [--out rules.jsonl]

Every run is a recording of half-second intervals (fixed weight 10 %, 40 minutes at most), judged by `gateway replay`'s
own parts: the gateway's judge and ladder with the default configuration, and Flagger's, Argo Rollouts' and Kayenta's
rules with their documented defaults and with settings chosen to suit this traffic ("tuned": quicker looks, an error
limit between stable's rate and the regressions'). A rule reads no further than its decision. For a healthy canary
every rollback is false; for a broken one everything but a rollback is a miss.
"""

from __future__ import annotations

import itertools
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from gateway.config.build import analysis_spec, plan
from gateway.config.routes import MatchConfig, RouteConfig
from gateway.core.stats.counts import Counts
from gateway.core.stats.histogram import bucket_of
from gateway.replay import policy as own
from gateway.replay.intervals import DecisionKind, Meter, RecordedInterval, RuleDecision
from gateway.replay.policy import Policy
from gateway.replay.rules import RULES, Rule, parameters
from loadtests.statistics.lines import finish, options

INTERVAL_S = 0.5
LENGTH_S = 2400.0
WEIGHT = 0.1
# Latencies: log-normal, cut into shares of buckets once.
MEDIAN_US, SPREAD = 40_000, 0.35
_GRID = np.exp(np.linspace(-2.5, 2.5, 41) * SPREAD)

TUNED = (
    *("flagger.interval_s=15", "flagger.threshold=2"),
    *("argo.interval_s=30", "argo.success_rate_min=0.99", "argo.failure_limit=1", "argo.count=20"),
    *("kayenta.step_s=10", "kayenta.interval_s=600", "kayenta.lifetime_s=1800"),
)


@dataclass(frozen=True)
class Scenario:
    """Failure rates of (stable, canary) by time in seconds, traffic, and how much slower the canary is."""

    name: str
    healthy: bool
    rates: Callable[[float], tuple[float, float]]
    requests_per_s: float = 100.0
    slower: float = 1.0
    pauses: bool = False


SCENARIOS = (
    Scenario("A/A", True, lambda _: (0.003, 0.003)),
    Scenario("A/A, drift 0.1 to 3 %", True, lambda t: (0.001 + 0.029 * t / LENGTH_S,) * 2),
    Scenario("A/A, common outage", True, lambda t: (0.4, 0.4) if 120.0 <= t < 180.0 else (0.003, 0.003)),
    Scenario("A/A, pauses of 300 ms", True, lambda _: (0.001, 0.001), pauses=True),
    Scenario("A/A, 5 requests/s", True, lambda _: (0.003, 0.003), 5.0),
    Scenario("errors 0.3 -> 3 %", False, lambda _: (0.003, 0.03)),
    Scenario("errors 0.3 -> 3 % after 60 s", False, lambda t: (0.003, 0.03 if t > 60.0 else 0.003)),
    Scenario("errors rise to 10 % in 10 min", False, lambda t: (0.003, 0.003 + 0.1 * min(t / 600.0, 1.0))),
    Scenario("sparse errors 0.1 -> 0.8 %", False, lambda _: (0.001, 0.008)),
    Scenario("latency x 2", False, lambda _: (0.003, 0.003), slower=2.0),
    Scenario("errors 1 -> 10 %, 5 requests/s", False, lambda _: (0.01, 0.1), 5.0),
    Scenario("dead", False, lambda _: (0.003, 1.0)),
)


@dataclass(frozen=True)
class Row:
    """What one rule made of one scenario; medians over the runs that ended in a decision, means over all runs."""

    table: str
    scenario: str
    healthy: bool
    rule: str
    runs: int
    rollbacks: int
    promotions: int
    median_s: float
    median_requests: float
    bad_let_through: float


def recording(scenario: Scenario, rng: np.random.Generator) -> Iterator[RecordedInterval]:
    """The scenario's traffic, interval after interval."""
    next_pause = [rng.exponential(20.0), rng.exponential(20.0)]
    shares = np.exp(-0.5 * np.linspace(-2.5, 2.5, 41) ** 2)
    shares /= shares.sum()
    buckets = [[bucket_of(int(MEDIAN_US * factor * slower)) for factor in _GRID] for slower in (1.0, scenario.slower)]
    for index in range(int(LENGTH_S / INTERVAL_S)):
        at_s = (index + 1) * INTERVAL_S
        arms = []
        for arm, rate in enumerate(scenario.rates(at_s)):
            share = WEIGHT if arm else 1.0 - WEIGHT
            requests = int(rng.poisson(scenario.requests_per_s * INTERVAL_S * share))
            errors = int(rng.binomial(requests, rate))
            if scenario.pauses and at_s > next_pause[arm]:
                errors = max(errors, int(rng.binomial(requests, 0.3 / INTERVAL_S)))
                next_pause[arm] = at_s + rng.exponential(20.0)
            counts = rng.multinomial(requests, shares)
            latency: dict[int, int] = {}
            for bucket, n in zip(buckets[arm], counts.tolist(), strict=True):
                if n:
                    latency[bucket] = latency.get(bucket, 0) + n
            arms.append(Counts(requests, {"errors": errors}, latency=latency))
        yield RecordedInterval(at_s - INTERVAL_S, at_s, round(10_000 * WEIGHT), *arms)


class Tape:
    """One recording that every rule reads from its beginning, made only as far as the slowest of them reads."""

    def __init__(self, source: Iterator[RecordedInterval]) -> None:
        self._source = source
        self._made: list[RecordedInterval] = []

    def play(self) -> Iterator[RecordedInterval]:
        """The intervals from the first on; no reader changes them."""
        for index in itertools.count():
            if index == len(self._made):
                following = next(self._source, None)
                if following is None:
                    return
                self._made.append(following)
            yield self._made[index]


def judged(scenario: Scenario, seed: Sequence[int]) -> dict[str, tuple[DecisionKind, float, int, int]]:
    """Every rule's decision on one recording: kind, seconds, requests of both arms, canary errors until then."""
    route = RouteConfig(name="recorded", match=MatchConfig(path_prefix="/"), stable="stable", canary="canary")
    policy = Policy(own.spec_for(analysis_spec(route), frozenset(("errors", "latency"))), plan(route))
    found: dict[str, tuple[DecisionKind, float, int, int]] = {}
    contests: list[tuple[str, Callable[[Meter], RuleDecision]]] = [("gateway", lambda meter: own.decide(meter, policy))]
    for suffix, settings in (("", ()), (", tuned", TUNED)):
        for name, params in parameters(settings).items():
            contests.append((name + suffix, _bound(RULES[name], params)))
    tape = Tape(recording(scenario, np.random.default_rng(seed)))
    for name, decide in contests:
        meter = Meter(tape.play())
        decision = decide(meter)
        requests = meter.stable_requests + meter.canary_requests
        found[name] = decision.kind, meter.at_s, requests, meter.canary_errors
    return found


def _bound(rule: Rule, params: msgspec.Struct) -> Callable[[Meter], RuleDecision]:
    return lambda meter: rule.decide(meter, params)


def rows(scenario: Scenario, runs: int, seed: Sequence[int]) -> list[Row]:
    """Every rule on many recordings of one scenario."""
    all_found = [judged(scenario, (*seed, run)) for run in range(runs)]
    out = []
    for rule in all_found[0]:
        mine = [found[rule] for found in all_found]
        decided = [one for one in mine if one[0] in (DecisionKind.ROLLBACK, DecisionKind.PROMOTE)]
        out.append(
            Row(
                "rules",
                scenario.name,
                scenario.healthy,
                rule,
                runs,
                sum(one[0] is DecisionKind.ROLLBACK for one in mine),
                sum(one[0] is DecisionKind.PROMOTE for one in mine),
                statistics.median(one[1] for one in decided) if decided else math.inf,
                statistics.median(one[2] for one in decided) if decided else math.inf,
                statistics.fmean(one[3] for one in mine),
            )
        )
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """The table."""
    asked = options("The gateway beside other rules on the same traffic.", 20).parse_args(arguments)
    found: list[Row] = []
    print("| traffic | rule | rolled back | promoted | median time | median requests | bad answers let through |")
    print("|---|---|---|---|---|---|---|")
    for index, scenario in enumerate(SCENARIOS):
        for row in rows(scenario, asked.runs, (asked.seed, 51, index)):
            found.append(row)
            when = f"{row.median_s:,.0f} s | {row.median_requests:,.0f}" if math.isfinite(row.median_s) else "- | -"
            print(
                f"| {row.scenario} | {row.rule} | {row.rollbacks} of {row.runs} | {row.promotions} | {when} |"
                f" {row.bad_let_through:,.0f} |",
                flush=True,
            )
    return finish(asked, found)


if __name__ == "__main__":
    sys.exit(main())

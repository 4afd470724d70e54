"""Where the canary's failures came from, and what they cost: endpoints and rescues, as part of the findings.

Rules:

1. A version is judged as a whole: an endpoint that fails is its version's doing. But to repair it one must know whether
   one replica fails or all of them, so the finding says so, and so does the reason for a rollback that it causes.
2. "24 of 25 failures at http://10.0.0.7:8080" is said where chance would hardly put so many at one of the version's
   endpoints (`CHANCE`); otherwise at how many endpoints there were failures.
3. The cost is what users and stable bore of it: how many failures stable answered in the canary's place, how much more
   work that was for it, and how many failures reached clients, with the reason. It is of all classes together, and said
   in the finding with most failures.
4. Counted from the rollout's start, or from a restart of control during it: then its numbers may be smaller than the
   finding's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from gateway.control.workers.report_aggregator import FailuresByEndpoint, ReportAggregator
from gateway.core.analysis import Analysis, Finding, Look, Verdict
from gateway.core.analysis.betting.eprocess import clip
from gateway.core.analysis.sizing.limit import divergence
from gateway.core.numbers import counted, percent
from gateway.core.stats.outcomes import FAILURES
from gateway.core.types import Variant

CHANCE = 0.01


class Tally(NamedTuple):
    """What the workers had counted of a route at one moment."""

    stable: FailuresByEndpoint
    canary: FailuresByEndpoint
    rescued: int
    refused: Mapping[str, int]


class Endpoints(NamedTuple):
    """How many endpoints the two versions have."""

    stable: int
    canary: int


def tally_of(aggregator: ReportAggregator, route: str) -> Tally:
    """The counts of this moment."""
    places = aggregator.failed_at()
    rescued, refused = aggregator.rescues().get(route, (0, {}))
    return Tally(places.get((route, Variant.STABLE), {}), places.get((route, Variant.CANARY), {}), rescued, refused)


def with_places(look: Look, aggregator: ReportAggregator, route: str, before: Tally, endpoints: Endpoints) -> Look:
    """The look, its findings with where failures came from and what they cost since ``before``."""

    def completed(found: Analysis) -> Analysis:
        if not any(one.canary_events and one.metric in FAILURES for one in found.findings):
            return found
        now = tally_of(aggregator, route)
        most = max((one for one in found.findings if one.metric in FAILURES), key=lambda one: one.canary_events)
        findings = []
        for one in found.findings:
            said = places(one.metric, before, now, endpoints)
            if one is most:
                said += cost(before, now, found.stable_requests)
            findings.append(_with(one, said))
        return msgspec.structs.replace(found, findings=tuple(findings))

    said = ""
    if look.verdict is Verdict.FAIL and (causes := [name for name in look.causes if name in FAILURES]):
        now = tally_of(aggregator, route)
        said = places(causes[0], before, now, endpoints) + cost(before, now, look.analysis.stable_requests)
    return look.adding(said, completed)


def places(metric: str, before: Tally, now: Tally, endpoints: Endpoints) -> str:
    """At which endpoints requests failed so (rule 2); empty where nothing is to be said."""
    if metric not in FAILURES:
        return ""
    canary = _at_endpoints(_since(before.canary, now.canary, metric), endpoints.canary)
    stable = _at_endpoints(_since(before.stable, now.stable, metric), endpoints.stable, only_one=True)
    return (f"; the canary's: {canary}" if canary else "") + (f"; stable's: {stable}" if stable else "")


def cost(before: Tally, now: Tally, stable_requests: int) -> str:
    """What the canary's failures cost (rule 3); empty where there was nothing to rescue."""
    rescued = now.rescued - before.rescued
    refused = {reason: more for reason, n in now.refused.items() if (more := n - before.refused.get(reason, 0)) > 0}
    if rescued <= 0 and not refused:
        return ""
    said = ""
    if rescued > 0:
        load = f" ({percent(rescued / stable_requests, 2)} more requests for it)" if stable_requests else ""
        said = f"; stable answered {rescued:,} of the canary's failures in its place{load}"
    if refused:
        reasons = ", ".join(f"{n:,} {reason.replace('_', ' ')}" for reason, n in sorted(refused.items()))
        said += f"; {counted(sum(refused.values()), 'failure')} reached clients ({reasons})"
    return said


def _since(before: FailuresByEndpoint, now: FailuresByEndpoint, metric: str) -> dict[str, int]:
    new = {url: classes.get(metric, 0) - before.get(url, {}).get(metric, 0) for url, classes in now.items()}
    return {url: n for url, n in new.items() if n > 0}


def _at_endpoints(failures: Mapping[str, int], endpoints: int, *, only_one: bool = False) -> str:
    if endpoints < 2 or not failures:
        return ""
    total = sum(failures.values())
    worst = max(failures, key=lambda url: failures[url])
    if _by_no_chance(failures[worst], total, endpoints):
        return f"{failures[worst]:,} of {counted(total, 'failure')} at {worst}, one of {endpoints} endpoints"
    return "" if only_one else f"{counted(total, 'failure')} at {len(failures)} of {endpoints} endpoints"


def _by_no_chance(most: int, total: int, endpoints: int) -> bool:
    """Whether chance would hardly put so many at one endpoint (Chernoff's bound, for any of them)."""
    share = 1.0 / endpoints
    if most <= share * total:
        return False
    return math.log(endpoints) - total * divergence(clip(most / total), share) <= math.log(CHANCE)


def _with(finding: Finding, said: str) -> Finding:
    if not said or not finding.canary_events:
        return finding
    return msgspec.structs.replace(finding, reason=finding.reason + said)

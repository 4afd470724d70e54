"""What a metric found, in numbers: everything that a sentence about it needs (show/sentences.py makes it).

A *claim* is what is tested, as numbers. Each has its words in show/sentences.py; a metric that makes none of these is
described in general words.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from gateway.core.analysis.bursts.past import Weather
from gateway.core.analysis.spec import Worse
from gateway.core.analysis.types import Verdict


class Share(NamedTuple):
    """So many events among so many trials."""

    events: int = 0
    trials: int = 0


class Moments(NamedTuple):
    """So many values, their mean and their variance."""

    values: int = 0
    mean: float = 0.0
    variance: float = 0.0

    @property
    def error2(self) -> float:
        """The square of the mean's standard error."""
        return self.variance / self.values


class Needed(NamedTuple):
    """The logarithms of E at which a metric convicts by itself, and at which it is proven."""

    bad: float
    ok: float


class RateClaim(msgspec.Struct, frozen=True):
    """The canary's rate against stable's. ``per_request``: each trial is evidence by itself, so proof has a price.

    ``believed``: how much of a nat for PASS counts where failures come in bursts.
    """

    worse: Worse
    tolerance_ratio: float
    tolerance_delta: float
    margin_ratio: float
    margin_delta: float
    per_request: bool = True
    believed: float = 1.0


class Warming(NamedTuple):
    """How far the canary's warm-up has come: time and answers of those it needs, its limit, whether latency falls."""

    lasted_s: float
    needed_s: float
    requests: int
    requests_needed: int
    most_s: float
    falling: bool


class MeanClaim(msgspec.Struct, frozen=True):
    """The canary's mean of a value against stable's. Deltas are in its own unit; it is clipped to ``bounds``."""

    worse: Worse
    tolerance_ratio: float
    tolerance_delta: float
    margin_ratio: float
    margin_delta: float
    bounds: tuple[float, float]


class LatencyClaim(msgspec.Struct, frozen=True):
    """The canary's share of slow requests against stable's, at one threshold, in slices of ``slice_s``.

    ``quantile`` is None for the objective ``slo_us``. ``past`` of ``past_needed`` requests of stable have set
    thresholds, ``stable_seen`` and ``canary_seen`` are all latencies so far, ``..._left`` how many clients had left
    before the end of one. ``minor_below``: so few requests have it that it holds nothing up in mode ``auto``; the share
    below which that is so. ``warming``: the canary's are no evidence yet.
    """

    slices: int
    slice_s: float
    quantile: float | None
    slo_us: int | None
    tolerance_ratio: float
    tolerance_us: int
    margin_ratio: float
    margin_us: int
    margin_delta: float
    past: int
    past_needed: int
    stable_seen: dict[int, int]
    canary_seen: dict[int, int]
    stable_left: int
    canary_left: int
    minor_below: float | None = None
    warming: Warming | None = None


class LimitClaim(msgspec.Struct, frozen=True):
    """The canary's rate against an absolute limit; ``of`` is the metric, ``threshold_us`` what is slow of a latency."""

    of: str
    limit: float
    threshold_us: int | None


class SplitClaim(msgspec.Struct, frozen=True):
    """The canary's share of the assigned requests against what its weights would give it."""

    expected: float


class ReturningClaim(msgspec.Struct, frozen=True):
    """The share of returning sessions that failed, of the canary against stable's."""


class MissingClaim(msgspec.Struct, frozen=True):
    """The canary's requests without an outcome that stable's do not let expect: ``beyond`` in all.

    ``recent`` of them have gone missing since ``recent_assigned`` requests, about ``window_s`` ago; ``held``: if they
    failed, that would be more than ``margin``.
    """

    beyond: float
    recent: float
    recent_assigned: int
    window_s: float
    margin: float
    held: bool


Claim = RateClaim | MeanClaim | LatencyClaim | LimitClaim | SplitClaim | ReturningClaim | MissingClaim


class MetricFinding(msgspec.Struct, frozen=True):
    """One metric's finding.

    ``units`` is what evidence comes in, as people call it: requests, sessions, trials, slices. ``unjudged`` says why
    there is nothing to compare. ``rated``: stable's and the canary's rates (or means) as they can be compared, where
    requests came under several weights (show/strata.py). ``immaterial``: what was seen does not matter
    (materiality.py). ``weather`` is what was known of stable's bad moments, of metrics for which that is kept, and
    ``burst_s`` how long the failures last that count as about one; ``excused_s`` how long a bad moment may last that is
    no evidence (0: it is not learnt). ``details`` are further numbers for programs that read findings.
    """

    metric: str
    verdict: Verdict
    decides: bool
    log_e_bad: float
    log_e_ok: float
    needed: Needed
    stable: Share = Share()
    canary: Share = Share()
    units: str = "trials"
    claim: Claim | None = None
    unjudged: str = ""
    rated: tuple[float, float] | None = None
    immaterial: bool = False
    weather: Weather | None = None
    burst_s: float = 0.0
    excused_s: float = 0.0
    details: dict[str, float] = {}


class Traffic(NamedTuple):
    """The canary's share of requests under the weight in force, its requests per second, and all that it has had."""

    weight: float
    canary_per_s: float
    canary_requests: int

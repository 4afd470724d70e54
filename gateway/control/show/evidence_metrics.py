"""The metrics of analyses: verdicts, evidence and what it has to reach, and how large the differences are.

Rules:

1. Evidence is shown twice: as the logarithm of an e-value, which grows steadily, and as a probability, which people
   read.
2. A test that rejects at an e-value of E errs with a probability of at most 1/E, whenever it is looked at (Ville's
   inequality). So 1/E is shown: "if the canary were not worse, evidence like this would come up at most so often".
3. An analysis that refused its evidence claims nothing, and has no series.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from prometheus_client.metrics_core import Metric

from gateway.control.show.families import counter, finite, gauge
from gateway.control.views import RolloutView, RouteView
from gateway.core.analysis.types import Analysis, Verdict
from gateway.core.types import Variant

# A bound's label, and what ends the name of its number among a finding's details.
_BOUNDS: Final = (("low", "_low"), ("estimate", ""), ("high", "_high"))
_PERCENTILES: Final = (50.0, 95.0, 99.0)


def verdict_metrics(counts: Mapping[tuple[str, str], int], routes: Iterable[RouteView]) -> Iterator[Metric]:
    """How often each verdict was reached."""
    known = {(route.name, verdict.value): 0 for route in routes for verdict in Verdict}
    yield counter(
        "gateway_verdicts_total",
        "Analyses by the verdict they ended in.",
        ("route", "verdict"),
        sorted({**known, **counts}.items()),
    )


def evidence_metrics(newest: Mapping[str, RolloutView | None]) -> Iterator[Metric]:
    """What the analysis of each route's newest rollout says."""
    analyses = {
        name: rollout.analysis
        for name, rollout in newest.items()
        # An analysis that refused its evidence claims nothing, so it has no numbers either.
        if rollout is not None and rollout.analysis is not None and rollout.analysis.verdict is not Verdict.ERROR
    }
    yield gauge(
        "gateway_evidence_log",
        "Natural logarithm of one metric's e-value: bad against 'not worse', ok against 'worse by the margin'.",
        ("route", "metric", "test"),
        finite(
            ((name, f.metric, test), log_e)
            for name, analysis in analyses.items()
            for f in analysis.findings
            for test, log_e in (("bad", f.log_e_bad), ("ok", f.log_e_ok))
        ),
    )
    yield gauge(
        "gateway_evidence_joint_log",
        "The evidence that decides: bad of all deciding metrics together, ok of the metric with the least.",
        ("route", "test"),
        finite(((name, test), log_e) for name, a in analyses.items() for test, log_e in _joint(a)),
    )
    yield gauge(
        "gateway_evidence_needed_log",
        "Where the joint evidence decides: bad rolls back, ok lets the rollout advance.",
        ("route", "test"),
        finite(
            ((name, test), needed)
            for name, a in analyses.items()
            for test, needed in (("bad", a.log_e_bad_needed), ("ok", a.log_e_ok_needed))
        ),
    )
    yield gauge(
        "gateway_finding_ratio",
        "Share of requests with the metric's event in the evidence of the newest rollout.",
        ("route", "metric", "variant"),
        (
            ((name, f.metric, variant.label), rate)
            for name, analysis in analyses.items()
            for f in analysis.findings
            for variant, rate in ((Variant.STABLE, f.stable_rate), (Variant.CANARY, f.canary_rate))
            if rate is not None
        ),
    )

    yield from _probabilities(analyses)
    yield from _effects(analyses)


def _probabilities(analyses: Mapping[str, Analysis]) -> Iterator[Metric]:
    """Evidence on the scale of probabilities (rule 2)."""
    yield gauge(
        "gateway_evidence_probability",
        "At most this is the probability of such evidence if the test's hypothesis were true, by metric.",
        ("route", "metric", "test"),
        (
            ((name, f.metric, test), _probability(log_e))
            for name, analysis in analyses.items()
            for f in analysis.findings
            for test, log_e in (("bad", f.log_e_bad), ("ok", f.log_e_ok))
            if not math.isnan(log_e)
        ),
    )
    yield gauge(
        "gateway_evidence_joint_probability",
        "The same of the evidence that decides: bad of all deciding metrics together, ok of the metric with the least.",
        ("route", "test"),
        (
            ((name, test), _probability(log_e))
            for name, analysis in analyses.items()
            for test, log_e in _joint(analysis)
            if not math.isnan(log_e)
        ),
    )
    yield gauge(
        "gateway_evidence_needed_probability",
        "At or below this probability the joint evidence decides: bad rolls back, ok lets the rollout advance.",
        ("route", "test"),
        (
            ((name, test), _probability(needed))
            for name, a in analyses.items()
            for test, needed in (("bad", a.log_e_bad_needed), ("ok", a.log_e_ok_needed))
            if not math.isnan(needed)
        ),
    )


def _probability(log_e: float) -> float:
    """1/E, at most 1.

    >>> _probability(-3.0), round(_probability(math.log(200.0)), 6), _probability(math.inf)
    (1.0, 0.005, 0.0)
    """
    return math.exp(-max(log_e, 0.0))


def _effects(analyses: Mapping[str, Analysis]) -> Iterator[Metric]:
    """How large the differences are, with the bounds that hold at every moment together (core/analysis/show)."""
    for name, key, text in (
        (
            "gateway_effect_difference",
            "difference",
            "Canary's share of the metric's event minus stable's: the estimate and its 95 % bounds.",
        ),
        (
            "gateway_effect_ratio",
            "ratio",
            "Canary's share of the metric's event divided by stable's: the estimate and its 95 % bounds.",
        ),
    ):
        yield gauge(
            name,
            text,
            ("route", "metric", "bound"),
            finite(
                ((route, f.metric, bound), f.details[key + suffix])
                for route, analysis in analyses.items()
                for f in analysis.findings
                for bound, suffix in _BOUNDS
                if key + suffix in f.details
            ),
        )
    yield gauge(
        "gateway_latency_quantile_seconds",
        "Quantiles of each latency in the rollout's evidence: the estimate and its 95 % bounds.",
        ("route", "metric", "variant", "percentile", "bound"),
        finite(
            ((route, f.metric, variant.label, f"{q:g}", bound), f.details[key] / 1e6)
            for route, analysis in analyses.items()
            for f in analysis.findings
            for variant in Variant
            for q in _PERCENTILES
            for bound, suffix in _BOUNDS
            if (key := f"{variant.label}_p{q:g}_us{suffix}") in f.details
        ),
    )
    yield gauge(
        "gateway_latency_difference_seconds",
        "Canary's quantile of a latency minus stable's: the estimate and its 95 % bounds.",
        ("route", "metric", "percentile", "bound"),
        finite(
            ((route, f.metric, f"{q:g}", bound), f.details[key] / 1e6)
            for route, analysis in analyses.items()
            for f in analysis.findings
            for q in _PERCENTILES
            for bound, suffix in _BOUNDS
            if (key := f"p{q:g}_difference_us{suffix}") in f.details
        ),
    )


def _joint(analysis: Analysis) -> Iterator[tuple[str, float]]:
    yield "bad", analysis.log_e_bad
    yield "ok", min((f.log_e_ok for f in analysis.findings if f.must_pass), default=math.nan)

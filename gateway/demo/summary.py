"""The end of the story: one JSON object for machines, a page for people."""

from __future__ import annotations

import textwrap

import msgspec

from gateway.demo.replay import Report, VariantReport
from gateway.demo.scenarios import SCENARIOS, as_expected
from gateway.demo.story import Story


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds, over the whole run; None without an answer."""

    p50_ms: float | None
    p95_ms: float | None


class Summary(msgspec.Struct, frozen=True, tag_field="event", tag="summary"):
    """What came of a demo. ``canary_requests`` are those that the decision rests on.

    ``decision_s`` counts from the first canary request to the decision, ``duration_s`` from the command's start.
    ``rescued`` requests were failed by the canary and answered by stable.
    """

    scenario: str
    seed: int
    phase: str
    reason: str
    metrics: tuple[str, ...]
    as_expected: bool
    requests_total: int
    requests_failed_seen_by_users: int
    failures: dict[str, int]
    rescued: int
    canary_requests: int
    canary_percent: float
    decision_s: float | None
    accuracy: dict[str, float | None]
    latency: dict[str, Latency]
    duration_s: float


def summarise(story: Story, report: Report, duration_s: float) -> Summary:
    """The summary of a story that has come to its decision."""
    decision = story.decision
    assert decision is not None
    seen = {name: variant for name, variant in report.variants.items() if variant.requests or name != "none"}
    return Summary(
        scenario=story.scenario.name,
        seed=story.seed,
        phase=decision.phase,
        reason=decision.reason,
        metrics=decision.metrics,
        as_expected=as_expected(story.scenario, decision.phase, decision.metrics),
        requests_total=report.requests,
        requests_failed_seen_by_users=report.failed,
        failures=report.failures,
        rescued=story.rescued,
        canary_requests=decision.canary_requests,
        canary_percent=story.canary_percent,
        decision_s=None if story.decision_s is None else round(story.decision_s, 3),
        accuracy={name: _rounded(variant.accuracy, 4) for name, variant in seen.items()},
        latency={name: _latency(variant) for name, variant in seen.items()},
        duration_s=round(duration_s, 3),
    )


def page(summary: Summary, width: int) -> str:
    """The summary in plain text for a person who sees a canary rollout for the first time."""
    lines = [_headline(summary), ""]
    for paragraph in (_why(summary), _users(summary), _models(summary)):
        lines += textwrap.wrap(paragraph, min(width, 100) - 2)
    others = " | ".join(name for name in SCENARIOS if name != summary.scenario)
    lines += [
        "",
        f"The same inputs and faults again: gateway demo --scenario {summary.scenario} --seed {summary.seed}",
        f"Other stories:                    gateway demo --scenario {others}",
    ]
    return "\n".join(lines)


_HEADLINES = {
    "PROMOTED": "PROMOTED: the new model has taken over",
    "ROLLED_BACK": "ROLLED BACK: the old model serves alone again",
    "PAUSED": "HELD: the evidence did not suffice in time; a person may decide",
}


def _headline(summary: Summary) -> str:
    decided = "" if summary.decision_s is None else f", {summary.decision_s:.1f} s after the first canary request"
    return f"{_HEADLINES.get(summary.phase, summary.phase)}{decided}."


def _why(summary: Summary) -> str:
    unexpected = "" if summary.as_expected else " This is not what the scenario promises."
    return f"Why: {summary.reason}.{unexpected}"


def _users(summary: Summary) -> str:
    failed = summary.requests_failed_seen_by_users
    seen = "none of them failed" if not failed else f"{failed} FAILED ({_kinds(summary.failures)})"
    text = (
        f"Users: {summary.requests_total:,} requests, {seen}. The canary was given {summary.canary_requests:,} of them"
    )
    if summary.phase == "PROMOTED":
        text += " before the decision"
    if summary.rescued:
        return f"{text}; {summary.rescued:,} that it failed were answered by stable in the same exchange (rescued)."
    return f"{text} and failed none."


def _kinds(failures: dict[str, int]) -> str:
    return ", ".join(f"{kind}: {count}" for kind, count in failures.items())


def _models(summary: Summary) -> str:
    parts = []
    for name in ("stable", "canary"):
        accuracy, latency = summary.accuracy.get(name), summary.latency[name]
        if accuracy is None or latency.p50_ms is None or latency.p95_ms is None:
            parts.append(f"{name} answered nothing")
        else:
            parts.append(
                f"{name} had {100 * accuracy:.1f} % of the digits right,"
                f" in {latency.p50_ms:.1f} ms (median), {latency.p95_ms:.1f} ms (95th percentile)"
            )
    return f"Models: {'; '.join(parts)}."


def _latency(variant: VariantReport) -> Latency:
    return Latency(_rounded(variant.p50_ms), _rounded(variant.p95_ms))


def _rounded(value: float | None, digits: int = 2) -> float | None:
    return None if value is None else round(value, digits)

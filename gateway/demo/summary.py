"""The summary at the end: one JSON object for machines, a page for people."""

from __future__ import annotations

import textwrap

import msgspec

from gateway.core.numbers import percent
from gateway.demo.client.report import ClientReport, VariantReport
from gateway.demo.progress import DemoDecision, DemoProgress
from gateway.demo.scenarios import LLM_SCENARIOS, SCENARIOS, Scenario, as_expected, preventable


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds, over the whole run; None without an answer."""

    p50_ms: float | None
    p95_ms: float | None


class Summary(msgspec.Struct, frozen=True, tag_field="event", tag="summary"):
    """What came of a demo. ``canary_requests`` were given to the canary until the decision, those in flight included.

    ``decision_s`` counts from the first canary request to the decision, ``decision_after_kill_s`` from the moment in
    which the scenario killed the canary (None where it does not), ``duration_s`` from the demo's start.
    ``rescued`` requests were failed by the canary and answered by stable. ``failures_preventable`` are those that users
    saw although their answer had not begun: a rescue could have prevented them. ``options`` repeat the demo.
    """

    scenario: str
    llm: bool
    seed: int
    phase: str
    reason: str
    metrics: tuple[str, ...]
    as_expected: bool
    requests_total: int
    requests_failed_seen_by_users: int
    failures_preventable: int
    failures: dict[str, int]
    rescued: int
    canary_requests: int
    canary_percent: float
    decision_s: float | None
    decision_after_kill_s: float | None
    accuracy: dict[str, float | None]
    latency: dict[str, Latency]
    duration_s: float
    options: str = ""


def summarise(progress: DemoProgress, report: ClientReport, duration_s: float) -> Summary:
    """The summary of a demo that has come to its decision."""
    decision = progress.decision
    assert decision is not None
    seen = {name: variant for name, variant in report.variants.items() if variant.requests or name != "none"}
    return Summary(
        scenario=progress.scenario.name,
        llm=progress.scenario.llm,
        seed=progress.seed,
        phase=decision.phase,
        reason=decision.reason,
        metrics=decision.metrics,
        as_expected=as_expected(progress.scenario, decision.phase, decision.metrics),
        requests_total=report.requests,
        requests_failed_seen_by_users=report.failed,
        failures_preventable=preventable(progress.scenario, report.failures),
        failures=report.failures,
        rescued=progress.rescued,
        canary_requests=_canary_requests(decision, report),
        canary_percent=progress.canary_percent,
        decision_s=None if progress.decision_s is None else round(progress.decision_s, 3),
        decision_after_kill_s=None if progress.killed_s is None else round(decision.at_s - progress.killed_s, 3),
        accuracy={name: _rounded(variant.accuracy, 4) for name, variant in seen.items()},
        latency={name: _latency(variant) for name, variant in seen.items()},
        duration_s=round(duration_s, 3),
        options=_options(progress.scenario),
    )


def _options(scenario: Scenario) -> str:
    kind = "--llm " if scenario.llm else ""
    return f"{kind}--scenario {scenario.name}" + (" --mirror" if scenario.mirror else "")


def _canary_requests(decision: DemoDecision, report: ClientReport) -> int:
    if decision.phase != "ROLLED_BACK":
        return decision.canary_requests
    # The decision rests on what was answered or timed out; the client knows what was still in flight, and nothing more
    # went to the canary after a rollback.
    given = report.variants["canary"].requests + report.variants["rescued"].requests
    return max(given, decision.canary_requests)


def page(summary: Summary, width: int) -> str:
    """The summary in plain text for a person who sees a canary rollout for the first time."""
    lines = [_headline(summary), ""]
    for paragraph in (_why(summary), _users(summary), _models(summary)):
        lines += textwrap.wrap(paragraph, min(width, 100) - 2)
    lines += [
        "",
        f"To repeat it, same inputs and faults: gateway demo {summary.options} --seed {summary.seed}",
    ]
    all_of_them = LLM_SCENARIOS if summary.llm else SCENARIOS
    others = ", ".join(name for name in all_of_them if name != summary.scenario)
    lines += textwrap.wrap(f"Other scenarios: {others}", min(width, 100), break_on_hyphens=False)
    return "\n".join(lines)


_HEADLINES = {
    "PROMOTED": ("PROMOTED", "the new model has taken over"),
    "ROLLED_BACK": ("ROLLED BACK", "stable serves alone again"),
    "PAUSED": ("HELD", "no proof either way; a person may decide"),
}


def _headline(summary: Summary) -> str:
    what, means = _HEADLINES.get(summary.phase, (summary.phase, "see the reason"))
    after = "" if summary.decision_s is None else f" {summary.decision_s:.1f} s after the first canary request"
    return f"{what}{after}: {means}."


def _why(summary: Summary) -> str:
    unexpected = "" if summary.as_expected else " This is not what the scenario promises."
    return f"Why: {summary.reason}.{unexpected}"


def _users(summary: Summary) -> str:
    failed = summary.requests_failed_seen_by_users
    seen = "none of them failed" if not failed else f"{failed} FAILED ({_kinds(summary.failures)})"
    if failed and not summary.failures_preventable:
        seen = f"{failed} failed after their answer had begun ({_kinds(summary.failures)}), which nothing can take back"
    if summary.phase == "ROLLED_BACK" and not summary.rescued and "--mirror" in summary.options:
        copies = f"The canary was sent copies of {summary.canary_requests:,} of them"
        return f"Users: {summary.requests_total:,} requests, {seen}. {copies}, and no user got its answers."
    text = (
        f"Users: {summary.requests_total:,} requests, {seen}. The canary was given {summary.canary_requests:,} of them"
    )
    if summary.phase == "PROMOTED":
        text += " before the decision"
    if summary.rescued:
        return f"{text}; {summary.rescued:,} that it failed were answered by stable in the same exchange (rescued)."
    return f"{text} and failed none." if not failed else f"{text}."


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
                f"{name} had {percent(accuracy)} of the {'texts whole' if summary.llm else 'digits right'},"
                f" in {latency.p50_ms:.1f} ms (median), {latency.p95_ms:.1f} ms (95th percentile)"
            )
    return f"Models: {'; '.join(parts)}."


def _latency(variant: VariantReport) -> Latency:
    return Latency(_rounded(variant.p50_ms), _rounded(variant.p95_ms))


def _rounded(value: float | None, digits: int = 2) -> float | None:
    return None if value is None else round(value, digits)

"""The report as a page of its own: no script, nothing from elsewhere, readable on paper.

Rules:

1. All text goes through `element`, which escapes it; what comes from outside is cut to a length, so that no name, no
   reason and no number of decisions makes the page larger than about 300 KB.
2. The page carries its own Content-Security-Policy with the hash of its style sheet, so that nothing in it would run
   even if rule 1 failed. On the admin listener the same policy is a header (`HEADERS`).
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from types import MappingProxyType

from gateway import __version__
from gateway.control.views import DecisionView, MetricSeries
from gateway.core.analysis.types import Finding
from gateway.core.numbers import counted, duration, milliseconds, percent
from gateway.core.rollout.types import Step
from gateway.report import svg, words
from gateway.report.facts import EffectBand, ReportFacts, effect_of
from gateway.report.markup import Markup, clipped, element, joined

NAME_MAX, REASON_MAX = 80, 300
_FINDINGS_MAX, _CHARTS_MAX = 40, 3
_DECISIONS_FIRST, _DECISIONS_LAST = 15, 60
_LOG_MAX = math.log(1e9)
_PREDICTED = ("class_", "over_p", "low_confidence")
_STYLE = resources.files("gateway.report").joinpath("report.css").read_text("utf-8").strip()
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'"
HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "content-security-policy": f"{_POLICY}; frame-ancestors 'none'; sandbox",
        "referrer-policy": "no-referrer",
        "x-frame-options": "DENY",
    }
)
_TONES = {"PROMOTED": "good", "ROLLED_BACK": "bad", "RETURNING": "bad", "PAUSED": "held", "WAITING": "held"}


def html(facts: ReportFacts) -> str:
    """The whole page."""
    rollout = facts.rollout
    title = clipped(words.headline(rollout), 3 * NAME_MAX)
    body = element(
        "body",
        element("section", *_verdict(facts, title), class_=f"verdict {_TONES.get(rollout.phase, '')}"),
        element("ul", *(element("li", clipped(one, 200)) for one in words.numbers_that_matter(facts)), class_="matter"),
        _facts(facts),
        _charts(facts),
        _findings(facts),
        _plan(facts),
        _decisions(facts.decisions),
        element("h2", "What this rests on"),
        element("ul", *(element("li", one) for one in words.assumptions(facts))),
        element(
            "p", f"Written by canary-gateway {__version__} from its journal, for rollout {rollout.id}.", class_="foot"
        ),
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(_STYLE)),
    )
    return f"<!doctype html>{element('html', head, body, lang='en')}\n"


def _verdict(facts: ReportFacts, title: str) -> list[Markup]:
    said = [element("h1", title), element("p", clipped(facts.rollout.reason, 4 * REASON_MAX) + ".")]
    if facts.rollout.waiting_for:
        said.append(element("p", f"Waiting for: {clipped(facts.rollout.waiting_for, REASON_MAX)}."))
    return said + [element("p", clipped(one, REASON_MAX), class_="held") for one in facts.rollout.warnings[:5]]


def _facts(facts: ReportFacts) -> Markup:
    rollout = facts.rollout
    rows = [
        ("Route", rollout.route),
        ("Stable", rollout.stable or "nothing yet"),
        ("Canary", rollout.canary),
        ("Began", _time(rollout.started_at)),
        ("Last decision", f"{_time(rollout.updated_at)}, after {duration(facts.took_s)}, by {rollout.by}"),
        ("Canary's share now", f"{rollout.canary_percent:g} %"),
    ]
    cells = (element("tr", element("th", name), element("td", clipped(value, 3 * NAME_MAX))) for name, value in rows)
    return element("table", element("tbody", *cells))


# --- charts ---


def _charts(facts: ReportFacts) -> Markup:
    drawn = facts.drawn
    metrics = _worth_drawing(facts)
    found = [chart for metric in metrics for chart in _paths(facts, metric)]
    found += [_weights(facts), _latencies(facts)]
    shown = [one for one in (svg.draw(chart) for chart in found if chart is not None) if one]
    if not shown:
        return Markup()
    key = element(
        "p",
        element("i", class_="stable"),
        clipped(facts.rollout.stable or "stable", NAME_MAX),
        element("i", class_="canary"),
        clipped(facts.rollout.canary, NAME_MAX),
        class_="key",
    )
    since = "" if len(drawn.at) < 2 else f"From {_clock(drawn.at[0])} to {_clock(drawn.at[-1])} UTC."
    return joined(
        element("h2", "The evidence over time"),
        element("p", since, class_="dim"),
        key,
        element("div", *shown, class_="charts"),
    )


def _worth_drawing(facts: ReportFacts) -> list[MetricSeries]:
    """What decided; else what was nearest to a verdict, what the models predict last."""
    by_name = {one.metric: one for one in facts.drawn.metrics}
    causes = [by_name[name] for name in facts.rollout.causes if name in by_name]
    deciding = [one for one in facts.findings if one.decides and one.metric in by_name]
    deciding.sort(key=lambda one: (one.metric.startswith(_PREDICTED), -one.log_e_bad))
    return (causes or [by_name[one.metric] for one in deciding] or list(by_name.values()))[:_CHARTS_MAX]


def _paths(facts: ReportFacts, metric: MetricSeries) -> list[svg.Chart | None]:
    drawn, name = facts.drawn, clipped(metric.metric.replace("_", " "), NAME_MAX)
    finding = next((one for one in facts.findings if one.metric == metric.metric), None)
    cause = metric.metric in facts.rollout.causes
    factor, unit = (0.001, "ms") if metric.unit == "us" else (100.0, "pts")
    effect, low, high = (
        tuple(None if value is None else value * factor for value in column)
        for column in (metric.effect, metric.low, metric.high)
    )
    levels = [svg.Level(0.0, "zero")]
    for margins in (metric.margin_high, metric.margin_low):
        margin = next((value for value in reversed(margins) if value is not None), None)
        if margin is not None:
            levels.append(svg.Level(margin * factor, "held", f"margin {margin * factor:+.3g} {unit}"))
    details = {} if finding is None else finding.details
    limits = [
        svg.Level(math.exp(min(details[key], _LOG_MAX)), kind, f"{text} at {words.odds(details[key])}")
        for key, kind, text in (("log_e_bad_needed", "bad", "rolled back"), ("log_e_ok_needed", "good", "proven"))
        if key in details
    ]
    of_p95 = " (p95)" if metric.unit == "us" else ""
    return [
        svg.Chart(
            f"Effect on {name}{of_p95}: canary minus stable, with its 95 % band",
            drawn.at,
            [svg.ChartLine(effect, "bad" if cause else "")],
            lambda value: f"{value:.3g} {unit}",
            _clock,
            band=(low, high),
            levels=levels,
            marks=_marks(facts),
        ),
        svg.Chart(
            f"Odds on {name}: that it is worse (solid), that it is good enough (dashed)",
            drawn.at,
            [
                svg.ChartLine(_odds(metric.log_e_bad), "bad" if cause else ""),
                svg.ChartLine(_odds(metric.log_e_ok), "good"),
            ],
            lambda value: "even" if value < 1.05 else words.odds(math.log(value)),
            _clock,
            levels=limits,
            marks=_marks(facts),
            log_y=True,
        ),
    ]


def _odds(column: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else math.exp(min(max(value, math.log(0.6)), _LOG_MAX)) for value in column]


def _weights(facts: ReportFacts) -> svg.Chart | None:
    known = facts.decisions
    if len(known) < 2:
        return None
    at = [datetime.fromisoformat(one.at).timestamp() for one in known]
    weights = [one.canary_percent for one in known]
    return svg.Chart(
        "The canary's share of requests",
        at,
        [svg.ChartLine(weights, "canary", steps=True)],
        lambda value: f"{value:g} %",
        _clock,
        marks=_marks(facts),
        floor=0.0,
    )


def _latencies(facts: ReportFacts) -> svg.Chart | None:
    seen = facts.latencies
    if not seen.edges_us or not sum(seen.stable) or not sum(seen.canary):
        return None
    shares = [[count / sum(counts) for count in counts] for counts in (seen.stable, seen.canary)]
    return svg.Chart(
        "Latency: share of requests",
        [max(edge, 1) / 1000 for edge in seen.edges_us],
        [svg.ChartLine(shares[0], "stable", steps=True), svg.ChartLine(shares[1], "canary", steps=True)],
        lambda value: percent(value, 2),
        lambda ms: milliseconds(1000 * float(f"{ms:.3g}")),
        log_x=True,
        floor=0.0,
    )


def _marks(facts: ReportFacts) -> list[svg.ChartMark]:
    chosen = _some(facts.decisions)[0]
    return [
        svg.ChartMark(
            datetime.fromisoformat(one.at).timestamp(),
            {"bad": "bad", "good": "good"}.get(_TONES.get(one.phase, ""), ""),
            clipped(f"{one.phase_before} to {one.phase}: {one.reason}", NAME_MAX),
        )
        for one in chosen
    ]


# --- tables ---


def _findings(facts: ReportFacts) -> Markup:
    causes = facts.rollout.causes
    judged = [one for one in facts.findings if one.stable_trials or one.canary_trials]
    seen = [one for one in judged if one.metric in causes or one.stable_events + one.canary_events]
    seen.sort(key=lambda one: (one.metric not in causes, not one.decides, one.metric.startswith(_PREDICTED)))
    if not judged:
        return Markup()
    columns = ("Metric", "Verdict", "Stable", "Canary", "Effect, 95 % band", "Odds if healthy")
    rows = [_finding(one, causes) for one in seen[:_FINDINGS_MAX]]
    notes = []
    if len(seen) > _FINDINGS_MAX:
        notes.append(f"{len(seen) - _FINDINGS_MAX} more metrics are left out here.")
    if quiet := [one.metric.replace("_", " ") for one in judged if one not in seen]:
        names = clipped(", ".join(quiet), REASON_MAX)
        notes.append(f"{counted(len(quiet), 'metric')} had no event in either version: {names}.")
    note = (element("p", one, class_="dim") for one in notes)
    return joined(element("h2", "Both versions, metric by metric"), _table(columns, rows), *note)


def _finding(one: Finding, causes: tuple[str, ...]) -> Markup:
    band: EffectBand | None = effect_of(one)
    name = clipped(one.metric.replace("_", " "), NAME_MAX) + ("" if one.decides else " (advises)")
    return element(
        "tr",
        element("th", name),
        element("td", words.verdict_word(one, causes)),
        element("td", _share(one.stable_events, one.stable_trials), class_="num"),
        element("td", _share(one.canary_events, one.canary_trials), class_="num"),
        element("td", words.effect_text(band), class_="num"),
        element("td", words.odds(one.log_e_bad)),
        class_="cause" if one.metric in causes else None,
    )


def _share(events: int, trials: int) -> str:
    return f"{events:,} of {trials:,} ({percent(events / trials)})" if trials else "-"


def _plan(facts: ReportFacts) -> Markup:
    plan = facts.rollout.plan
    rows = [_step(number, step) for number, step in enumerate(plan.steps[:50], 1)]
    after = [f"Undecided after {duration(plan.deadline_s)}: {plan.on_deadline}."]
    if plan.bake_s:
        after.append(f"Then watched for {duration(plan.bake_s)} with {plan.bake_holdout_bp / 100:g} % left on stable.")
    if plan.promotion_gate:
        after.append(f"Gate before promotion: {clipped(plan.promotion_gate, NAME_MAX)}.")
    columns = ("Step", "Weight", "At least", "Canary requests", "Gate", "Deadline")
    return joined(element("h2", "Plan"), _table(columns, rows), element("p", " ".join(after), class_="dim"))


def _step(number: int, step: Step) -> Markup:
    deadline = "" if step.deadline_s is None else f"{duration(step.deadline_s)}: {step.on_deadline}"
    cells = (str(number), f"{step.weight_bp / 100:g} %", duration(step.min_time_s), f"{step.min_requests:,}")
    return element(
        "tr",
        *(element("td", cell) for cell in cells),
        element("td", clipped(step.gate, NAME_MAX)),
        element("td", deadline),
    )


def _decisions(decisions: Sequence[DecisionView]) -> Markup:
    shown, left_out = _some(decisions)
    rows = [_decision(one) for one in shown]
    note = element("p", f"{left_out} decisions between are left out here.", class_="dim") if left_out else Markup()
    return joined(element("h2", "Who decided what"), _table(("When (UTC)", "What", "Share", "By", "Why"), rows), note)


def _decision(one: DecisionView) -> Markup:
    what = one.phase if one.phase == one.phase_before else f"{one.phase_before} → {one.phase}"
    share = f"{one.canary_percent:g} %"
    if one.canary_percent != one.canary_percent_before:
        share = f"{one.canary_percent_before:g} → {share}"
    return element(
        "tr",
        element("td", _time(one.at), class_="num"),
        element("td", what.replace("_", " ").lower(), class_=_TONES.get(one.phase)),
        element("td", share, class_="num"),
        element("td", clipped(one.by, NAME_MAX)),
        element("td", clipped(one.reason, REASON_MAX)),
    )


def _some(decisions: Sequence[DecisionView]) -> tuple[list[DecisionView], int]:
    """The first and the last decisions, and how many lie between."""
    left_out = max(0, len(decisions) - _DECISIONS_FIRST - _DECISIONS_LAST)
    if not left_out:
        return list(decisions), 0
    return [*decisions[:_DECISIONS_FIRST], *decisions[-_DECISIONS_LAST:]], left_out


def _table(columns: Sequence[str], rows: Sequence[Markup]) -> Markup:
    head = element("thead", element("tr", *(element("th", column) for column in columns)))
    return element("div", element("table", head, element("tbody", *rows)), class_="wide")


def _time(iso: str) -> str:
    return datetime.fromisoformat(iso).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _clock(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%H:%M:%S")

"""Routes, rollouts and findings as tables for people. Nothing a gateway says can steer the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from gateway.client import AnalysisBody, EndpointView, FindingBody, ModelVersion, RolloutBody, RouteView, one_line
from gateway.core.analysis.types import Verdict
from gateway.core.numbers import compared, counted, duration, e_value
from gateway.core.stats.outcomes import ERRORS, NAMES

PHASE_STYLES: Mapping[str, str] = {
    "PROGRESSING": "cyan",
    "PAUSED": "yellow",
    "PROMOTED": "green",
    "ROLLED_BACK": "red",
    "PASS": "green",
    "FAIL": "bold red",
    "ERROR": "red",
    "NODATA": "yellow",
}
_CLASSES = frozenset(NAMES) - {ERRORS}
# Wide enough for a reason on one line, so that what goes through a pipe is not folded.
_PIPE_COLUMNS = 200


def console() -> Console:
    """Standard output, as wide as the terminal; through a pipe as wide as ``COLUMNS`` says, or wide."""
    wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=_PIPE_COLUMNS if wide else None, highlight=False)


def status_view(
    routes: Sequence[RouteView], rollouts: Sequence[RolloutBody], not_ready: Sequence[str] = ()
) -> RenderableType:
    """All there is to see: why the gateway is not ready, the routes, then each rollout with its evidence."""
    unready = [Text(f"NOT READY: {one_line(reason)}", "bold red") for reason in not_ready]
    warnings = [_line("warning", f"{route.name}: {route.warning}") for route in routes if route.warning]
    exempt = [
        _line("exempt", f"{route.name}: {', '.join(map(str, route.exempt_statuses))} count as 200 does")
        for route in routes
        if route.exempt_statuses
    ]
    rescues = [_line("rescues", _rescues(route)) for route in routes if route.rescued or route.rescues_refused]
    moments = [_line("stable", text) for route in routes if (text := _bad_moments(route))]
    shown = (rollout_view(rollout) for rollout in rollouts)
    return Group(*unready, routes_table(routes, rollouts), *warnings, *exempt, *rescues, *moments, *shown)


def _bad_moments(route: RouteView) -> str:
    """Stable's bad moments, of the classes in which it had any."""
    found = [
        f"{counted(round(one.moments), 'bad moment')} with {one.metric} in {duration(one.known_s)},"
        f" {duration(one.mean_s)} long on average and at most {duration(one.longest_s)}"
        for one in route.bad_moments
        if one.moments >= 0.5
    ]
    return f"{route.name}: {'; '.join(found)}" if found else ""


def _rescues(route: RouteView) -> str:
    refused = ", ".join(f"{reason} {count}" for reason, count in sorted(route.rescues_refused.items()))
    text = f"{route.name}: stable answered {route.rescued} of the canary's failures"
    return f"{text}, and {sum(route.rescues_refused.values())} it did not ({refused})" if refused else text


def routes_table(routes: Iterable[RouteView], rollouts: Iterable[RolloutBody]) -> Table:
    """One row for each route."""
    by_id = {rollout.id: rollout for rollout in rollouts}
    table = _table("route", "stable", "canary", "canary %", "phase", "step", "workers", "endpoints")
    for route in routes:
        rollout = by_id.get(route.rollout_id or "")
        table.add_row(
            _text(route.name),
            _text(route.stable or "-"),
            _text(route.canary or "-"),
            f"{route.canary_percent:g}",
            _text(route.phase),
            f"{rollout.step}/{rollout.steps}" if rollout else "-",
            f"{route.workers_applied}/{route.workers} on table {route.epoch}",
            _endpoints(route.endpoints),
        )
    return table


def rollouts_table(rollouts: Iterable[RolloutBody]) -> Table:
    """One row for each rollout."""
    table = _table("rollout", "route", "phase", "step", "canary %", "started", "reason")
    for rollout in rollouts:
        table.add_row(
            _text(rollout.id),
            _text(rollout.route),
            _text(rollout.phase),
            f"{rollout.step}/{rollout.steps}",
            f"{rollout.canary_percent:g}",
            _text(rollout.started_at),
            _text(rollout.reason),
        )
    return table


def rollout_view(rollout: RolloutBody) -> RenderableType:
    """One rollout: where it is, why, its plan and its evidence."""
    steps = ", ".join(f"{step['percent']:g}" for step in rollout.plan["steps"])
    lines = [
        Text.assemble("\nrollout ", (one_line(rollout.id), "bold"), " on ", one_line(rollout.route), ": ")
        + _text(rollout.phase),
        _line(
            "canary",
            f"{_served(rollout.canary, rollout.model)} {_against(rollout)}, {rollout.canary_percent:g} % of requests",
        ),
        _line(
            "step",
            f"{rollout.step} of {rollout.steps} ({steps} %), {rollout.canary_requests} canary requests"
            if rollout.step
            else f"the mirror step; {rollout.canary_requests} requests met both versions",
        ),
        _line("why", f"{rollout.reason} (by {rollout.by}, {rollout.updated_at})"),
    ]
    lines += [_line("warning", warning) for warning in rollout.warnings]
    if rollout.protocol:
        lines.append(_line("protocol", rollout.protocol))
    if rollout.compared:
        lines.append(_line("answers", rollout.compared))
    if rollout.meanings:
        lines.append(_line("events", ", ".join(f"{name}: {meaning}" for name, meaning in rollout.meanings.items())))
    if rollout.causes:
        lines.append(_line("causes", ", ".join(rollout.causes)))
    if rollout.analysis is None:
        return Group(*lines)
    lines.append(_line("evidence", f"{rollout.analysis.verdict}: {rollout.analysis.reason}"))
    reasons = reasons_table(rollout.analysis)
    quiet = [_line("none", text) for text in _quiet_lines(rollout.analysis)]
    table = findings_table(rollout.analysis)
    return Group(*lines, table, *quiet, *((Text(""), reasons) if reasons.row_count else ()))


def _against(rollout: RolloutBody) -> str:
    if rollout.stable is None:
        return "with nothing to compare it with"
    return f"against {_served(rollout.stable, rollout.stable_model)}"


def _served(backend: str, model: ModelVersion | None) -> str:
    return backend if model is None else f"{backend} (model {model})"


def findings_table(analysis: AnalysisBody) -> Table:
    """One row for each metric that is not quiet: what was seen of both variants, and E of the evidence needed."""
    table = _table("metric", "verdict", "stable", "canary", "points apart (95 %)", "worse: E", "good: E")
    for column in table.columns[:2]:
        column.no_wrap = True
    for finding in analysis.findings:
        if _is_quiet(finding):
            continue
        table.add_row(
            _text(finding.metric if finding.decides else f"{finding.metric} (advises)"),
            _text(finding.verdict),
            _seen(finding, "stable", finding.stable_events, finding.stable_trials),
            _seen(finding, "canary", finding.canary_events, finding.canary_trials),
            points_apart(finding),
            _evidence(finding, finding.log_e_bad, "log_e_bad_needed", analysis.log_e_bad_needed),
            _evidence(finding, finding.log_e_ok, "log_e_ok_needed", analysis.log_e_ok_needed),
        )
    return table


def reasons_table(analysis: AnalysisBody) -> Table:
    """What is not proven good, in a sentence each: below the numbers, where a narrow terminal has room for it."""
    table = _table("metric", "finding")
    for finding in analysis.findings:
        if finding.verdict is not Verdict.PASS and not _is_quiet(finding):
            table.add_row(_text(finding.metric), _text(finding.reason))
    return table


def _is_quiet(finding: FindingBody) -> bool:
    """Whether an outcome class (``errors`` apart) has not occurred in either variant, and has nothing else to say."""
    return (
        finding.metric in _CLASSES
        and not (finding.stable_events or finding.canary_events)
        and finding.verdict in (Verdict.PASS, Verdict.UNDECIDED)
    )


def _quiet_lines(analysis: AnalysisBody) -> Iterator[str]:
    """The quiet classes by name, a line for each verdict."""
    for verdict in (Verdict.PASS, Verdict.UNDECIDED):
        quiet = [finding for finding in analysis.findings if _is_quiet(finding) and finding.verdict is verdict]
        if quiet:
            least = min(quiet, key=lambda finding: finding.log_e_ok or 0.0)
            good = _evidence(least, least.log_e_ok, "log_e_ok_needed", analysis.log_e_ok_needed)
            names = ", ".join(finding.metric for finding in quiet)
            yield f"{names} on either side: {verdict} (good: E {good}{' at least' if len(quiet) > 1 else ''})"


def plain_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table of text."""
    table = _table(*columns)
    for row in rows:
        table.add_row(*map(_text, row))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _text(text: str) -> Text:
    return Text(one_line(text), style=PHASE_STYLES.get(text, ""))


def _line(label: str, text: str) -> Text:
    return Text.assemble((f"  {label:<9}", "dim"), one_line(text))


def _seen(finding: FindingBody, version: str, events: int, trials: int) -> str:
    """A version's rate (or mean) as it can be compared with the other's; the plain share where there is no other."""
    if not trials:
        return "no requests"
    mean, rate = finding.details.get(f"{version}_mean"), finding.details.get(f"{version}_rate")
    if mean is not None:
        return f"{mean:.4g} of {trials:,}"
    return compared(rate, events, trials)


def points_apart(finding: FindingBody) -> str:
    """Canary minus stable in percentage points, with the interval that holds at every moment."""
    low, high = finding.details.get("difference_low"), finding.details.get("difference_high")
    value = finding.details.get("difference")
    if (mean := finding.details.get("mean_difference")) is not None:
        ends = (finding.details.get(f"mean_difference_{end}") for end in ("low", "high"))
        return f"{mean:+.3g} ({' to '.join('-' if end is None else f'{end:+.3g}' for end in ends)})"
    if value is None or low is None or high is None:
        return "-"
    return f"{100 * value:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


def _evidence(finding: FindingBody, log_e: float | None, key: str, overall: float | None) -> str:
    needed = finding.details.get(key, overall)
    return f"{_number(log_e)} of {_number(needed)}"


def _number(log_e: float | None) -> str:
    return "-" if log_e is None else e_value(log_e)


def _endpoints(endpoints: Sequence[EndpointView]) -> Text:
    down = [_down(endpoint) for endpoint in endpoints if endpoint.healthy is False]
    if down:
        return Text(f"{len(endpoints) - len(down)}/{len(endpoints)} up; down: {one_line('; '.join(down))}", "red")
    return Text(f"{len(endpoints)}/{len(endpoints)} up")


def _down(endpoint: EndpointView) -> str:
    why = f" {endpoint.why}" if endpoint.why else ""
    return endpoint.url + why + (", kept in use" if endpoint.kept else "")

"""``gateway watch``: one route on the whole screen, redrawn every second, with its evidence since the start."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from typing import Any

import click
import msgspec
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gateway.cli import gauges, tables
from gateway.cli.gauges import EvidenceHistory
from gateway.cli.names import route_argument
from gateway.cli.options import remote
from gateway.client import ApiError, Client, DecisionView, FindingBody, RolloutBody, RouteView, one_line
from gateway.client.calls import Call
from gateway.core.numbers import percent

INTERVAL_S = 1.0
_LEAVE = frozenset(b"qQ\x03\x04")
_DECISIONS_SHOWN = 8
_LATENCIES = (50, 95, 99)


class Picture(msgspec.Struct, frozen=True):
    """What one look has found."""

    route: RouteView
    rollout: RolloutBody | None
    decisions: tuple[DecisionView, ...] = ()


@click.command()
@route_argument()
@remote
def watch(client: Client, route: str, as_json: bool) -> None:
    """Show ROUTE and its newest rollout on the whole screen, until q or Ctrl-C.

    Needs a terminal. For a file or a program: gateway status --watch --json.
    """
    if as_json or not tables.console().is_terminal:
        raise click.UsageError("watch needs a terminal; for programs there is: gateway status ROUTE --watch --json")
    found, history = _look(client, route, None), EvidenceHistory()
    live = Live(console=tables.console(), screen=True, auto_refresh=False)
    with _keys() as keys:
        try:
            live.start()
            trouble, answered_s = "", time.monotonic()
            while True:
                if found.rollout is not None and not trouble:
                    _note(client, found.rollout, history)
                age_s = time.monotonic() - answered_s
                live.update(_screen(found, history, f"{trouble} ({age_s:.0f} s ago)" if trouble else ""), refresh=True)
                if _pressed(keys, INTERVAL_S):
                    return
                try:
                    found, trouble, answered_s = _look(client, route, found), "", time.monotonic()
                except ApiError as error:
                    trouble = str(error)
        finally:
            live.stop()


def _note(client: Client, rollout: RolloutBody, history: EvidenceHistory) -> None:
    """Take note of a look; of a rollout that was not followed yet, of what was before it."""
    now_s = time.monotonic()
    if not history.knows(rollout):
        try:
            series = client.ask(Call("GET", f"/rollouts/{rollout.id}/series", dict[str, Any]))
        except ApiError:  # the looks from now on will do
            series = {}
        history.begin(rollout, series, now_s)
    history.add(rollout, now_s)


def _screen(found: Picture, history: EvidenceHistory, trouble: str) -> RenderableType:
    console = tables.console()
    return picture(found, history, trouble, console.width, console.height)


def _look(client: Client, name: str, before: Picture | None) -> Picture:
    route = client.route(name)
    if route.rollout_id is None:
        return Picture(route, None)
    rollout = client.rollout(route.rollout_id)
    known = None if before is None else before.rollout
    if before is not None and known is not None and (known.id, known.revision) == (rollout.id, rollout.revision):
        return Picture(route, rollout, before.decisions)
    return Picture(route, rollout, client.explain(rollout.id).decisions)


@contextlib.contextmanager
def _keys() -> Iterator[int | None]:
    """Standard input, where keys can be read one by one; its settings come back at the end."""
    number = sys.stdin.fileno() if sys.stdin.isatty() else None
    if number is None:
        yield None
        return
    settings = termios.tcgetattr(number)
    try:
        tty.setcbreak(number)
        yield number
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, settings)


def _pressed(keys: int | None, wait_s: float) -> bool:
    """Wait; whether a key to leave was pressed meanwhile."""
    until_s = time.monotonic() + wait_s
    while (left_s := until_s - time.monotonic()) > 0:
        if keys is None:
            time.sleep(left_s)
        elif select.select([keys], [], [], left_s)[0]:
            read = os.read(keys, 64)
            if not read or _LEAVE & set(read):
                return True
    return False


# the picture


def picture(found: Picture, history: EvidenceHistory, trouble: str, width: int, height: int) -> RenderableType:
    """The whole screen."""
    route, rollout = found.route, found.rollout
    parts: list[RenderableType] = [_title(route, rollout)]
    if trouble:
        parts.append(Text(f"{one_line(trouble)}: what is shown is older", "red", no_wrap=True, overflow="ellipsis"))
    parts += [gauges.row("warning", text, "yellow") for text in (route.warning,) if text]
    parts.append(gauges.weight_bar(route.canary_percent, width))
    if rollout is None:
        parts.append(Text(f"no rollout yet; start one with: gateway rollout start {one_line(route.name)}", gauges.DIM))
        return Group(*parts)
    parts += [gauges.steps(rollout), gauges.row("why", rollout.waiting_for or rollout.reason)]
    analysis = rollout.analysis
    if analysis is not None:
        parts += [gauges.row("verdict", f"{analysis.verdict}: {analysis.reason}"), Text("")]
        parts += gauges.evidence_rows(analysis, width)
        cells = width - 9
        bad, good = history.columns(cells)
        parts += [
            Text("  worse  ", gauges.DIM).append_text(gauges.sparkline(bad, cells, gauges.BAD)),
            Text("  good   ", gauges.DIM).append_text(gauges.sparkline(good, cells, gauges.GOOD)),
            Text(""),
        ]
        shown = [f for f in analysis.findings if f.stable_events or f.canary_events or f.metric in analysis.causes]
        room = max(3, height - len(parts) - _DECISIONS_SHOWN - 3)
        parts.append(_metrics(shown[:room], analysis.causes))
        parts += [_latencies(finding) for finding in shown if "stable_p50_us" in finding.details][:1]
    parts += [Text(""), *_decisions(found.decisions)]
    parts.append(Text("q leaves", gauges.DIM))
    return Group(*parts)


def _title(route: RouteView, rollout: RolloutBody | None) -> Text:
    line = Text.assemble((one_line(route.name), "bold"), "  ", no_wrap=True, overflow="ellipsis")
    line.append(one_line(route.phase), tables.PHASE_STYLES.get(route.phase, ""))
    line.append(f"  stable {one_line(route.stable or '-')}", gauges.STABLE)
    if route.canary is not None:
        line.append(f"  canary {one_line(route.canary)}", gauges.CANARY)
    if rollout is not None:
        line.append(f"  rollout {one_line(rollout.id)}, {rollout.canary_requests:,} canary requests", gauges.DIM)
    return line


def _metrics(findings: list[FindingBody], causes: tuple[str, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style=gauges.DIM)
    for title in ("metric", "stable", "canary", "points apart (95 %)", "worse", "good"):
        table.add_column(title, no_wrap=True, overflow="ellipsis")
    for finding in findings:
        details = finding.details
        table.add_row(
            Text(one_line(finding.metric), f"bold {gauges.BAD}" if finding.metric in causes else ""),
            _rate(details.get("stable_rate"), finding.stable_events, finding.stable_trials),
            _rate(details.get("canary_rate"), finding.canary_events, finding.canary_trials),
            tables.points_apart(finding),
            gauges.bar(gauges.progress(finding.log_e_bad, details.get("log_e_bad_needed")), 8, gauges.BAD),
            gauges.bar(gauges.progress(finding.log_e_ok, details.get("log_e_ok_needed")), 8, gauges.GOOD),
        )
    return table


def _rate(rate: float | None, events: int, trials: int) -> str:
    if not trials:
        return "-"
    return percent(events / trials if rate is None else rate)


def _latencies(finding: FindingBody) -> Text:
    line = Text(f"{finding.metric}  ", gauges.DIM, no_wrap=True, overflow="ellipsis")
    for variant, style in (("stable", gauges.STABLE), ("canary", gauges.CANARY)):
        known = [(q, finding.details.get(f"{variant}_p{q}_us")) for q in _LATENCIES]
        times = ", ".join(f"p{q} {us / 1000:.3g} ms" for q, us in known if us is not None)
        line.append(f"{variant} {times or '-'}  ", style)
    return line


def _decisions(decisions: tuple[DecisionView, ...]) -> Iterator[Text]:
    for decision in decisions[-_DECISIONS_SHOWN:]:
        at = decision.at[11:19]
        text = f"{at}  {decision.canary_percent:g} %  {decision.reason or decision.event} ({decision.by})"
        style = tables.PHASE_STYLES.get(decision.phase, "") if decision.phase != decision.phase_before else ""
        yield Text(one_line(text), style, no_wrap=True, overflow="ellipsis")

"""The live view in the terminal: one frame, drawn eight times a second.

A frame fits 80 columns and 24 rows and uses what more it gets for longer bars. Top to bottom: which scenario this is,
what is happening, who gets the traffic, what users see, what the evidence says, and the decision.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gateway.client import AnalysisBody, FindingBody, RolloutBody
from gateway.config.predictions import PREDICTED
from gateway.core.analysis.types import Verdict
from gateway.core.numbers import e_value, percent
from gateway.demo.client.report import ClientReport, VariantReport
from gateway.demo.progress import DemoEvent, DemoProgress, needed
from gateway.demo.summary import Summary, page

_WIDTH_MAX = 120
_STABLE, _CANARY, _RESCUED = "cyan", "yellow", "magenta"
_GOOD, _BAD, _DIM = "green", "red", "bright_black"
_ENDS = {
    "PROMOTED": ("promoted", _GOOD, "The canary has taken over: it gets all requests."),
    "ROLLED_BACK": ("rolled back", _BAD, "The canary gets no request any more; stable serves alone."),
    "PAUSED": ("held", "yellow", "Time is up without proof either way. The weight stays; a person may decide."),
}


class LiveView:
    """Draws frames; leaves the last one on the screen, and the summary under it."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._live.stop()

    def show_event(self, event: DemoEvent) -> None:
        """Say where the console is, above the frames; what else happens the next frame shows."""
        if address := event.data.get("console_url"):
            self._console.print(Text(f"console: {address}"))

    def show(self, progress: DemoProgress, now_s: float) -> None:
        """Draw the frame of this moment."""
        self._live.update(frame(progress, now_s, self._console.width), refresh=True)

    def end(self, summary: Summary) -> None:
        """Write the summary under the last frame."""
        style = _ENDS.get(summary.phase, ("", "white", ""))[1]
        head, _, rest = page(summary, self._console.width).partition("\n")
        self._console.print(Text(head, style=f"bold {style}"))
        self._console.print(Text(rest))


def frame(progress: DemoProgress, now_s: float, width: int) -> RenderableType:
    """The whole picture of one moment."""
    width = min(width, _WIDTH_MAX)
    return Group(
        _title(progress, now_s, width),
        Text(progress.scenario.description, style=_DIM, no_wrap=True, overflow="ellipsis"),
        _sentence(progress),
        _weights(progress, width),
        _steps(progress, now_s),
        Text(""),
        _traffic(progress.report, width),
        _evidence(progress, width),
        _users(progress),
        _decision(progress, width),
    )


# The parts, from top to bottom


def _title(progress: DemoProgress, now_s: float, width: int) -> Text:
    left = Text.assemble(("gateway demo", "bold"), f"  {progress.scenario.name}: {progress.scenario.title}")
    right = f"seed {progress.seed}   {now_s - progress.since_s:5.1f} s"
    left.append(" " * max(2, width - left.cell_len - len(right)))
    return left.append(right, style=_DIM)


def _sentence(progress: DemoProgress) -> Text:
    rollout = progress.rollout
    if progress.decision is not None:
        text = _ENDS[progress.decision.phase][2]
    elif rollout is not None:
        text = f"{rollout.canary_percent:g} % of the requests go to the canary; "
        text += "what it fails, stable answers." if progress.killed_s is None else "its process was just killed."
    elif progress.stage == "baseline":
        text = "All requests go to the stable model. The rollout begins in a moment."
    else:
        text = "Starting two model servers, the gateway and a client ..."
    return Text(text, style="bold", no_wrap=True, overflow="ellipsis")


def _weights(progress: DemoProgress, width: int) -> Text:
    share = progress.canary_percent
    left, right = f"stable {100 - share:>3g} % ", f" {share:>3g} % canary"
    cells = width - len(left) - len(right)
    canary = round(cells * share / 100)
    if share and not canary:
        canary = 1
    return Text.assemble(
        (left, _STABLE), ("█" * (cells - canary), _STABLE), ("█" * canary, _CANARY), (right, _CANARY)
    )  # fmt: skip


def _steps(progress: DemoProgress, now_s: float) -> Text:
    rollout = progress.rollout
    line = Text("steps ", style=_DIM, no_wrap=True, overflow="ellipsis")
    if rollout is None:
        return line.append(" none yet", style=_DIM)
    over = progress.decision is not None
    if rollout.plan.get("mirror"):
        fell = over and not rollout.step
        mark, style = (
            ("✗", _ENDS[rollout.phase][1]) if fell else ("✓", _GOOD) if rollout.step else ("▶", f"bold {_CANARY}")
        )
        line.append(f"  {mark} mirror", style=style)
    for number, step in enumerate(rollout.plan["steps"], start=1):
        share = f"{step['percent']:g} %"
        if number < rollout.step or (over and rollout.phase == "PROMOTED"):
            line.append(f"  ✓ {share}", style=_GOOD)
        elif number > rollout.step:
            line.append(f"  · {share}", style=_DIM)
        elif over:
            line.append(f"  ✗ {share}", style=_ENDS[rollout.phase][1])
        else:
            line.append(f"  ▶ {share}", style=f"bold {_CANARY}").append(_floor(progress, rollout, now_s), style=_CANARY)
    promoted = over and rollout.phase == "PROMOTED"
    return line.append("  ✓ 100 %" if promoted else "  · 100 %", style=_GOOD if promoted else _DIM)


def _floor(progress: DemoProgress, rollout: RolloutBody, now_s: float) -> str:
    step = rollout.plan["steps"][rollout.step - 1]
    elapsed_s = min(now_s - progress.step_since_s, step["min_time_s"])
    requests = min(rollout.canary_requests - progress.step_requests_base, step["min_requests"])
    return f" ({elapsed_s:.0f} of {step['min_time_s']:.0f} s, {requests} of {step['min_requests']} requests)"


def _traffic(report: ClientReport | None, width: int) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), width=min(width, 100), header_style=_DIM, expand=True)
    table.add_column("traffic", no_wrap=True, min_width=26)
    for name in ("req/s", "requests", "failed", "p50 ms", "p95 ms", "correct"):
        table.add_column(name, justify="right", no_wrap=True)
    seen = report.variants if report is not None else {}
    rescued = seen["rescued"].requests if report is not None else 0
    _add_row(table, "stable", _STABLE, seen.get("stable"))
    # What the canary failed was answered by stable; here it counts for the canary too.
    _add_row(table, "canary", _CANARY, seen.get("canary"), failed=rescued)
    _add_row(table, "rescued: stable for canary", _RESCUED if rescued else _DIM, seen.get("rescued"))
    return table


def _add_row(table: Table, name: str, style: str, seen: VariantReport | None, failed: int = 0) -> None:
    if seen is None:
        table.add_row(Text(name, style=style))
        return
    accuracy = seen.accuracy
    failed += seen.failed
    table.add_row(
        Text(name, style=style),
        f"{seen.rate_per_s:.0f}",
        f"{seen.requests + failed - seen.failed:,}",
        Text(f"{failed:,}", style=_BAD if failed else ""),
        "-" if seen.p50_ms is None else f"{seen.p50_ms:.1f}",
        "-" if seen.p95_ms is None else f"{seen.p95_ms:.1f}",
        "-" if accuracy is None else percent(accuracy),
    )


def _evidence(progress: DemoProgress, width: int) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style=_DIM, width=width)
    table.add_column("evidence", no_wrap=True, width=13)
    bar = max(8, (width - 13 - 2 * 13 - 5) // 2)
    for title, style in (("proven worse", _BAD), ("proven good enough", _GOOD)):
        table.add_column(title, no_wrap=True, width=bar, header_style=style)
        table.add_column("", no_wrap=True, width=13)
    for name, findings in _evidence_rows(progress.analysis):
        if not findings:
            table.add_row(Text(name, style=_DIM))
            continue
        # Of several metrics in a row the worst is shown, and the one that is furthest from being proven good enough.
        worst = max(findings, key=lambda finding: (finding.log_e_bad or 0.0) / needed(finding)[0])
        slowest = min(findings, key=lambda finding: finding.log_e_ok or 0.0)
        table.add_row(Text(name), *_bars(worst, bar)[:2], *_bars(slowest, bar)[2:])
    return table


def _evidence_rows(analysis: AnalysisBody | None) -> list[tuple[str, list[FindingBody]]]:
    """Five rows, whatever is judged: errors, latency, the other metric that is worst, all the rest, predictions."""
    findings = [finding for finding in analysis.findings if finding.decides] if analysis is not None else []
    rows = [(name, [finding for finding in findings if finding.metric == name]) for name in ("errors", "latency")]
    predictions = [finding for finding in findings if finding.metric in PREDICTED]
    others = [finding for finding in findings if finding.metric not in (*PREDICTED, "errors", "latency")]
    seen = [finding for finding in others if finding.canary_events]
    if seen:
        worst = max(seen, key=lambda finding: (finding.log_e_bad or 0.0) / needed(finding)[0])
        others.remove(worst)
        rows.append((_name(worst.metric), [worst]))
    rows.append((f"{len(others)} others" if others else "others", others))
    return [*rows, ("predictions", predictions)]


def _bars(finding: FindingBody, cells: int) -> tuple[Text, Text, Text, Text]:
    needed_bad, needed_ok = needed(finding)
    bad, good = finding.log_e_bad or 0.0, finding.log_e_ok or 0.0
    return (
        _bar(bad / needed_bad, cells, _BAD),
        _of(bad, needed_bad, _BAD),
        _bar(good / needed_ok, cells, _GOOD),
        _of(good, needed_ok, _GOOD),
    )


def _bar(share: float, cells: int, style: str) -> Text:
    """Evidence grows by factors, so the bar is its logarithm on the way to the line at its end."""
    full = round(min(max(share, 0.0), 1.0) * (cells - 1))
    reached = share >= 1.0
    return Text.assemble(
        ("━" * full, style), ("╌" * (cells - 1 - full), _DIM), ("┃", f"bold {style}" if reached else _DIM)
    )


def _of(log_e: float, log_needed: float, style: str) -> Text:
    reached = log_e >= log_needed
    return Text(f"{e_value(log_e)} of {e_value(log_needed)}", style=style if reached else "", overflow="crop")


def _users(progress: DemoProgress) -> Text:
    report = progress.report
    if report is None:
        return Text("users have sent nothing yet", style=_DIM)
    line = Text.assemble(
        f"users sent {report.requests:,} requests; failures that they saw: ",
        (f"{report.failed}", f"bold {_BAD if report.failed else _GOOD}"),
        no_wrap=True,
        overflow="ellipsis",
    )
    return line.append(f"   rescued: {progress.rescued:,}", style=_RESCUED if progress.rescued else _DIM)


def _decision(progress: DemoProgress, width: int) -> Panel:
    decision, analysis = progress.decision, progress.analysis
    if decision is not None:
        name, style, _ = _ENDS[decision.phase]
        after = "" if progress.decision_s is None else f", {progress.decision_s:.1f} s after the first canary request"
        title, text = f"{name}{after}", decision.reason
    elif analysis is not None:
        title, style, text = "decision", _DIM, _so_far(analysis)
    else:
        title, style, text = "decision", _DIM, "None yet: there is nothing to judge."
    body = Text(text, overflow="ellipsis")
    return Panel(body, title=title, title_align="left", border_style=style, height=6, width=width, padding=(0, 1))


def _so_far(analysis: AnalysisBody) -> str:
    missing = [
        _name(f.metric)
        for f in analysis.findings
        if f.decides and f.verdict is not Verdict.PASS and not f.metric.startswith("guardrail:")
    ]
    match analysis.verdict:
        case Verdict.PASS:
            return "None yet. Good enough is proven; the step's floor of time and requests is not reached."
        case Verdict.UNDECIDED:
            return (
                f"None yet. Still to be proven good enough: {', '.join(missing)}. Each bar runs towards the line at its"
                " end: reaching a red one rolls the canary back, reaching all the green ones lets it go on."
            )
        case Verdict.NODATA:
            return "None yet: no canary request has been answered."
    return analysis.reason


def _name(metric: str) -> str:
    return metric.replace("_", " ")

"""Evidence, weights and plans as a few cells of text: what the live views of a terminal are made of.

Evidence grows by factors, so bars and sparklines show its logarithm as a share of what it has to reach.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from rich.text import Text

from gateway.client import AnalysisBody, FindingBody, RolloutBody, one_line
from gateway.core.numbers import compared, odds

STABLE, CANARY, BAD, GOOD, DIM = "cyan", "magenta", "red", "green", "dim"
_LEVELS = "▁▂▃▄▅▆▇█"
_SAMPLES_MAX = 1000


def progress(log_e: float | None, needed: float | None) -> float:
    """How far evidence has come: 0 for none, 1 where it decides.

    >>> progress(3.0, 6.0), progress(-2.0, 6.0), progress(9.0, 6.0), progress(None, 6.0)
    (0.5, 0.0, 1.0, 0.0)
    """
    if log_e is None or not needed:
        return 0.0
    return min(max(log_e / needed, 0.0), 1.0)


def bar(part: float, cells: int, style: str) -> Text:
    """A bar towards the line at its end."""
    full = round(min(max(part, 0.0), 1.0) * (cells - 1))
    end = f"bold {style}" if part >= 1.0 else DIM
    return Text.assemble(("━" * full, style), ("╌" * (cells - 1 - full), DIM), ("┃", end))


def sparkline(parts: Iterable[float], cells: int, style: str) -> Text:
    """The newest values, each from 0 to 1, as one cell each."""
    newest = list(parts)[-cells:] if cells > 0 else []
    return Text("".join(_LEVELS[min(int(part * len(_LEVELS)), len(_LEVELS) - 1)] for part in newest), style)


def weight_bar(percent: float, width: int) -> Text:
    """Both versions' shares of the requests."""
    left, right = f"stable {100 - percent:g} % ", f" {percent:g} % canary"
    cells = max(4, width - len(left) - len(right))
    canary = max(round(cells * percent / 100), 1 if percent else 0)
    return Text.assemble((left, STABLE), ("█" * (cells - canary), STABLE), ("█" * canary, CANARY), (right, CANARY))


def steps(rollout: RolloutBody) -> Text:
    """The plan: what is done, where it stands, what is to come."""
    line = Text("plan ", DIM, no_wrap=True, overflow="ellipsis")
    mirrors = rollout.mirror_percent
    if rollout.plan.get("mirror"):
        fell = not rollout.step and rollout.phase == "ROLLED_BACK"
        style = f"bold {CANARY}" if mirrors else BAD if fell else GOOD
        line.append(f"  {'▶' if mirrors else '✗' if fell else '✓'} mirror", style)
    for number, step in enumerate(rollout.plan["steps"], start=1):
        name = f"{step['percent']:g} %"
        if number < rollout.step or rollout.phase == "PROMOTED":
            line.append(f"  ✓ {name}", GOOD)
        elif number > rollout.step:
            line.append(f"  · {name}", DIM)
        elif rollout.phase == "ROLLED_BACK":
            line.append(f"  ✗ {name}", BAD)
        else:
            line.append(f"  ▶ {name}", f"bold {CANARY}")
    promoted = rollout.phase == "PROMOTED"
    return line.append("  ✓ 100 %" if promoted else "  · 100 %", GOOD if promoted else DIM)


def good_evidence(analysis: AnalysisBody) -> float | None:
    """The evidence that lets a rollout advance: that of the metric which has the least; None without one."""
    found = [f.log_e_ok for f in analysis.findings if f.decides and not f.metric.startswith("guardrail:")]
    return (
        None
        if not found or any(log_e is None for log_e in found)
        else min(log_e for log_e in found if log_e is not None)
    )


def telling(analysis: AnalysisBody) -> FindingBody | None:
    """The finding that decided, or is nearest to convicting."""
    caused = [finding for finding in analysis.findings if finding.metric in analysis.causes]
    deciding = caused or [finding for finding in analysis.findings if finding.decides]
    return max(deciding, key=lambda f: -math.inf if f.log_e_bad is None else f.log_e_bad, default=None)


def effect(finding: FindingBody) -> str:
    """Both versions' shares of a metric, in words."""
    if not (finding.stable_trials or finding.canary_trials):
        return "nothing was compared yet"
    stable = compared(finding.details.get("stable_rate"), finding.stable_events, finding.stable_trials)
    canary = compared(finding.details.get("canary_rate"), finding.canary_events, finding.canary_trials)
    return f"canary {canary}, stable {stable}"


def odds_of(log_e: float | None) -> str:
    """Evidence as odds; what is no number is as good as none."""
    return odds(0.0 if log_e is None else log_e)


def row(label: str, text: str, style: str = "") -> Text:
    """One line of a view: it is cut at the terminal's edge, and nothing in it steers the terminal."""
    return Text.assemble((f"  {label:<7}", DIM), (one_line(text), style), no_wrap=True, overflow="ellipsis")


def evidence_rows(analysis: AnalysisBody, width: int) -> list[Text]:
    """How far the evidence has come, both ways, in two lines."""
    cells = max(8, min(30, width - 50))
    ways = (
        ("worse", analysis.log_e_bad, analysis.log_e_bad_needed, BAD, "rolled back at"),
        ("good", good_evidence(analysis), analysis.log_e_ok_needed, GOOD, "advances at"),
    )
    out = []
    for label, log_e, needed, style, then in ways:
        line = Text.assemble((f"  {label:<7}", DIM), no_wrap=True, overflow="ellipsis")
        line.append_text(bar(progress(log_e, needed), cells, style))
        out.append(line.append(f" {odds_of(log_e)} ({then} {odds_of(needed)})"))
    return out


class EvidenceHistory:
    """How far the evidence of one rollout had come, from its start to now: what the gateway has kept, and each look."""

    def __init__(self) -> None:
        self._rollout = ""
        # When (in seconds of any clock), and how far towards "worse" and towards "good".
        self._points: list[tuple[float, float, float]] = []

    def knows(self, rollout: RolloutBody) -> bool:
        """Whether this is the rollout that is followed."""
        return rollout.id == self._rollout

    def begin(self, rollout: RolloutBody, series: Mapping[str, Any], now_s: float) -> None:
        """Follow another rollout; ``series`` is its evidence so far, as the API shows it, whose last point is now."""
        self._rollout, self._points = rollout.id, []
        analysis, at = rollout.analysis, series.get("at") or ()
        if analysis is None or not at:
            return
        deciding = {finding.metric for finding in analysis.findings if finding.decides}
        columns = [one["log_e_ok"] for one in series["metrics"] if one["metric"] in deciding]
        for number, (at_s, log_e_bad) in enumerate(zip(at, series["log_e_bad"], strict=True)):
            log_e_ok = [column[number] for column in columns]
            good = None if not log_e_ok or None in log_e_ok else min(log_e_ok)
            self._take(now_s - (at[-1] - at_s), analysis, log_e_bad, good)

    def add(self, rollout: RolloutBody, now_s: float) -> None:
        """Take note of a look."""
        analysis = rollout.analysis
        if analysis is not None:
            self._take(now_s, analysis, analysis.log_e_bad, good_evidence(analysis))

    def _take(self, at_s: float, analysis: AnalysisBody, bad: float | None, good: float | None) -> None:
        worse, better = progress(bad, analysis.log_e_bad_needed), progress(good, analysis.log_e_ok_needed)
        self._points.append((at_s, worse, better))
        if len(self._points) > _SAMPLES_MAX:
            self._points = self._points[::2]

    def columns(self, cells: int) -> tuple[list[float], list[float]]:
        """Both ways, in so many cells of equal time from the start to now; in fewer while there are fewer looks."""
        points = self._points
        if len(points) > cells > 0:
            start_s, span_s = points[0][0], max(points[-1][0] - points[0][0], 1e-9)
            places = (min(int((at_s - start_s) / span_s * cells), cells - 1) for at_s, _, _ in points)
            last = {cell: number for number, cell in enumerate(places)}
            chosen, known = [], 0
            for cell in range(cells):
                known = last.get(cell, known)
                chosen.append(points[known])
            points = chosen
        return [bad for _, bad, _ in points], [good for _, _, good in points]

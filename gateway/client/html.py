"""A rollout as a notebook shows it: where it is, its steps as a ladder, and the evidence of each metric."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from gateway.api_types import PROMOTED, ROLLED_BACK, AnalysisBody, RolloutBody
from gateway.core.numbers import e_value, share

_COLORS = {PROMOTED: "#1a7f37", ROLLED_BACK: "#cf222e", "PAUSED": "#9a6700", "FAIL": "#cf222e", "PASS": "#1a7f37"}
_STEP = "display:inline-block;padding:2px 8px;margin-right:4px;border-radius:4px;border:1px solid #8c959f"


def rollout_html(rollout: RolloutBody) -> str:
    """The rollout as HTML; whatever the gateway says is text in it."""
    canary = f"{rollout.canary}{'' if rollout.model is None else f' ({rollout.model})'}"
    against = f" against {rollout.stable}" if rollout.stable else ""
    at = f"at {rollout.canary_percent:g}&nbsp;%"
    parts = [
        f"<div><b>{escape(rollout.id)}</b> on {escape(rollout.route)}: {_colored(rollout.phase)} {at}</div>",
        f"<div>{escape(canary + against)}, {rollout.canary_requests} canary requests</div>",
        f"<div style='margin:4px 0'>{_ladder(rollout)}</div>",
        f"<div>{escape(rollout.reason)}</div>",
        *(f"<div>{escape(text)}</div>" for text in (rollout.waiting_for, *rollout.warnings) if text),
    ]
    if rollout.analysis is not None:
        parts.append(_evidence(rollout.analysis))
    return f"<div>{''.join(parts)}</div>"


def _ladder(rollout: RolloutBody) -> str:
    boxes = []
    for number, step in enumerate(rollout.plan.get("steps", ()), 1):
        here = number == rollout.step and not rollout.ended
        passed = number < rollout.step or rollout.promoted
        style = "background:#ddf4ff;font-weight:bold" if here else "background:#dafbe1" if passed else "color:#57606a"
        boxes.append(f"<span style='{_STEP};{style}'>{step.get('percent', 0):g}&nbsp;%</span>")
    return "".join(boxes)


def _evidence(analysis: AnalysisBody) -> str:
    columns = ("metric", "verdict", "stable", "canary", "worse: E", "good: E")
    rows = [
        (
            escape(one.metric if one.decides else f"{one.metric} (advises)"),
            _colored(one.verdict),
            share(one.stable_events, one.stable_trials),
            share(one.canary_events, one.canary_trials),
            _e(one.log_e_bad, analysis.log_e_bad_needed),
            _e(one.log_e_ok, analysis.log_e_ok_needed),
        )
        for one in analysis.findings
    ]
    body = "".join(_row("td", row) for row in rows)
    return (
        f"<div>{escape(analysis.reason)}</div><table><thead>{_row('th', columns)}</thead><tbody>{body}</tbody></table>"
    )


def _row(cell: str, texts: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{cell}>{text}</{cell}>' for text in texts)}</tr>"


def _e(log_e: float | None, needed: float | None) -> str:
    if log_e is None:
        return "-"
    return e_value(log_e) if needed is None else f"{e_value(log_e)} of {e_value(needed)}"


def _colored(word: str) -> str:
    return f"<span style='color:{_COLORS.get(word, 'inherit')}'>{escape(word)}</span>"

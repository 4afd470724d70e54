"""What a person wants to know of a transition, whatever carries it: a headline, three numbers, why, and where to look.

The three numbers are the effect on the metric that decided (or is nearest to deciding), the evidence against what it
has to reach, and how much of the traffic the canary had.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from urllib.parse import quote

import msgspec

from gateway.control.views import RolloutView
from gateway.core.analysis.types import Analysis, Finding
from gateway.core.numbers import compared, counted, odds
from gateway.hooks.envelope import Transition

# Where the console shows a rollout, and offers its report. It opens in a browser without a token, and asks for one.
_PAGE_PATH = "/#/rollouts/{}"
_FOR_THE_CANARY = frozenset({"promoted", "advanced", "baking"})


class TransitionSummary(msgspec.Struct, frozen=True):
    """A transition for people. ``numbers`` and ``lines`` are pairs of a title and a text; ``link`` may be empty."""

    headline: str
    numbers: tuple[tuple[str, str], ...]
    lines: tuple[tuple[str, str], ...]
    link: str

    @property
    def rows(self) -> tuple[tuple[str, str], ...]:
        """All pairs, the reason first."""
        return (*self.lines[:1], *self.numbers, *self.lines[1:])


def summary(transition: Transition, links: str) -> TransitionSummary:
    """The transition in words. ``links`` is the address under which people reach the admin listener, if any."""
    view = transition.view
    against = "with nothing to compare it with" if view.stable is None else f"against {view.stable}"
    lines = [("Why", view.reason), ("Canary", f"{view.canary} {against}"), ("By", view.by)]
    if view.causes:
        lines.append(("Causes", ", ".join(view.causes)))
    return TransitionSummary(
        f"{view.route}: rollout {view.id} {transition.kind.replace('_', ' ')}",
        (_effect(view), _evidence(view.analysis, worse=transition.kind not in _FOR_THE_CANARY), _exposure(view)),
        tuple(lines),
        rollout_link(view, links),
    )


def rollout_link(view: RolloutView, links: str) -> str:
    """Where the rollout is shown; empty without an address."""
    return links.rstrip("/") + _PAGE_PATH.format(quote(view.id, safe="")) if links else ""


def _effect(view: RolloutView) -> tuple[str, str]:
    finding = None if view.analysis is None else _telling(view.analysis)
    if finding is None or not (finding.stable_trials or finding.canary_trials):
        return "Effect", "nothing was compared yet"
    stable = compared(finding.details.get("stable_rate"), finding.stable_events, finding.stable_trials)
    canary = compared(finding.details.get("canary_rate"), finding.canary_events, finding.canary_trials)
    return finding.metric, f"canary {canary}, stable {stable}"


def _telling(analysis: Analysis) -> Finding | None:
    """The finding that decided, or is nearest to convicting."""
    caused = [finding for finding in analysis.findings if finding.metric in analysis.causes]
    deciding: Iterable[Finding] = caused or [finding for finding in analysis.findings if finding.decides]
    return max(
        deciding, key=lambda finding: -math.inf if math.isnan(finding.log_e_bad) else finding.log_e_bad, default=None
    )


def _evidence(analysis: Analysis | None, *, worse: bool) -> tuple[str, str]:
    if analysis is None:
        return "Evidence", "none"
    if worse:
        healthy = odds(analysis.log_e_bad)
        return (
            "Evidence",
            f"{healthy} for a canary that is not worse (rolled back at {odds(analysis.log_e_bad_needed)})",
        )
    least = min((finding.log_e_ok for finding in analysis.findings if finding.must_pass), default=0.0)
    return (
        "Evidence",
        f"{odds(least)} for a canary worse by the margin (good enough at {odds(analysis.log_e_ok_needed)})",
    )


def _exposure(view: RolloutView) -> tuple[str, str]:
    if not view.step:
        return "Traffic", f"no user's; {counted(view.canary_requests, 'request')} met both versions in the mirror step"
    step = f"step {view.step} of {view.steps}"
    return (
        "Traffic",
        f"{view.canary_percent:g} % of requests, {step}, {counted(view.canary_requests, 'canary request')}",
    )

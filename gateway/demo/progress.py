"""The demo so far: everything that gateway and client reported, folded into one state. Pure: times come in.

`DemoProgress` methods take what was reported and return the events to show (`DemoEvent`); how they are shown is not
known here. Times are CLOCK_MONOTONIC seconds; ``t_s`` counts from the demo's start.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gateway.client import AnalysisBody, ControlEvent, FindingBody, RolloutBody
from gateway.core.numbers import counted, e_value
from gateway.core.rollout.types import AUTOMATION
from gateway.demo.admin import ROLLOUT_KINDS, rollout_of
from gateway.demo.client.report import ClientReport
from gateway.demo.scenarios import Scenario

_EVENT_EVERY_S = 1.0


@dataclass(frozen=True)
class DemoEvent:
    """One event to show: a name and data for machines, a line of text for people."""

    event: str
    t_s: float
    text: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DemoDecision:
    """How the rollout ended."""

    phase: str
    reason: str
    metrics: tuple[str, ...]
    at_s: float
    canary_requests: int


@dataclass
class DemoProgress:
    """Where the demo stands."""

    scenario: Scenario
    seed: int
    since_s: float
    stage: str = "starting"
    canary_percent: float = 0.0
    step_since_s: float = 0.0
    step_requests_base: int = 0
    rollout: RolloutBody | None = None
    report: ClientReport | None = None
    decision: DemoDecision | None = None
    killed_s: float | None = None
    _analysis_shown_s: float = float("-inf")
    _traffic_shown_s: float = float("-inf")
    _last_shown_s: float = float("-inf")

    # what was seen

    @property
    def analysis(self) -> AnalysisBody | None:
        """The newest analysis."""
        return self.rollout.analysis if self.rollout is not None else None

    @property
    def canary_requests(self) -> int:
        """Requests of the experiment that the canary was given, failed ones included."""
        if self.decision is not None:
            return self.decision.canary_requests
        return self.rollout.canary_requests if self.rollout is not None else 0

    @property
    def rescued(self) -> int:
        """Requests that the canary failed and stable answered."""
        return self.report.variants["rescued"].requests if self.report is not None else 0

    @property
    def decision_s(self) -> float | None:
        """Seconds from the sending of the first canary request to the decision."""
        first_s = self.report.first_canary_s if self.report is not None else None
        if self.decision is None or first_s is None:
            return None
        return max(0.0, self.decision.at_s - first_s)

    # what happens

    def event(self, event: str, now_s: float, text: str, **data: Any) -> DemoEvent:
        """An event to show, not earlier than the last one: a report is older than its arrival."""
        self._last_shown_s = max(self._last_shown_s, now_s)
        return DemoEvent(event, round(self._last_shown_s - self.since_s, 3), text, data)

    def on_report(self, report: ClientReport) -> Iterator[DemoEvent]:
        """The client has reported."""
        self.report = report
        if report.final or report.at_s - self._traffic_shown_s < _EVENT_EVERY_S:
            return
        self._traffic_shown_s = report.at_s
        variants = {
            name: {
                "requests": seen.requests,
                "failed": seen.failed,
                "rate_per_s": round(seen.rate_per_s, 1),
                "p50_ms": _rounded(seen.p50_ms),
                "p95_ms": _rounded(seen.p95_ms),
                "accuracy": _rounded(seen.accuracy, 4),
            }
            for name, seen in report.variants.items()
            if seen.requests
        }
        text = f"users: {report.requests} requests, {report.failed} failed, {self.rescued} rescued"
        counts = {"requests": report.requests, "failed": report.failed, "variants": variants}
        yield self.event("traffic", report.at_s, text, **counts)

    def on_event(self, event: ControlEvent, now_s: float) -> Iterator[DemoEvent]:
        """Take in an event of the gateway."""
        if event.kind in ROLLOUT_KINDS:
            yield from self._on_rollout(event, now_s)
        elif event.kind == "weight":
            self.canary_percent = event.data["canary_percent"]
            text = f"weight: {self.canary_percent:g} % of the requests go to the canary"
            yield self.event("weight", now_s, text, canary_percent=self.canary_percent, epoch=event.data["epoch"])
        elif event.kind == "health":
            state = "up" if event.data["healthy"] else "down"
            text = f"health: {event.data['backend']} is {state}"
            yield self.event("health", now_s, text, backend=event.data["backend"], healthy=event.data["healthy"])
        elif event.kind in ("alarm", "worker"):
            yield self.event(event.kind, now_s, f"{event.kind}: {event.data}", **event.data)

    def _on_rollout(self, event: ControlEvent, now_s: float) -> Iterator[DemoEvent]:
        rollout = rollout_of(event)
        assert rollout is not None
        if self.decision is not None:
            return
        self.rollout = rollout
        if event.kind == "analysis":
            yield from self._on_analysis(rollout, now_s)
        elif event.kind in ("started", "advanced", "resumed"):
            self.stage = "rollout"
            self.step_since_s, self.step_requests_base = now_s, rollout.canary_requests
            percent = rollout.canary_percent
            where = f"step {rollout.step} of {rollout.steps} ({percent:g} %)" if rollout.step else "the mirror step"
            text = f"{where}: {rollout.reason}"
            yield self.event(
                "step", now_s, text, step=rollout.step, steps=rollout.steps, canary_percent=percent,
                reason=rollout.reason,
            )  # fmt: skip
        elif event.kind != "paused" or rollout.by == AUTOMATION:
            yield self._decide(rollout, now_s)

    def _decide(self, rollout: RolloutBody, now_s: float) -> DemoEvent:
        self.stage = "decided"
        self.decision = DemoDecision(rollout.phase, rollout.reason, rollout.causes, now_s, rollout.canary_requests)
        return self.event(
            "decision",
            now_s,
            f"decision: {rollout.reason}",
            phase=rollout.phase,
            reason=rollout.reason,
            metrics=list(rollout.causes),
            canary_requests=rollout.canary_requests,
        )

    def _on_analysis(self, rollout: RolloutBody, now_s: float) -> Iterator[DemoEvent]:
        analysis = rollout.analysis
        if analysis is None or now_s - self._analysis_shown_s < _EVENT_EVERY_S:
            return
        self._analysis_shown_s = now_s
        yield self.event(
            "analysis",
            now_s,
            f"analysis: {analysis.verdict}, {counted(rollout.canary_requests, 'canary request')}; {analysis.reason}",
            verdict=analysis.verdict.value,
            reason=analysis.reason,
            canary_requests=rollout.canary_requests,
            findings=[_finding(finding) for finding in analysis.findings],
        )

    def killed(self, now_s: float) -> DemoEvent:
        """The canary's process was killed."""
        self.killed_s = now_s
        return self.event("fault", now_s, "fault: the canary's process was killed (SIGKILL)", fault="kill -9")


def _finding(finding: FindingBody) -> dict[str, Any]:
    needed_bad, needed_ok = needed(finding)
    return {
        "metric": finding.metric,
        "verdict": finding.verdict.value,
        "evidence_worse": e_value(finding.log_e_bad or 0.0),
        "evidence_worse_needed": e_value(needed_bad),
        "evidence_good": e_value(finding.log_e_ok or 0.0),
        "evidence_good_needed": e_value(needed_ok),
        "stable": [finding.stable_events, finding.stable_trials],
        "canary": [finding.canary_events, finding.canary_trials],
    }


def needed(finding: FindingBody) -> tuple[float, float]:
    """The logarithms of the evidence that a metric needs to be proven worse, and proven good."""
    details = finding.details
    return details.get("log_e_bad_needed") or 1.0, details.get("log_e_ok_needed") or 1.0


def _rounded(value: float | None, digits: int = 2) -> float | None:
    return None if value is None else round(value, digits)

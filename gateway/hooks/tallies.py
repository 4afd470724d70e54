"""What became of letters and questions since this process began, and the same as metrics.

Kept outside the outbox and the gate keeper, which are built anew whenever the configuration of hooks changes: a counter
never turns back, and one of a hook that is gone stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric


@dataclass
class HookTotals:
    """What became of one hook's letters; ``pending`` are those that wait now."""

    delivered: int = 0
    failed_attempts: int = 0
    dropped: int = 0
    pending: int = 0


@dataclass
class GateTotals:
    """What one gate has answered; ``unreachable`` are questions without an answer, or with one that is no 2xx."""

    passed: int = 0
    refused: int = 0
    not_yet: int = 0
    unreachable: int = 0


@dataclass
class Tallies:
    """Of all hooks and gates by name."""

    hooks: dict[str, HookTotals] = field(default_factory=dict)
    gates: dict[str, GateTotals] = field(default_factory=dict)

    def hook(self, name: str) -> HookTotals:
        """One hook's."""
        return self.hooks.setdefault(name, HookTotals())

    def gate(self, name: str) -> GateTotals:
        """One gate's."""
        return self.gates.setdefault(name, GateTotals())


def hook_metrics(tallies: Tallies) -> Iterator[Metric]:
    """One family each; a configured hook or gate has its series from the start on, at 0."""
    letters = CounterMetricFamily(
        "gateway_hook_letters", "Letters to hooks by what became of them.", labels=["hook", "result"]
    )
    failed = CounterMetricFamily(
        "gateway_hook_failed_attempts", "Attempts to deliver a letter that failed; most are repeated.", labels=["hook"]
    )
    pending = GaugeMetricFamily(
        "gateway_hook_pending_letters",
        "Letters that wait to be delivered, the one on its way included.",
        labels=["hook"],
    )
    for name, hook in sorted(tallies.hooks.items()):
        letters.add_metric([name, "delivered"], hook.delivered)
        letters.add_metric([name, "dropped"], hook.dropped)
        failed.add_metric([name], hook.failed_attempts)
        pending.add_metric([name], hook.pending)
    answers = CounterMetricFamily(
        "gateway_gate_answers", "Questions to gates by what was answered.", labels=["gate", "answer"]
    )
    for name, gate in sorted(tallies.gates.items()):
        for answer in ("passed", "refused", "not_yet", "unreachable"):
            answers.add_metric([name, answer], getattr(gate, answer))
    yield from (letters, failed, pending, answers)

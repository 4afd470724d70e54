"""The metrics of hooks and gates; one that is configured has its series from the start on, at 0."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric

from gateway.control.show.families import counter, gauge_by
from gateway.hooks.counters import HookCounters

_GATE_ANSWERS = ("passed", "refused", "not_yet", "unreachable")


def hook_metrics(counters: HookCounters) -> Iterator[Metric]:
    """One family each."""
    hooks, gates = sorted(counters.hooks.items()), sorted(counters.gates.items())
    yield counter(
        "gateway_hook_messages",
        "Messages to hooks, by result.",
        ("hook", "result"),
        (
            ((name, result), n)
            for name, hook in hooks
            for result, n in (("delivered", hook.delivered), ("dropped", hook.dropped))
        ),
    )
    yield counter(
        "gateway_hook_failed_attempts",
        "Attempts to deliver a message that failed; most are repeated.",
        ("hook",),
        (((name,), hook.failed_attempts) for name, hook in hooks),
    )
    yield gauge_by(
        "gateway_hook_pending_messages",
        "Messages waiting to be delivered, including the one being sent.",
        "hook",
        {name: hook.pending for name, hook in hooks},
    )
    yield counter(
        "gateway_gate_answers",
        "Questions to gates, by answer.",
        ("gate", "answer"),
        (((name, answer), getattr(gate, answer)) for name, gate in gates for answer in _GATE_ANSWERS),
    )

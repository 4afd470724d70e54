"""What became of messages and of questions to gates since this process began.

Kept outside the outbox and the gate keeper, which are built anew whenever the configuration of hooks changes: a counter
never turns back, and one of a hook that is gone stays.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class HookTotals:
    """What became of one hook's messages; ``pending`` are those that wait now."""

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
class HookCounters:
    """Of all hooks and gates by name."""

    hooks: dict[str, HookTotals] = field(default_factory=dict)
    gates: dict[str, GateTotals] = field(default_factory=dict)

    def hook(self, name: str) -> HookTotals:
        """One hook's."""
        return self.hooks.setdefault(name, HookTotals())

    def gate(self, name: str) -> GateTotals:
        """One gate's."""
        return self.gates.setdefault(name, GateTotals())

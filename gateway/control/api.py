"""The doors of the control plane: what the admin API, the CLI's server side and the metrics may ask of it.

`Controller` (controller.py) implements it; the protocol exists so that those above can be read, typed and tested
without the process tree.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from gateway.control.views import ControlEvent, Readiness, RolloutView, RouteView
from gateway.core.rollout.types import Plan
from gateway.runtime.wire import Report, RouteTotals


class TrafficTotals(Protocol):
    """Everything that the workers have counted, merged over their lives, for metrics."""

    totals: list[RouteTotals]
    faults: dict[str, int]
    aborted: int
    reports: list[Report]  # the newest of each live worker, for gauges
    worker_starts: int
    rejected_reports: int


class ControlPlane(Protocol):
    """Read the state, wish for changes. Wishes raise TransitionError, ConflictError, NotFoundError, JournalError."""

    def routes(self) -> list[RouteView]:
        """All routes, in the order of the configuration."""

    def route(self, name: str) -> RouteView:
        """One route, or NotFoundError."""

    def rollouts(self, route: str | None = None, limit: int = 50, before: str | None = None) -> list[RolloutView]:
        """Rollouts, newest first; ``before`` is a rollout's id to page on from."""

    def rollout(self, rollout_id: str) -> RolloutView:
        """One rollout, or NotFoundError."""

    async def set_weight(self, route: str, weight_bp: int, by: str) -> RouteView:
        """Publish a weight by hand; returns when every worker routes by it."""

    async def start(self, route: str, by: str, plan: Plan | None = None) -> RolloutView:
        """Start a rollout of the route's canary by the given plan, or the configured one."""

    async def pause(self, rollout_id: str, by: str, reason: str = "") -> RolloutView:
        """Hold the weight where it is."""

    async def resume(self, rollout_id: str, by: str) -> RolloutView:
        """Let automation go on."""

    async def promote(self, rollout_id: str, by: str, reason: str = "") -> RolloutView:
        """Promote by hand."""

    async def abort(self, rollout_id: str, by: str, reason: str = "") -> RolloutView:
        """Roll back by hand."""

    def events(self, after_id: int | None = None) -> AsyncIterator[ControlEvent]:
        """The stream of events from now on, or from those still remembered after ``after_id``."""

    def traffic(self) -> TrafficTotals:
        """The merged totals."""

    def verdict_counts(self) -> dict[tuple[str, str], int]:
        """How many analyses ended in each verdict: (route, verdict) -> count."""

    def readiness(self) -> Readiness:
        """Whether the gateway can do its work."""

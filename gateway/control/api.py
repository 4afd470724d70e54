"""The interface of the control plane: what the admin API, the CLI's server side and the metrics may ask of it.

`Controller` (controller.py) implements it, and `Commands` (commands.py) its commands; the protocols exist so that those
above can be read, typed and tested without the process tree.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from gateway.config.schema import GatewayConfig
from gateway.config.stored import Stored
from gateway.control.views import (
    AlarmView,
    BackendView,
    ControlEvent,
    DecisionView,
    LatencyDistributions,
    ProbeCounts,
    Readiness,
    RolloutDataResults,
    RolloutSeries,
    RolloutView,
    RouteView,
    WorkerView,
)
from gateway.core.objectives import Objectives
from gateway.core.rollout.types import Plan
from gateway.core.traffic.table import RoutingTable
from gateway.runtime.notices import Notice
from gateway.runtime.samples import Inspected
from gateway.runtime.wire import Exemplar, Report, RouteTotals


class TrafficTotals(Protocol):
    """Everything that the workers have counted, merged over their lives, for metrics."""

    totals: list[RouteTotals]
    faults: dict[str, int]
    aborted: int
    reports: list[Report]  # the newest of each live worker, for gauges
    worker_starts: int
    rejected_reports: int
    notes: dict[str, int]  # of runtime.wire.Report
    exemplars: list[Exemplar]  # the oldest first


class RolloutCommands(Protocol):
    """What changes rollouts. Each returns when every worker routes by what follows; ``by`` names who asks.

    TransitionError, ConflictError, NotFoundError and JournalError mean that nothing was changed.
    """

    async def start(
        self, route: str, by: str, plan: Plan | None = None, *, retry: bool = False, reason: str = ""
    ) -> RolloutView:
        """Start a rollout of the route's canary by the given plan, or the configured one.

        A canary that was rolled back on this route is refused without ``retry``.
        """

    async def pause(self, rollout_id: str, by: str, reason: str = "") -> RolloutView:
        """Hold the weight where it is."""

    async def resume(self, rollout_id: str, by: str, reason: str = "") -> RolloutView:
        """Let automation go on."""

    async def promote(self, rollout_id: str, by: str, reason: str = "", *, next_step: bool = False) -> RolloutView:
        """Promote by hand: all the way, or to the next step."""

    async def approve(self, rollout_id: str, by: str, reason: str = "") -> RolloutView:
        """Open the gate that the rollout waits for."""

    async def abort(self, rollout_id: str, by: str, reason: str = "") -> RolloutView:
        """Roll back by hand."""

    async def set_weight(self, route: str, weight_bp: int, by: str, reason: str = "") -> RouteView:
        """Publish a weight by hand."""


class ControlPlane(Protocol):
    """The state to read, and the commands that change it."""

    table_source: str  # of `process_metrics.TABLE_SOURCES`; empty before the first table

    @property
    def commands(self) -> RolloutCommands:
        """What operators and pipelines may request."""

    @property
    def notice(self) -> Notice:
        """The newest of the supervisor."""

    @property
    def state_kept(self) -> bool:
        """Whether decisions can be stored in the state directory."""

    def objectives(self) -> dict[str, Objectives]:
        """What each route promises its users."""

    def routes(self) -> list[RouteView]:
        """All routes, in the order of the configuration."""

    def route(self, name: str) -> RouteView:
        """One route, or NotFoundError."""

    def route_page(self, search: str, offset: int, limit: int) -> tuple[list[RouteView], int]:
        """Some of the routes that match the words of ``search``, and how many match."""

    def rollouts(
        self, route: str | None = None, limit: int = 50, before: str | None = None, search: str = ""
    ) -> list[RolloutView]:
        """Recent rollouts, newest first: what is in memory.

        ``before`` is a rollout's id to page on from, ``search`` words that each has.
        """

    def rollout(self, rollout_id: str) -> RolloutView:
        """One recent rollout, or NotFoundError."""

    async def rollout_page(
        self, route: str | None = None, limit: int = 50, before: str | None = None, search: str = ""
    ) -> list[RolloutView]:
        """As `rollouts`, and older ones that are archived. Raises NotFoundError, JournalError."""

    async def find_rollout(self, rollout_id: str) -> RolloutView:
        """One rollout, also an archived one. Raises NotFoundError, JournalError."""

    async def series(self, rollout_id: str) -> RolloutSeries:
        """The evidence of a rollout over time. Raises NotFoundError, JournalError."""

    async def data_results(self, rollout_id: str) -> RolloutDataResults:
        """What validators said of a rollout's windows of data, or NotFoundError."""

    async def latencies(self, rollout_id: str) -> LatencyDistributions:
        """Both versions' latencies in a rollout. Raises NotFoundError, JournalError."""

    async def decision_history(self, rollout_id: str) -> list[DecisionView]:
        """All decisions of a rollout, from the journal. Raises JournalError."""

    def label(self, route: str, labels: list[tuple[str, str, bool | float]]) -> None:
        """Pass on labels: a request's id, an event's name, whether it happened. NotFoundError, ConflictError."""

    def events(self, after: str | None = None) -> AsyncIterator[ControlEvent]:
        """The stream of events from now on, or from those still remembered after the cursor or id ``after``."""

    def event_cursor(self, after: str | None = None) -> str:
        """Where the stream of events begins with the same ``after``, as a cursor of this process."""

    def traffic_later(self) -> Callable[[], TrafficTotals]:
        """A function that merges the totals as they are now; merging may take long, and run on another thread."""

    def verdict_counts(self) -> dict[tuple[str, str], int]:
        """How many analyses ended in each verdict: (route, verdict) -> count."""

    def workers(self) -> list[WorkerView]:
        """The connected workers, by their index."""

    def backends(self) -> list[BackendView]:
        """All backends, in the order of the configuration."""

    def alarms(self) -> list[AlarmView]:
        """The current alarms, oldest first."""

    async def must_keep(self) -> None:
        """Raise JournalError when a change could not be stored now."""

    async def keep_configuration(self, stored: Stored | None) -> None:
        """Store a configuration before it is put in force, None for what the file says.

        Raises JournalError when it cannot be stored in time; nothing was changed then.
        """

    async def copy_state(self) -> bytes:
        """The whole state as one file, which a gateway starts from. Raises JournalError."""

    def drop_configuration(self, goes_on: Stored | None = None) -> None:
        """Forget the stored configuration: the file's newest text counts, with what goes on of the stored one."""

    async def reconfigure(
        self,
        config: GatewayConfig,
        table: RoutingTable,
        by: str = "the configuration",
        *,
        file_sha256: str | None = None,
    ) -> None:
        """Serve by another configuration; ``table`` is made of it, its weights count for new routes only.

        ``file_sha256`` names the text of the configuration file, where that has changed.
        Raises ConflictError (nothing was changed) when a rollout under way would lose its backends.
        """

    def inspected(self) -> tuple[Inspected | None, bool | None]:
        """The inspector's newest report, and whether it is connected (None: no inspector is needed)."""

    def probes(self) -> ProbeCounts:
        """Probes without a result, by reason, and the backends in panic."""

    def readiness(self) -> Readiness:
        """Whether the instance is ready, with reasons and warnings."""

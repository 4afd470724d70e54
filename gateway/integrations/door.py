"""What a source may ask of the gateway; `gateway.app.sources` joins it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gateway.control.views import RolloutView
from gateway.core.model_version import ModelVersion


class SourceDoor(Protocol):
    """What a source may ask of the gateway."""

    def rollouts(self, route: str) -> Sequence[RolloutView]:
        """The route's rollouts, newest first."""

    def plan_refuses(self, route: str) -> bool:
        """Whether the route's plan lets a rollout under way end before another begins."""

    def backend_name(self, route: str, model: ModelVersion) -> str:
        """The backend that serves, or would serve, a version."""

    def serving(self, route: str) -> ModelVersion | None:
        """What the route's stable backend serves, if that is known."""

    async def start(
        self, route: str, model: ModelVersion, endpoints: Sequence[str], *, by: str, retry: bool, reason: str
    ) -> RolloutView:
        """Start a rollout of this version; ``by`` is who does."""

    async def release(self, route: str, backend: str) -> bool:
        """Take an ended canary out of the route's configuration and let its requests end; False where it is needed."""

    def configured(self, backend: str) -> bool:
        """Whether the configuration in force has this backend."""

    def report_link(self, rollout_id: str) -> str:
        """Where people find the rollout's report; empty where that cannot be known."""

    def tell(self, route: str, state: str, version: str, reason: str) -> None:
        """Publish what the source does as an event."""

"""What the sources may ask of this gateway, joined from control plane, configuration and starts of versions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from urllib.parse import quote

from gateway.admin.configuring import Configuring
from gateway.admin.problems import ProblemError
from gateway.admin.starting import VersionStarts, backend_name
from gateway.config.admin import public_url
from gateway.control.controller import Controller
from gateway.control.views import RolloutView
from gateway.core.errors import GatewayError
from gateway.core.model_version import ModelVersion
from gateway.core.rollout.types import OnNewCanary, Phase
from gateway.integrations.errors import DeployError

# Several times as long as from one report of a worker to the next.
_REPORTED_S = 0.25


class SourceGateway:
    """See `gateway.integrations.door.SourceDoor`."""

    def __init__(self, controller: Controller, configuring: Configuring, starts: VersionStarts) -> None:
        self._controller = controller
        self._configuring = configuring
        self._starts = starts

    def rollouts(self, route: str) -> Sequence[RolloutView]:
        """The route's rollouts, newest first."""
        return self._controller.rollouts(route)

    def plan_refuses(self, route: str) -> bool:
        """Whether the plan of the rollout under way lets it end before another begins."""
        latest = next(iter(self._controller.rollouts(route, 1)), None)
        return latest is not None and latest.plan.on_new_canary is OnNewCanary.REFUSE

    def backend_name(self, route: str, model: ModelVersion) -> str:
        """The backend that serves, or would serve, a version."""
        return backend_name(self._configuring.config, route, model)

    def serving(self, route: str) -> ModelVersion | None:
        """What the route's stable backend serves, if that is known."""
        backend = self._configuring.config.backends.get(self._controller.route(route).stable or "")
        return None if backend is None or backend.model is None else backend.model.value

    def configured(self, backend: str) -> bool:
        """Whether the configuration in force has this backend."""
        return backend in self._configuring.config.backends

    async def start(
        self, route: str, model: ModelVersion, endpoints: Sequence[str], *, by: str, retry: bool, reason: str
    ) -> RolloutView:
        """Start a rollout of this version, whose endpoints a configured deployer has named."""
        self._configuring.trust(endpoints)
        try:
            view, _ = await self._starts.start(route, model, endpoints, by, retry=retry, reason=reason)
        except ProblemError as error:
            raise DeployError(error.detail) from None
        return view

    async def release(self, route: str, backend: str) -> bool:
        """Take an ended canary out of the route's configuration and let its requests end; False where it is needed."""
        view = self._controller.route(route)
        if view.stable == backend or (view.canary == backend and Phase(view.phase).active):
            return False
        config = self._configuring.config
        section = next(one for one in config.routes if one.name == route)
        if section.canary == backend:
            await self._drained(route, _drain_s(section.timeouts.total_s))
            if self._controller.route(route).phase != view.phase:
                return False
            try:
                await self._starts.withdraw_canary(route, backend, "source")
            except ProblemError as error:
                raise GatewayError(error.detail) from None
        return True

    async def _drained(self, route: str, drain_s: float) -> None:
        """Wait until the workers have no request of the route's canary in hand, ``drain_s`` at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                while True:
                    # A report of after the rollback, of each worker: what was assigned until then is in it.
                    await asyncio.sleep(_REPORTED_S)
                    if not self._controller.canary_in_flight(route):
                        return

    def report_link(self, rollout_id: str) -> str:
        """Where people find the rollout's report; empty where that cannot be known."""
        base = public_url(self._configuring.config.admin)
        return f"{base}/api/v1/rollouts/{quote(rollout_id, safe='')}/report" if base else ""

    def tell(self, route: str, state: str, version: str, reason: str) -> None:
        """Publish what the source does as an event."""
        self._controller.publish_source(route, {"state": state, "version": version, "reason": reason})


def _drain_s(total_s: float | None) -> float:
    """How long requests that the canary has already may take."""
    return min(30.0 if total_s is None else total_s, 30.0)

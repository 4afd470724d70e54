"""What every source does with a version on its route: deploy it, start its rollout, clear away what is over."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from gateway.config.sources import DeployerConfig
from gateway.control.views import RolloutView
from gateway.core.model_version import ModelVersion
from gateway.core.rollout.types import Phase
from gateway.integrations.deployers import DeploymentBook, deploy
from gateway.integrations.door import SourceDoor

_log = logging.getLogger("gateway.sources")
REFUSED = "refused"


class RouteRollouts:
    """The rollouts of one route, as its source sees them. ``by`` is who starts them."""

    def __init__(
        self, route: str, deployer: DeployerConfig, gateway: SourceDoor, book: DeploymentBook, files: Path, by: str
    ) -> None:
        self.route = route
        self.deployer = deployer
        self._gateway = gateway
        self._book = book
        self._files = files / route
        self._by = by

    @property
    def needs_file(self) -> bool:
        """Whether the model's file is needed here: where this gateway serves it, or a command deploys it."""
        return self.deployer.model_server is not None or self.deployer.command is not None

    def views(self) -> Sequence[RolloutView]:
        """All rollouts of the route, newest first."""
        return self._gateway.rollouts(self.route)

    def serving(self) -> ModelVersion | None:
        """What the stable backend serves, if that is known."""
        return self._gateway.serving(self.route)

    def folder(self, name: str) -> Path:
        """Where the files of a version are."""
        return self._files / name

    def must_wait(self, version: str) -> bool:
        """Whether the plan of a rollout under way makes this version wait for its end."""
        latest = next(iter(self.views()), None)
        if latest is not None and Phase(latest.phase).active and self._gateway.plan_refuses(self.route):
            _log.info("route %s: version %s waits for rollout %s to end", self.route, version, latest.id)
            return True
        return False

    async def start(self, model: ModelVersion, file: Path | None, *, retry: bool, reason: str) -> RolloutView:
        """Deploy the version and start its rollout. Raises RefusedVersionError, OSError."""
        backend = self._gateway.backend_name(self.route, model)
        endpoints = await deploy(self.deployer, self.route, backend, model, file, self._book)
        view = await self._gateway.start(self.route, model, endpoints, by=self._by, retry=retry, reason=reason)
        self.tell("started", model.version, f"rollout {view.id}: {reason}")
        return view

    async def refuse(self, model: ModelVersion, why: str) -> None:
        """Say why a version gets no traffic, and undo its deployment."""
        _log.error("route %s: version %s of %s is refused: %s", self.route, model.version, model.name, why)
        self.tell(REFUSED, model.version, why)
        backend = self._gateway.backend_name(self.route, model)
        if not any(view.canary == backend for view in self.views()):
            await self._book.drop(backend)

    async def clear(self, view: RolloutView, folder: Path | None) -> None:
        """Stop serving a canary whose rollout has ended without a promotion, and remove its files."""
        if await self._gateway.release(self.route, view.canary):
            await self._book.drop(view.canary)
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)

    async def drop_unneeded(self, arriving: ModelVersion | None) -> None:
        """Stop what serves versions that the configuration does not have any more, such as a champion's predecessor."""
        kept = "" if arriving is None else self._gateway.backend_name(self.route, arriving)
        for one in self._book.deployments.deployed:
            if one.route == self.route and one.backend != kept and not self._gateway.configured(one.backend):
                await self._book.drop(one.backend)
                if one.server is not None:
                    shutil.rmtree(Path(one.server.path).parent, ignore_errors=True)

    def report_link(self, rollout_id: str) -> str:
        """Where people find a rollout's report; empty where that cannot be known."""
        return self._gateway.report_link(rollout_id)

    def tell(self, state: str, version: str, reason: str) -> None:
        """Publish what the source does as an event."""
        self._gateway.tell(self.route, state, version, reason)

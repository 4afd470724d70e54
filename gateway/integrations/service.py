"""The sources of the configuration at work beside a control plane: each is looked at in turn, and when a webhook asks.

Rules:

1. A registry that is away raises an alarm and is asked again, ever later, up to five minutes. Nothing is started and
   nothing is lost meanwhile: what there is to do stands in the registry and in the journal. Each new reason is also
   an event.
2. A source that fails in another way is logged, and looked at again like that; the others go on.
3. A webhook only makes its sources look at once. So does the end of a rollout, which its source is to write back.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from gateway.config.errors import BadValue
from gateway.config.schema import GatewayConfig
from gateway.config.sources import DvcConfig, MlflowConfig, SourceConfig, secret_of, token_of
from gateway.control.controller import Controller
from gateway.core.errors import GatewayError
from gateway.core.rollout.types import Phase
from gateway.integrations.deployers import DeploymentBook
from gateway.integrations.door import SourceDoor
from gateway.integrations.errors import RegistryError
from gateway.integrations.in_force import run_in_force
from gateway.integrations.mlflow.webhook import Deliveries, model_of, signed_by
from gateway.integrations.rollouts import RouteRollouts
from gateway.runtime.clock import Clock

_log = logging.getLogger("gateway.sources")
_BACKOFF_S = 1.0
_BACKOFF_S_MAX = 300.0
_ENDS = frozenset(phase.value.lower() for phase in Phase if phase.terminal)
ARTIFACTS = "models"


class RolloutSource(Protocol):
    """A registry or repository that asks for rollouts on one route."""

    @property
    def config(self) -> MlflowConfig | DvcConfig:
        """What it follows."""

    async def step(self) -> None:
        """Look once, and do what is to be done. Raises RegistryError, GatewayError and OSError."""

    async def close(self) -> None:
        """Close its connections."""


class _Looking:
    """One source, and when it is looked at."""

    def __init__(self, config: MlflowConfig | DvcConfig) -> None:
        self.config = config
        self.asked = asyncio.Event()


class Sources:
    """All sources. `receive` takes webhooks at any time, also while there are none."""

    def __init__(self, controller: Controller, gateway: SourceDoor, book: DeploymentBook, clock: Clock) -> None:
        self._controller = controller
        self._gateway = gateway
        self._book = book
        self._clock = clock
        self._looking: list[_Looking] = []
        self._deliveries = Deliveries()

    async def serve(self, config: Callable[[], GatewayConfig]) -> None:
        """Run the sources of the configuration in force, for ever; ``config`` is asked whether it has changed."""
        await self._controller.recovered.wait()

        def begin(sources: Sequence[SourceConfig]) -> Iterator[Coroutine[Any, Any, None]]:
            state_dir = config().state_dir
            yield from (self._follow(one.kind, state_dir) for one in sources)
            if sources:
                yield self.watch_ends()

        await run_in_force(lambda: config().sources, begin)

    async def watch_ends(self) -> None:
        """Make the sources of a route look at once when a rollout of it ends, for ever."""
        async for event in self._controller.decision_events():
            if event.kind in _ENDS:
                for one in self._looking:
                    if one.config.route == event.route:
                        one.asked.set()

    def receive(self, headers: Mapping[str, str], body: bytes) -> str:
        """Take a webhook: why it is refused, or nothing. A delivery that is known already changes nothing."""
        by_secret: dict[bytes, list[_Looking]] = {}
        for one in self._looking:
            with contextlib.suppress(BadValue):
                if isinstance(one.config, MlflowConfig) and (secret := secret_of(one.config)) is not None:
                    by_secret.setdefault(secret, []).append(one)
        secret = signed_by(headers, body, by_secret, self._clock.wall_s())
        if secret is None:
            return "no source has the secret that signed this delivery, or it is older than five minutes"
        if self._deliveries.first(headers["x-mlflow-delivery-id"]):
            model = model_of(body)
            for one in by_secret[secret]:
                if isinstance(one.config, MlflowConfig) and model in (None, one.config.model):
                    one.asked.set()
        return ""

    async def _follow(self, config: MlflowConfig | DvcConfig, state_dir: Path) -> None:
        """Look at one source for ever."""
        try:
            source = self._source(config, state_dir)
        except BadValue as bad:
            self._controller.show_alarm(_alarm_of(config), f"{bad.problem}; {bad.hint}")
            return
        try:
            await self.keep_looking(source)
        finally:
            await source.close()

    async def keep_looking(self, source: RolloutSource) -> None:
        """Look for ever: regularly, when it is asked for, and ever later after a failure, which is an alarm."""
        config = source.config
        alarm = _alarm_of(config)
        looking = _Looking(config)
        self._looking.append(looking)
        delay_s, shown = _BACKOFF_S, ""
        try:
            while True:
                looking.asked.clear()
                pause_s = config.poll_s
                why = await self._look(source)
                if why:
                    pause_s, delay_s = delay_s, min(2 * delay_s, _BACKOFF_S_MAX)
                else:
                    delay_s = _BACKOFF_S
                if why and why != shown:
                    self._gateway.tell(config.route, "failing", "", why)
                shown = why
                self._controller.show_alarm(alarm, why)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await looking.asked.wait()
        finally:
            self._looking.remove(looking)
            self._controller.show_alarm(alarm, "")

    def _source(self, config: MlflowConfig | DvcConfig, state_dir: Path) -> RolloutSource:
        """The source of this configuration. Raises BadValue for a token that is missing."""
        # An HTTP client is a sixth of what control would import: only where there is a source.
        files, token = state_dir / ARTIFACTS, token_of(config)
        if isinstance(config, MlflowConfig):
            from gateway.integrations.mlflow.registry import Registry  # noqa: PLC0415  # see above
            from gateway.integrations.mlflow.source import MlflowSource  # noqa: PLC0415  # see above

            registry = Registry(config.uri, config.model, config.timeout_s, token)
            return MlflowSource(config, registry, self._rollouts(config, files, f"source mlflow:{config.model}"))
        from gateway.integrations.dvc.clone import RepositoryClone  # noqa: PLC0415  # see above
        from gateway.integrations.dvc.memory import RequestMemory  # noqa: PLC0415  # see above
        from gateway.integrations.dvc.source import DvcSource  # noqa: PLC0415  # see above

        copy = f"git-{hashlib.sha256(config.repo.encode()).hexdigest()[:12]}-{config.route}"
        clone = RepositoryClone(config.repo, files / copy, config.timeout_s)
        memory = RequestMemory(files / f"dvc-{config.route}.json")
        return DvcSource(config, clone, memory, self._rollouts(config, files, f"source dvc:{config.name}"), token)

    def _rollouts(self, config: MlflowConfig | DvcConfig, files: Path, by: str) -> RouteRollouts:
        return RouteRollouts(config.route, config.deployer, self._gateway, self._book, files, by)

    async def _look(self, source: RolloutSource) -> str:
        """Look once; returns what went wrong."""
        config = source.config
        try:
            await source.step()
        except RegistryError as error:
            if isinstance(config, MlflowConfig):
                return f"the MLflow server at {config.uri} cannot be used, asking again: {error}"
            return f"the repository {config.repo} or its remote cannot be used, asking again: {error}"
        except (GatewayError, OSError) as error:
            return f"cannot go on, trying again: {error}"
        except Exception:  # noqa: BLE001  # one source's failure is not the others'
            _log.exception("the source of route %s failed", config.route)
            return "it failed, trying again: the log of the control process says why"
        return ""


def _alarm_of(config: MlflowConfig | DvcConfig) -> str:
    return f"source of route {config.route}"

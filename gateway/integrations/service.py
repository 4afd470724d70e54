"""The sources of the configuration at work beside a control plane: each is looked at in turn, and when a webhook asks.

Rules:

1. A registry that is away raises an alarm and is asked again, ever later, up to five minutes. Nothing is started and
   nothing is lost meanwhile: what there is to do stands in the registry and in the journal.
2. A source that fails in another way is logged, and looked at again like that; the others go on.
3. A webhook only makes its sources look at once. So does the end of a rollout, which its source is to write back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.config.errors import BadValue
from gateway.config.schema import GatewayConfig
from gateway.config.sources import MlflowConfig, secret_of, token_of
from gateway.control.controller import Controller
from gateway.core.errors import GatewayError
from gateway.core.rollout.types import Phase
from gateway.integrations.deployers import DeploymentBook
from gateway.integrations.door import SourceDoor
from gateway.integrations.errors import RegistryError
from gateway.integrations.mlflow.webhook import Deliveries, model_of, signed_by
from gateway.runtime.clock import Clock

if TYPE_CHECKING:
    from gateway.integrations.mlflow.source import MlflowSource

_log = logging.getLogger("gateway.sources")
_BACKOFF_S = 1.0
_BACKOFF_S_MAX = 300.0
_LOOK_S = 1.0
_ENDS = frozenset(phase.value.lower() for phase in Phase if phase.terminal)
ARTIFACTS = "models"


class _Looking:
    """One source, and when it is looked at."""

    def __init__(self, source: MlflowSource) -> None:
        self.source = source
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
        while True:
            built = config().sources
            state_dir = config().state_dir
            tasks = [asyncio.create_task(self._follow(one.mlflow, state_dir)) for one in built]
            if tasks:
                tasks.append(asyncio.create_task(self.watch_ends()))
            try:
                while built == config().sources:
                    await asyncio.sleep(_LOOK_S)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def watch_ends(self) -> None:
        """Make the sources of a route look at once when a rollout of it ends, for ever."""
        async for event in self._controller.events():
            if event.kind in _ENDS:
                for one in self._looking:
                    if one.source.config.route == event.route:
                        one.asked.set()

    def receive(self, headers: Mapping[str, str], body: bytes) -> str:
        """Take a webhook: why it is refused, or nothing. A delivery that is known already changes nothing."""
        by_secret: dict[bytes, list[_Looking]] = {}
        for one in self._looking:
            with contextlib.suppress(BadValue):
                if (secret := secret_of(one.source.config)) is not None:
                    by_secret.setdefault(secret, []).append(one)
        secret = signed_by(headers, body, by_secret, self._clock.wall_s())
        if secret is None:
            return "no source has the secret that signed this delivery, or it is older than five minutes"
        if self._deliveries.first(headers["x-mlflow-delivery-id"]):
            model = model_of(body)
            for one in by_secret[secret]:
                if model in (None, one.source.config.model):
                    one.asked.set()
        return ""

    async def _follow(self, config: MlflowConfig, state_dir: Path) -> None:
        """Look at one source for ever."""
        # An HTTP client is a sixth of what control would import: only where there is a source.
        from gateway.integrations.mlflow.registry import Registry  # noqa: PLC0415  # see above
        from gateway.integrations.mlflow.source import MlflowSource  # noqa: PLC0415  # see above

        try:
            registry = Registry(config.uri, config.model, config.timeout_s, token_of(config))
        except BadValue as bad:
            self._controller.show_alarm(_alarm_of(config), f"{bad.problem}; {bad.hint}")
            return
        source = MlflowSource(config, registry, self._gateway, self._book, state_dir / ARTIFACTS)
        try:
            await self.keep_looking(source)
        finally:
            await source.close()

    async def keep_looking(self, source: MlflowSource) -> None:
        """Look for ever: regularly, when it is asked for, and ever later after a failure, which is an alarm."""
        alarm, poll_s = _alarm_of(source.config), source.config.poll_s
        looking = _Looking(source)
        self._looking.append(looking)
        delay_s = _BACKOFF_S
        try:
            while True:
                looking.asked.clear()
                pause_s = poll_s
                why = await self._look(source)
                if why:
                    pause_s, delay_s = delay_s, min(2 * delay_s, _BACKOFF_S_MAX)
                else:
                    delay_s = _BACKOFF_S
                self._controller.show_alarm(alarm, why)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await looking.asked.wait()
        finally:
            self._looking.remove(looking)
            self._controller.show_alarm(alarm, "")

    async def _look(self, source: MlflowSource) -> str:
        """Look once; returns what went wrong."""
        try:
            await source.step()
        except RegistryError as error:
            return f"the MLflow server at {source.config.uri} cannot be used, asking again: {error}"
        except (GatewayError, OSError) as error:
            return f"cannot go on, trying again: {error}"
        except Exception:  # noqa: BLE001  # one source's failure is not the others'
            _log.exception("the source of route %s failed", source.config.route)
            return "it failed, trying again: the log of the control process says why"
        return ""


def _alarm_of(config: MlflowConfig) -> str:
    return f"source of route {config.route}"

"""The actuators of the configuration at work beside a control plane: splits are applied, counts are read.

Rules:

1. A change of a route's weight or roles is applied at once, and all is looked at again every `interval_s`.
2. Reading the counts never holds up applying a split: both have a task of their own.
3. What goes wrong is an alarm, and the rollout's reason to hold; it is tried again, ever later, up to the interval. So
   a rollback that KServe has not taken yet is tried again after a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gateway.config.actuators import ActuatorConfig
from gateway.config.errors import BadValue
from gateway.config.schema import GatewayConfig
from gateway.control.controller import Controller
from gateway.integrations.errors import ExternalError
from gateway.integrations.in_force import run_in_force
from gateway.runtime.clock import Clock

if TYPE_CHECKING:
    from gateway.integrations.kserve.actuator import KserveActuator
    from gateway.integrations.prometheus.evidence import PrometheusEvidence

_log = logging.getLogger("gateway.actuators")
_BACKOFF_S = 1.0
_FAILED = "it failed, trying again: the log of the control process says why"


class Actuators:
    """All actuators."""

    def __init__(self, controller: Controller, clock: Clock) -> None:
        self._controller = controller
        self._clock = clock

    async def serve(self, config: Callable[[], GatewayConfig]) -> None:
        """Run the actuators of the configuration in force, for ever; ``config`` is asked whether it has changed."""
        await self._controller.recovered.wait()

        def begin(actuators: Sequence[ActuatorConfig]) -> Iterator[Coroutine[Any, Any, None]]:
            whole = config()
            return (self._serve_route(one, whole) for one in actuators)

        await run_in_force(lambda: config().actuators, begin)

    async def _serve_route(self, config: ActuatorConfig, whole: GatewayConfig) -> None:
        # An HTTP client is a sixth of what control would import: only where there is an actuator.
        from gateway.integrations.kserve.actuator import KserveActuator, Memories  # noqa: PLC0415  # see above
        from gateway.integrations.prometheus.evidence import PrometheusEvidence  # noqa: PLC0415  # see above

        controller, route = self._controller, config.route
        exempt = next(one.analysis.exempt_statuses for one in whole.routes if one.name == route)
        try:
            evidence = PrometheusEvidence(
                *(config.prometheus, sorted(exempt), self._clock),
                lambda epoch, weight_bp, stable, canary: controller.external.add(
                    route, epoch, weight_bp, stable, canary
                ),
            )
        except BadValue as bad:
            controller.external.set_trouble(route, f"{bad.problem}; {bad.hint}")
            return
        actuator = KserveActuator(
            *(route, config.kserve, Memories(whole.state_dir), self._clock),
            lambda what: controller.publish_source(route, {"state": "applied", "version": "", "reason": what}),
        )
        served = _ServedRoute(config, controller, actuator, evidence)
        try:
            await served.serve()
        finally:
            await asyncio.gather(actuator.close(), evidence.close())


class _ServedRoute:
    """One route: its split, and its counts."""

    def __init__(
        self, config: ActuatorConfig, controller: Controller, actuator: KserveActuator, evidence: PrometheusEvidence
    ) -> None:
        self._config = config
        self._controller = controller
        self._actuator = actuator
        self._evidence = evidence
        self._changed = asyncio.Event()
        self._troubles = {"split": "", "counts": ""}

    async def serve(self) -> None:
        """For ever."""
        kserve, prometheus = self._config.kserve, self._config.prometheus
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            group.create_task(self._repeat("split", self._apply, kserve.interval_s, self._changed))
            group.create_task(self._repeat("counts", self._count, prometheus.interval_s, asyncio.Event()))

    async def _watch(self) -> None:
        async for event in self._controller.events():
            if event.route == self._config.route and event.kind != "analysis":
                self._changed.set()

    async def _repeat(
        self, what: str, step: Callable[[], Awaitable[str]], interval_s: float, woken: asyncio.Event
    ) -> None:
        delay_s = _BACKOFF_S
        while True:
            woken.clear()
            pause_s = interval_s
            try:
                trouble = await step()
                delay_s = _BACKOFF_S
            except (ExternalError, OSError) as error:
                trouble = str(error)
                pause_s, delay_s = min(delay_s, interval_s), 2 * delay_s
            except Exception:  # noqa: BLE001  # one actuator's failure is not the others'
                _log.exception("the actuator of route %s failed", self._config.route)
                trouble = _FAILED
            self._say(what, trouble)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await woken.wait()

    async def _apply(self) -> str:
        split = self._controller.external_split(self._config.route)
        return "" if split is None else await self._actuator.step(split)

    async def _count(self) -> str:
        split, seen = self._controller.external_split(self._config.route), self._actuator.seen
        if split is None or not split.phase.active or seen is None or not seen.canary:
            return ""
        actuator = self._actuator
        return await self._evidence.step(seen.stable, seen.canary, actuator.splits, actuator.confirmed_s)

    def _say(self, what: str, trouble: str) -> None:
        self._troubles[what] = trouble
        why = "; ".join(filter(None, self._troubles.values()))
        self._controller.external.set_trouble(self._config.route, why and f"no verdict: {why}")
        self._controller.show_alarm(f"actuator of route {self._config.route}", why)

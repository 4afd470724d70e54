"""When sources look: regularly, ever later while the registry fails, at once when a rollout of their route ends."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

from gateway.config.sources import MlflowConfig
from gateway.control.controller import Controller
from gateway.control.events import EventLog
from gateway.control.views import ControlEvent
from gateway.integrations.deployers import DeploymentBook
from gateway.integrations.door import SourceDoor
from gateway.integrations.errors import RegistryError
from gateway.integrations.mlflow.source import MlflowSource
from gateway.integrations.service import Sources
from gateway.runtime.clock import SystemClock
from tests.support.virtual import run

ENDS = (
    (1.0, "advanced", "digits"),
    (2.0, "promoted", "other"),
    (3.0, "promoted", "digits"),
    (5.0, "rolled_back", "digits"),
    (7.0, "withdrawn", "digits"),
)
FAULTS = (OSError(28, "No space left on device"), ValueError("a fault of our own"))


class Control:
    """What sources see of the control plane."""

    def __init__(self) -> None:
        self.log = EventLog(SystemClock())
        self.recovered = asyncio.Event()
        self.recovered.set()
        self.alarms: list[tuple[float, str]] = []

    def decision_events(self) -> AsyncIterator[ControlEvent]:
        return self.log.listen()

    def show_alarm(self, what: str, why: str) -> None:
        assert what == "source of route digits"
        self.alarms.append((asyncio.get_running_loop().time(), why))


class Gateway:
    """What sources tell the gateway."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def tell(self, route: str, state: str, version: str, reason: str) -> None:
        assert (route, version) == ("digits", "")
        self.told.append((state, reason))


class Registry:
    """A source whose looks fail until ``well`` of them were made; it notes when it was looked at."""

    def __init__(self, fails: Callable[[int], Exception | None]) -> None:
        self.config = MlflowConfig(uri="http://registry", model="digits", route="digits", poll_s=30.0)
        self.gateway = Gateway()
        self.looks: list[float] = []
        self._fails = fails

    async def step(self) -> None:
        self.looks.append(asyncio.get_running_loop().time())
        if (error := self._fails(len(self.looks))) is not None:
            raise error


def looked(registry: Registry, for_s: float, ends: tuple[tuple[float, str, str], ...] = ()) -> Control:
    """Let it be looked at for so long in virtual time; ``ends``: events by their moment, kind and route."""

    async def main() -> Control:
        control = Control()
        with tempfile.TemporaryDirectory() as directory:
            gateway = cast("SourceDoor", registry.gateway)
            sources = Sources(cast("Controller", control), gateway, DeploymentBook(Path(directory)), SystemClock())
            tasks = [asyncio.create_task(sources.keep_looking(cast("MlflowSource", registry)))]
            tasks.append(asyncio.create_task(sources.watch_ends()))
            for at_s, kind, route in ends:
                asyncio.get_running_loop().call_at(at_s, publish, control, kind, route)
            await asyncio.sleep(for_s)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return control

    return run(main())


def publish(control: Control, kind: str, route: str) -> None:
    control.log.publish(kind, {}, route=route)


def test_a_registry_that_is_away_is_asked_ever_later_up_to_five_minutes_with_an_alarm() -> None:
    registry = Registry(lambda look: RegistryError("ConnectError") if look <= 12 else None)
    control = looked(registry, 2000.0)
    pauses = [after - before for before, after in zip(registry.looks, registry.looks[1:], strict=False)]
    assert pauses[:13] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300, 30]
    raised = [why for _, why in control.alarms[:12]]
    assert all("http://registry cannot be used, asking again: ConnectError" in why for why in raised)
    assert control.alarms[12] == (registry.looks[12], ""), "it ends when the registry answers"
    assert registry.gateway.told == [("failing", raised[0])], "one event for each reason"


def test_after_a_success_the_next_failure_is_asked_again_soon() -> None:
    registry = Registry(lambda look: RegistryError("503") if look in (1, 2, 3, 5) else None)
    looked(registry, 60.0)
    assert registry.looks[:6] == [0, 1, 3, 7, 37, 38]


def test_a_failure_of_another_kind_is_an_alarm_too_and_tried_again() -> None:
    registry = Registry(lambda look: FAULTS[look - 1] if look <= len(FAULTS) else None)
    control = looked(registry, 10.0)
    assert (
        "No space left on device" in control.alarms[0][1] and "the log of the control process" in control.alarms[1][1]
    )
    assert registry.looks == [0, 1, 3] and control.alarms[2][1] == ""


def test_the_end_of_a_rollout_is_written_back_at_once() -> None:
    registry = Registry(lambda _: None)
    looked(registry, 29.0, ENDS)
    assert registry.looks == [0, 3, 5, 7]

"""Prometheus dies amid a rollout and comes back: nothing is promoted meanwhile, and judging goes on afterwards.

Control plane, actuator and HTTP are the real ones, and so are the sockets; the clock that decides is the test's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest

from gateway.config.load import load
from gateway.control.views import RolloutView
from gateway.core.analysis import Verdict
from gateway.core.errors import InvalidValueError
from gateway.core.rollout import Phase, Plan, Step
from gateway.core.rollout.types import MirrorStep
from gateway.integrations.actuating import Actuators
from tests.support.backend import Backend, Peer, Seen, answer, hang
from tests.support.control import Plane, text
from tests.support.kserve_api import CANARY, STABLE, Certificates, KubernetesApi
from tests.support.worker import EVENTUALLY_S, eventually

pytestmark = pytest.mark.anyio
ALARM = "actuator of route r"
WHY = {
    "refused": "cannot be reached",
    "500": "out of memory",
    "html": "answered 200 without JSON: is it Prometheus?",
    "hangs": "has not answered within 0.25 s",
    "trickles": "has not answered within 0.25 s",
}
PERCENTS = (20, 30, 40, 50, 60)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


class ScrapedPods:
    """What a Prometheus has scraped of both revisions, and its answers."""

    def __init__(self) -> None:
        self.samples: dict[str, list[tuple[float, str]]] = {STABLE: [], CANARY: []}
        self.count = dict.fromkeys(self.samples, 0)
        self.answered = 0

    def scrape(self, at_s: float, stable: int, canary: int) -> None:
        """A scrape, after so many more requests that went well."""
        for revision, more in ((STABLE, stable), (CANARY, canary)):
            self.count[revision] += more
            self.samples[revision].append((at_s, str(self.count[revision])))

    async def script(self, seen: Seen, peer: Peer) -> None:
        """The HTTP API's answer to a range selector."""
        (query,) = parse_qs(seen.body.decode())["query"]
        (revision,) = (one for one in self.samples if f'"{one}"' in query)
        series = [{"metric": {"response_code": "200"}, "values": self.samples[revision]}]
        found = {"status": "success", "data": {"resultType": "matrix", "result": series}}
        self.answered += 1
        await answer(200, json.dumps(found).encode())(seen, peer)


async def trickle(_: Seen, peer: Peer) -> None:
    """An answer that goes on and on, a byte at a time: no single wait for it is long."""
    await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
    while True:
        await peer.send(b" ")
        await asyncio.sleep(0.01)


class World:
    """A control plane, an actuator, and the two servers that it talks to."""

    def __init__(self, plane: Plane, pods: ScrapedPods, prometheus: Backend, api: KubernetesApi) -> None:
        self.plane = plane
        self.pods = pods
        self.prometheus = prometheus
        self.api = api

    async def start(self) -> None:
        """A rollout begins, and its counters have been looked at once."""
        self.rollout = (await self.plane.controller.commands.start("r", "alice")).id
        await self.applied(20)
        before = self.pods.answered
        await eventually(lambda: self.pods.answered >= before + 4, "both revisions are read")

    async def applied(self, percent: int) -> None:
        """KServe splits so, and the actuator knows it: from now on requests count."""
        what = f"the canary gets {percent} %"
        await eventually(lambda: any(what in e.data["reason"] for e in self.plane.reported("source")), what)

    @property
    def view(self) -> RolloutView:
        return self.plane.controller.rollout(self.rollout)

    @property
    def where(self) -> tuple[Phase, int, float]:
        """Phase, step, and what the canary really gets."""
        return self.plane.state().phase, self.plane.state().step_index, self.api.share

    @property
    def counted(self) -> tuple[int, int]:
        """Requests of stable and of the canary that are judged by."""
        analysis = self.view.analysis
        return (0, 0) if analysis is None else (analysis.stable_requests, analysis.canary_requests)

    @property
    def alarm(self) -> str:
        return next((one.reason for one in self.plane.controller.alarms() if one.what == ALARM), "")

    async def passes(self, seconds: float) -> None:
        """Time passes, workers report, and the controller looks."""
        self.plane.clock.wall_now_s += seconds
        self.plane.clock.now_s += seconds
        await self.plane.serve(0, 0)
        self.plane.controller.tick()
        await self.plane.quiet()

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Look again and again, without letting time pass, until it is so."""
        async with asyncio.timeout(EVENTUALLY_S):
            while not condition():
                await asyncio.sleep(0.01)
                await self.passes(0)
        assert condition(), what

    async def good(self, requests: int = 12_000) -> None:
        """Good traffic of a few seconds, split as KServe does; all of it is counted."""
        canary = round(requests * self.api.share)
        for stable, more in ((0, 0), (requests - canary, canary)):
            await self.passes(1)
            self.pods.scrape(self.plane.clock.wall_now_s, stable, more)
        # Each revision is read by itself: one may be counted a look before the other.
        await self.until(lambda: self.counted == (self.pods.count[STABLE], self.pods.count[CANARY]), "all is counted")

    async def dies(self, how: str) -> None:
        """Prometheus is of no use from now on, and that has been noticed."""
        if how == "refused":
            await self.prometheus.stop()
        else:
            self.prometheus.script = {
                "500": answer(500, b'{"status": "error", "error": "out of memory"}'),
                "html": answer(200, b"<html>"),
                "hangs": hang,
                "trickles": trickle,
            }[how]
        await self.until(lambda: WHY[how] in " ".join(self.view.warnings), WHY[how])

    async def comes_back(self) -> None:
        """Prometheus answers, and has scraped a little more."""
        self.prometheus.script = self.pods.script
        await self.prometheus.restart()
        await self.passes(1)
        self.pods.scrape(self.plane.clock.wall_now_s, 80, 20)


@asynccontextmanager
async def world(directory: Path, certificates: Certificates, **plan: Any) -> AsyncIterator[World]:
    pods = ScrapedPods()
    with KubernetesApi(directory, certificates) as api:
        async with Backend(pods.script) as prometheus:
            found = msgspec.yaml.decode(text(plan=plan).encode())
            (directory / "state").mkdir()
            found["actuators"] = [
                {
                    "route": "r",
                    "kserve": api.config(interval_s=0.02, settle_s=0),
                    "prometheus": {
                        "url": prometheus.url,
                        "requests": 'requests{revision="$revision"}',
                        "interval_s": 0.02,
                        "timeout_s": 0.25,
                    },
                }
            ]
            async with Plane(directory, msgspec.yaml.encode(found).decode()) as plane:
                plane.never_sync()
                config = load(plane.config_path)
                actuators = Actuators(plane.controller, plane.clock)
                serving = asyncio.create_task(actuators.serve(lambda: config))
                try:
                    yield World(plane, pods, prometheus, api)
                finally:
                    serving.cancel()
                    await asyncio.gather(serving, return_exceptions=True)


def steps(*percents: int, **changes: Any) -> list[dict[str, Any]]:
    return [{"percent": percent, "min_time_s": 60, "min_requests": 0} | changes for percent in percents]


async def test_an_outage_holds_the_rollout_and_judging_goes_on_after_it(
    tmp_path: Path, certificates: Certificates
) -> None:
    async with world(tmp_path, certificates, steps=steps(*PERCENTS)) as w:
        await w.start()
        for index, (percent, how) in enumerate(zip(PERCENTS, WHY, strict=True)):
            await w.applied(percent)
            # All that the step needs but its time: without the outage it would pass.
            await w.good()
            assert w.view.analysis is not None and w.view.analysis.verdict is Verdict.PASS, w.view
            counted = w.view.canary_requests
            await w.dies(how)
            for _ in range(3):
                await w.passes(50)
                assert w.where == (Phase.PROGRESSING, index, percent / 100), how
                assert w.view.canary_requests == counted
                (warning,) = w.view.warnings
                assert warning.startswith("no verdict: ") and "Prometheus" in warning, how
                assert "Prometheus" in w.alarm, how
            assert "Prometheus" in w.view.waiting_for, how
            await w.comes_back()
            await w.until(lambda index=index: w.where[:2] != (Phase.PROGRESSING, index), "the step passes")  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        assert w.where[0] is Phase.PROMOTED
        assert w.view.warnings == ()
        await eventually(lambda: w.alarm == "", "the alarm ends")


@pytest.mark.parametrize(("on_no_data", "ends"), [("rollback", Phase.ROLLED_BACK), ("hold", Phase.PAUSED)])
async def test_a_steps_deadline_in_an_outage_never_gives_the_canary_more(
    tmp_path: Path, certificates: Certificates, on_no_data: str, ends: Phase
) -> None:
    planned = steps(20, 50, deadline_s=300, on_deadline="promote")
    async with world(tmp_path, certificates, steps=planned, on_no_data=on_no_data) as w:
        await w.start()
        await w.good()
        await w.dies("refused")
        await w.passes(200)
        assert w.where == (Phase.PROGRESSING, 0, 0.2)
        await w.passes(100)
        assert w.plane.state().phase is ends
        assert "Prometheus" in w.view.reason
        assert "a canary that was not judged is never promoted" in w.view.reason
        left = 0.2 if ends is Phase.PAUSED else 0.0
        await eventually(lambda: w.api.share == left, "KServe is told")


async def test_a_plan_that_mirrors_is_refused_where_no_request_comes_by(
    tmp_path: Path, certificates: Certificates
) -> None:
    async with world(tmp_path, certificates, steps=steps(20)) as w:
        plan = Plan(steps=(Step(2000),), mirror=MirrorStep(10_000))
        with pytest.raises(InvalidValueError, match=r"plan.mirror: an actuator splits the requests of route r"):
            await w.plane.controller.commands.start("r", "alice", plan)
        assert w.plane.state().phase is Phase.IDLE

"""The way of a sample over real processes: worker, inspector, control's observer; and what must never reach users."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import json
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from gateway import bundled
from gateway.core.predictions.events import WARM_UP, ModelKind, WatchSettings
from gateway.core.predictions.labels import LabelSettings
from gateway.core.predictions.settings import DataSettings, RouteWatch
from gateway.core.traffic.table import Mark, Route, Tap
from gateway.core.types import Variant
from gateway.runtime.samples import FOR_PREDICTIONS, Label
from tests.support.backend import Backend, Peer, Script, Seen, answer
from tests.support.inspector import RunningInspector
from tests.support.worker import RunningWorker, table

pytestmark = pytest.mark.anyio
LABELS = RouteWatch(labels=LabelSettings({"click": True, "right": False}, window_s=2.0))
VALUES = RouteWatch(watch=WatchSettings(ModelKind.VALUES))


def route(tap: Tap, **changes: Any) -> Route:
    settings: dict[str, Any] = {"weight_bp": 5000, "tap": tap, "forced_header": "x-force"}
    return Route("r", "/", "stable", "canary", **settings | changes)


def price(value: Any, headers: bytes = b"", coding: Any = bytes) -> Script:
    body = {"outputs": [{"name": "price", "datatype": "FP32", "shape": [1], "data": [value]}]}
    return answer(200, coding(json.dumps(body).encode()), b"content-type: application/json\r\n" + headers)


@contextlib.asynccontextmanager
async def running(
    tap: Tap, watch: RouteWatch, stable: Script, canary: Script, **changes: Any
) -> AsyncIterator[tuple[RunningWorker, RunningInspector, httpx.AsyncClient]]:
    """A worker before two scripted backends, with its inspector."""
    async with Backend(stable) as a, Backend(canary) as b:
        first = table(route(tap, **changes), stable=a.port, canary=b.port)
        async with RunningWorker(first) as worker, RunningInspector(worker, {"r": watch}) as inspector:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{worker.port}", timeout=20) as client:
                # The worker connects by itself; what it would send before that is lost.
                while tap.share == 1.0 and not samples(worker).keys() - {"away"}:
                    await send(client, 2)
                yield worker, inspector, client


async def send(client: httpx.AsyncClient, requests: int, **options: Any) -> list[httpx.Response]:
    """Send them one after the other; bodies are read, but not unpacked."""
    replies = []
    for _ in range(requests):
        async with client.stream("POST", "/infer", content=b"{}", **options) as reply:
            async for _ in reply.aiter_raw():
                pass
        replies.append(reply)
    return replies


def samples(worker: RunningWorker, variant: Variant | None = None) -> dict[str, int]:
    out: dict[str, int] = {}
    for one in Variant if variant is None else (variant,):
        for result, n in worker.totals(one).samples.items():
            out[result] = out.get(result, 0) + n
    out.pop(FOR_PREDICTIONS, None)  # these are among the taken ones
    return out


@contextlib.asynccontextmanager
async def model_server(name: str) -> AsyncIterator[int]:
    """A bundled model, served; yields the port."""
    command = ["-m", "gateway", "model-server", str(bundled.path(name)), "--port", "0", "--name", "digits"]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 30)
        yield int(line.decode().rpartition(":")[2])
    finally:
        process.kill()
        await process.wait()


async def test_answers_of_real_models_become_events_in_json_and_in_binary() -> None:
    heldout = bundled.heldout()
    async with model_server("digits-logreg") as a, model_server("digits-misscaled") as b:
        first = table(route(Tap(samples_per_s=10_000.0)), stable=a, canary=b)
        watch = {"r": RouteWatch(watch=WatchSettings())}
        async with RunningWorker(first) as worker, RunningInspector(worker, watch) as inspector:
            url = f"http://127.0.0.1:{worker.port}/v2/models/digits/infer"
            async with httpx.AsyncClient(timeout=20) as client:

                async def infer(number: int) -> None:
                    pixels = heldout.pixels[number % len(heldout.pixels)]
                    tensor = {"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": pixels}
                    body = {"inputs": [tensor], "parameters": {"binary_data_output": number % 2 == 0}}
                    assert (await client.post(url, json=body)).status_code == 200

                number = 0
                while min(inspector.trials("class_4")) < 60:
                    for _ in range(20):
                        await infer(number)
                        number += 1
                    assert number < 6 * WARM_UP, f"{samples(worker)} {inspector.inspection.newest}"
            stable, canary = inspector.counts()
            assert canary.events["class_4"] == canary.trials["class_4"]
            assert stable.events["class_4"] < stable.trials["class_4"] / 3
            assert stable.events["low_confidence"] < stable.trials["low_confidence"] / 2
            assert "low_confidence" not in canary.events, "it is as sure as it is wrong"
            assert {"unreadable", "nan", "empty"}.isdisjoint({*stable.events, *canary.events})
            newest = inspector.inspection.newest
            assert newest is not None and newest.meanings["r"]["class_4"] == "class 4"


async def test_a_broken_answer_is_relayed_and_an_event() -> None:
    turns = itertools.cycle(
        [
            (price(None), "nan"),
            (answer(200, b'{"outputs": []}'), "empty"),
            (answer(200, b"\xff" * 100), "unreadable"),
            (answer(200, b"[" * 50_000), "unreadable"),
            (price(None, b"content-encoding: gzip\r\n", gzip.compress), "nan"),
        ]
    )
    expected: dict[str, int] = {}

    async def broken(seen: Seen, peer: Peer) -> None:
        script, event = next(turns)
        expected[event] = expected.get(event, 0) + 1
        await script(seen, peer)

    async with running(Tap(), VALUES, price(1.0), broken) as (_, inspector, client):
        while min(inspector.trials("nan")) < 18:
            assert {reply.status_code for reply in await send(client, 10)} == {200}
        # What was sent before the worker was connected is not known to the inspector.
        seen = {event: inspector.events(event) for event in expected}
        assert all(stable == 0 for stable, _ in seen.values()), seen
        assert sum(canary for _, canary in seen.values()) == inspector.trials("nan")[1]
        assert all(0 < canary <= expected[event] for event, (_, canary) in seen.items()), (seen, expected)


async def test_what_is_not_looked_at_is_counted() -> None:
    turns = itertools.cycle(
        [
            answer(200, b"data: 1\n\n", b"content-type: text/event-stream\r\n"),
            answer(200, gzip.compress(b" " * (1 << 22)), b"content-encoding: gzip\r\n"),
            answer(200, b"{}", b"content-encoding: br\r\n"),
        ]
    )

    async def odd(seen: Seen, peer: Peer) -> None:
        await next(turns)(seen, peer)

    tap = Tap(body_bytes_max=6000)
    async with running(tap, VALUES, price(1.0), odd) as (worker, inspector, client):

        def skipped() -> int:
            newest = inspector.inspection.newest
            return 0 if newest is None else newest.results["r"]["skipped"]

        while skipped() < 4 or not samples(worker, Variant.CANARY).get("streamed"):
            await send(client, 8)
            await asyncio.sleep(0.05)
        assert inspector.events("unreadable")[1] == 0


async def test_a_body_that_is_too_large_is_not_kept() -> None:
    async with running(Tap(body_bytes_max=50), VALUES, price(1.0), price(1.0)) as (worker, inspector, _):
        assert samples(worker).keys() - {"away"} == {"too_large"}
        assert inspector.trials("nan") == (0, 0)


async def test_forced_rescued_and_failed_answers_are_no_evidence() -> None:
    """The rescued request's answer is stable's, but the request was not assigned to it."""
    async with running(Tap(samples_per_s=10_000.0), VALUES, price(1.0), answer(500)) as (worker, inspector, client):
        for forced in ("stable", "canary"):
            await send(client, 20, headers={"x-force": forced})
        await send(client, 60)
        while (counted := sum(worker.counts()[::2])) < 60 or sum(samples(worker).values()) < worker.counts()[0]:
            await asyncio.sleep(0.02)
        assert sum(samples(worker).values()) == worker.counts()[0] < counted
        assert inspector.trials("nan")[1] == 0 and samples(worker, Variant.CANARY) == {}


async def test_a_share_of_the_answers_is_looked_at() -> None:
    async with running(Tap(share=0.3, samples_per_s=10_000.0), VALUES, price(1.0), price(1.0)) as (
        worker,
        inspector,
        client,
    ):
        await send(client, 200)
        await inspector.until(lambda: worker.counts()[0] + worker.counts()[2] >= 200, "all are reported")
        assert 25 <= sum(samples(worker).values()) <= 100


async def test_an_inspector_that_hangs_costs_samples_and_nothing_else() -> None:
    padding = b"x-pad: " + b"x" * 200 + b"\r\n"
    big = answer(200, b"[" + b"1," * 100_000 + b"1]", padding)
    async with running(Tap(samples_per_s=10_000.0), VALUES, big, big) as (worker, inspector, client):
        before_kib = worker.rss_kib
        inspector.process.send_signal(signal.SIGSTOP)
        while not samples(worker).get("dropped"):
            assert {reply.status_code for reply in await send(client, 20)} == {200}
        await send(client, 100)
        assert worker.rss_kib - before_kib < 128 * 1024
        assert worker.hub.sessions != [], "reports go on"
        before = inspector.trials("unreadable")
        inspector.process.send_signal(signal.SIGCONT)
        await inspector.until(lambda: inspector.trials("unreadable") > before, "it goes on")


async def test_an_inspector_that_dies_loses_nothing_that_it_had_reported() -> None:
    async with running(Tap(), VALUES, price(1.0), price(1.0)) as (worker, inspector, client):
        while min(inspector.trials("nan")) < 10:
            await send(client, 10)
        await inspector.kill()
        ended = lambda: inspector.inspection._writer is None  # noqa: E731, SLF001  # nobody else needs to know
        await inspector.until(ended, "all that it had sent is read")
        before = inspector.trials("nan")
        assert min(before) >= 10
        await send(client, 10)
        assert inspector.trials("nan") == before
        await inspector.start()
        while min(inspector.trials("nan")) < 2 * max(before):
            assert {reply.status_code for reply in await send(client, 10)} == {200}
        assert samples(worker).get("away", 0) > 0


async def test_nonsense_on_the_socket_is_survived() -> None:
    async with running(Tap(), VALUES, price(1.0), price(1.0)) as (_, inspector, client):
        for noise in (b"\0\0\0\5hello", b"\xff" * 100, b"\0\0\0\1\x90", b""):
            _, writer = await asyncio.open_unix_connection(str(inspector.path))
            writer.write(noise)
            writer.close()
        before = inspector.trials("nan")
        while min(inspector.trials("nan")) <= max(before):
            await send(client, 10)
        assert b"protocol error" in await inspector.kill()


async def test_windows_of_requests_and_answers_reach_a_validator() -> None:
    check = (
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    rows = json.loads(line)['rows']\n"
        "    bad = sum(row['response.price'] > 1.5 and row.get('request.id', 7) == 7 for row in rows)\n"
        "    print(json.dumps({'success': not bad, 'failed_rows': bad, 'result': rows[0]}), flush=True)\n"
    )
    watch = RouteWatch(data=DataSettings((sys.executable, "-c", check), 600.0, 5))
    tap = Tap(samples_per_s=10_000.0, requests=True)
    async with running(tap, watch, price(1.0), price(2.0)) as (_, inspector, client):
        while not (found := inspector.inspection.data("r")) or min(found.judged) < 2:
            assert found is None or not found.problem, found.problem
            await client.post("/infer", json={"id": 7})
        assert found.failed[0] == 0 and 0 < found.failed[1] <= found.judged[1]
        newest = inspector.inspection.take_validated("r")[-1]
        assert json.loads(newest.result) == {"request.id": 7, "response.price": 2.0 if newest.variant else 1.0}


async def test_headers_report_events_in_every_answer() -> None:
    async def reported(seen: Seen, peer: Peer) -> None:
        number = int(seen.all(b"x-number")[0])
        happened = b"x-event: other=1, fallback=1\r\n" if number > 5 else b"x-event: other=1\r\n"
        cost = {7: b"", 8: b"x-cost: free\r\n", 9: b"x-cost: nan\r\n"}.get(number, b"X-Cost: %d.5\r\n" % number)
        await answer(200, b"ok", happened + cost)(seen, peer)

    marks = (Mark("fallback", "x-event", "fallback=1"), Mark("any", "x-event"), Mark("never", "x-absent"))
    tap = Tap(share=0.0, marks=(*marks, Mark("cost", "x-cost", None, (0.0, 4.0))))
    async with Backend(reported) as a, Backend(reported) as b:
        async with RunningWorker(table(route(tap), stable=a.port, canary=b.port)) as worker:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{worker.port}", timeout=20) as client:
                for number in range(100):
                    await send(client, 1, headers={"x-number": str(number % 10)})
            while worker.counts()[0] + worker.counts()[2] < 100:
                await asyncio.sleep(0.02)
            entry = worker.evidence()[-1]
            arms = (entry.stable, entry.canary)
            for mark in marks:
                assert [arm.trials[mark.event] for arm in arms] == [arm.requests for arm in arms]
            assert sum(arm.events.get("fallback", 0) for arm in arms) == 40
            assert sum(arm.events.get("any", 0) for arm in arms) == 100
            assert sum(arm.events.get("never", 0) for arm in arms) == 0
            # Numbers are values, clipped to 4: 0.5, 1.5, 2.5, 3.5 and three times 4, each of ten requests.
            costs: dict[int, int] = {}
            for arm in arms:
                assert "cost" not in arm.trials
                for cell, n in arm.values["cost"].items():
                    costs[cell] = costs.get(cell, 0) + n
            assert costs == {8: 10, 24: 10, 40: 10, 56: 10, 64: 30}
            seen = [worker.totals(variant).samples for variant in (0, 1)]
            assert sum(one.get("not_a_number", 0) for one in seen) == 20


async def test_labels_find_the_requests_that_they_are_of() -> None:
    async with running(Tap(share=0.0, ids=True), LABELS, price(1.0), price(1.0)) as (_, inspector, client):
        clicked = []
        for index in range(10):
            (reply, *_) = await send(client, 4)
            clicked.append(reply)
            request_id = reply.headers["x-request-id"]
            labels = [Label(request_id, "click", True), Label(request_id, "right", index % 2 == 0)]
            inspector.inspection.send_labels("r", labels)
        inspector.inspection.send_labels("r", [labels[0], Label("stranger", "click", True)])
        await inspector.until(lambda: sum(inspector.trials("click")) >= 40, "the windows are over")
        assert sum(inspector.trials("click")) == 40 and sum(inspector.events("click")) == 10
        assert sum(inspector.trials("right")) == 10 and sum(inspector.events("right")) == 5
        for index, name in enumerate(("stable", "canary")):
            of_it = [reply for reply in clicked if reply.headers["x-gateway-variant"] == name]
            assert inspector.events("click")[index] == len(of_it)

        def results() -> dict[str, int]:
            newest = inspector.inspection.newest
            return {} if newest is None else newest.labels["r"]["click"]

        await inspector.until(lambda: results()["unknown"] == 1, "the stranger is given up")
        assert (results()["matched"], results()["duplicate"]) == (10, 1)
        inspector.inspection.send_labels("r", [labels[0]])
        await inspector.until(lambda: results()["late"] == 1, "one comes late")

"""The bounded queue: refuses what is too much, frees places, forgets nobody."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.serving.errors import OverloadedError
from gateway.serving.runner import Runner


def test_jobs_beyond_the_queue_are_refused_and_places_come_free_again() -> None:
    async def scenario() -> None:
        runner, gate = Runner(threads=1, queue_max=2), threading.Event()
        admitted = [asyncio.create_task(_run(runner, gate.wait)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="3 requests are running or waiting"):
            await runner.run(lambda: None)
        gate.set()
        assert await asyncio.gather(*admitted) == [True] * 3
        assert await runner.run(lambda: "again") == "again"
        runner.close()

    asyncio.run(scenario())


def test_errors_reach_the_caller_and_leave_the_thread_alive() -> None:
    async def scenario() -> None:
        runner = Runner(threads=1, queue_max=0)
        with pytest.raises(ZeroDivisionError):
            await runner.run(lambda: 1 // 0)
        assert await runner.run(threading.current_thread) is not threading.current_thread()
        runner.close()

    asyncio.run(scenario())


def test_a_job_whose_caller_has_gone_is_skipped_and_its_place_comes_free() -> None:
    async def scenario() -> None:
        runner, gate, ran = Runner(threads=1, queue_max=1), threading.Event(), threading.Event()
        first = asyncio.create_task(_run(runner, gate.wait))
        second = asyncio.create_task(_run(runner, ran.set))
        await asyncio.sleep(0)
        second.cancel()
        gate.set()
        assert await first
        with pytest.raises(asyncio.CancelledError):
            await second
        for _ in range(3):
            while True:  # the skipped job gives its place back when its turn comes
                try:
                    assert await runner.run(lambda: "served") == "served"
                    break
                except OverloadedError:
                    await asyncio.sleep(0.001)
        assert not ran.is_set()
        runner.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(("threads", "queue_max"), [(0, 1), (1, -1)])
def test_a_runner_without_threads_or_with_a_negative_queue_is_refused(threads: int, queue_max: int) -> None:
    with pytest.raises(ValueError, match="threads >= 1 and queue_max >= 0"):
        Runner(threads, queue_max)


def test_a_full_queue_answers_503_with_retry_after_while_health_stays_live(start: Any, slow_model: Path) -> None:
    server = start(slow_model, "--queue", "1")
    content = {"inputs": [{"name": "shape", "datatype": "INT64", "shape": [2], "data": [1400, 1400]}]}

    def ask(_: int) -> httpx.Response:
        response: httpx.Response = server.infer(content, model="slow")
        return response

    with ThreadPoolExecutor(6) as clients:
        responses = list(clients.map(ask, range(6)))
        assert server.client.get("/v2/health/live").status_code == 200
    statuses = sorted(response.status_code for response in responses)
    assert statuses[:2] == [200, 200] and statuses[-1] == 503
    refused = next(response for response in responses if response.status_code == 503)
    assert refused.headers["retry-after"] == "1" and "try again later" in refused.json()["error"]


async def _run(runner: Runner, job: Any) -> Any:
    return await runner.run(job)

"""Failures inside of answers over real processes: streams of any length, clients that leave, a hanging inspector."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import signal
from collections.abc import Callable

import httpx
import pytest

from gateway.core.predictions.settings import RouteWatch
from gateway.core.traffic.table import Tap
from gateway.core.types import Variant
from gateway.inspector.aggregator import Aggregator
from gateway.inspector.answers import OPEN_MAX
from gateway.runtime.samples import FAILURES, Part, Sample
from tests.inspector.test_process import price, running, samples, send
from tests.support.backend import Peer, Script, Seen, answer

pytestmark = pytest.mark.anyio
TAP = Tap(share=0.0, failures_per_s=10_000.0)
WATCH = RouteWatch(failures=True)
TOKEN = b'data: {"choices": [{"delta": {"content": "word"}, "finish_reason": null}]}\n\n'
ERROR = b'data: {"error": {"message": "worker died", "code": 500}}\n\n'
DONE = b"data: [DONE]\n\n"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"


def stream(body: bytes, *, piece: int = 3000, headers: bytes = b"") -> Script:
    """An event stream in chunks."""

    async def script(_: Seen, peer: Peer) -> None:
        await peer.send(HEAD + headers + b"\r\n")
        for start in range(0, len(body), piece):
            part = body[start : start + piece]
            await peer.send(b"%x\r\n%b\r\n" % (len(part), part))
        await peer.send(b"0\r\n\r\n")

    return script


def endless(first: bytes) -> Script:
    """An event stream that goes on with a comment now and then."""

    async def script(_: Seen, peer: Peer) -> None:
        await peer.send(HEAD + b"\r\n%x\r\n%b\r\n" % (len(first), first))
        while True:
            await asyncio.sleep(0.01)
            await peer.send(b"2\r\n:\n\r\n")

    return script


async def until_trials(client: httpx.AsyncClient, ready: Callable[[], bool]) -> None:
    while not ready():
        assert {reply.status_code for reply in await send(client, 4)} == {200}


async def test_an_error_in_the_middle_of_a_long_stream_is_found() -> None:
    body = TOKEN * 7000 + ERROR + TOKEN * 7000 + DONE
    zipped = stream(gzip.compress(body), headers=b"content-encoding: gzip\r\n")
    turns = itertools.cycle([stream(body), zipped])

    async def canary(seen: Seen, peer: Peer) -> None:
        await next(turns)(seen, peer)

    async with running(TAP, WATCH, stream(TOKEN * 14_000 + DONE), canary) as (worker, inspector, client):
        before_kib = worker.rss_kib
        await until_trials(client, lambda: min(inspector.trials("model_errors")) >= 4)
        assert inspector.events("model_errors") == (0, inspector.trials("model_errors")[1])
        newest = inspector.inspection.newest
        assert newest is not None and "worker died" in newest.answers["r"][Variant.CANARY].examples["error"].text
        assert samples(worker).keys() <= {"taken", "away"} and worker.rss_kib - before_kib < 64 * 1024


async def test_what_a_client_received_before_it_left_counts_and_its_end_does_not() -> None:
    async with running(TAP, WATCH, endless(TOKEN), endless(TOKEN + ERROR)) as (worker, inspector, client):
        while min(inspector.trials("model_errors")) < 3:
            async with client.stream("POST", "/infer", content=b"{}") as reply:
                async for _ in reply.aiter_raw():
                    break
        assert inspector.events("model_errors") == (0, inspector.trials("model_errors")[1])
        assert samples(worker)["taken"] >= 6


async def test_what_cannot_be_read_is_counted_with_an_example_and_is_no_trial() -> None:
    bad = answer(200, b"plain", b"content-type: application/json\r\ncontent-encoding: gzip\r\n")
    odd = stream(TOKEN + DONE, headers=b"content-encoding: aws-chunked\r\n")
    turns = itertools.cycle([bad, odd])

    async def canary(seen: Seen, peer: Peer) -> None:
        await next(turns)(seen, peer)

    async with running(TAP, WATCH, price(1.0), canary) as (_, inspector, client):
        await until_trials(client, lambda: min(inspector.trials("unread")) >= 6)
        assert inspector.events("unread") == (0, inspector.trials("unread")[1])
        newest = inspector.inspection.newest
        assert newest is not None
        found = newest.answers["r"][Variant.CANARY]
        assert set(found.unread) == {"broken_coding", "unknown_coding"}
        broken = found.failures.get("broken_body", 0)
        assert (inspector.trials("model_errors")[1], found.failures) in [(0, {}), (broken, {"broken_body": broken})]
        assert "gzip" in found.examples["broken_coding"].text and "aws-chunked" in found.examples["unknown_coding"].text


async def test_any_method_and_images_are_looked_at_but_no_answer_without_a_body() -> None:
    turns = itertools.cycle(
        [
            answer(200, b"\x89PNG" + bytes(500_000), b"content-type: image/png\r\n"),
            answer(200, b"not there", b"content-type: application/json\r\n"),
        ]
    )

    async def canary(seen: Seen, peer: Peer) -> None:
        if seen.method == b"HEAD":
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")
        elif seen.target == b"/none":
            await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        else:
            await next(turns)(seen, peer)

    async with running(TAP, WATCH, canary, canary) as (worker, inspector, client):
        before_kib = worker.rss_kib
        while min(inspector.trials("model_errors")) < 4:
            for method, path in (("GET", "/image"), ("HEAD", "/image"), ("DELETE", "/none")):
                assert (await client.request(method, path)).status_code in (200, 204)
        trials, events = sum(inspector.trials("model_errors")), sum(inspector.events("model_errors"))
        assert abs(trials - 2 * events) <= 1, "every other answer is broken, and nothing else is a trial"
        assert worker.rss_kib - before_kib < 64 * 1024


async def test_an_inspector_that_hangs_drops_streams_whole_and_costs_nothing_else() -> None:
    body = TOKEN * 3000 + DONE
    tap = Tap(share=0.0, failures_per_s=10_000.0)
    async with running(tap, WATCH, stream(body, piece=60_000), stream(body, piece=60_000)) as (
        worker,
        inspector,
        client,
    ):
        inspector.process.send_signal(signal.SIGSTOP)
        while not samples(worker).get("dropped"):
            assert {reply.status_code for reply in await send(client, 20)} == {200}
        before = inspector.trials("model_errors")
        inspector.process.send_signal(signal.SIGCONT)
        await inspector.until(lambda: inspector.trials("model_errors") > before, "it goes on")
        await until_trials(client, lambda: sum(inspector.trials("model_errors")) > sum(before) + 20)
        assert inspector.events("model_errors") == (0, 0), "a stream with a part missing is not a cut one"


def part(number: int, part: Part, body: bytes = b"") -> Sample:
    return Sample("r", 1, 500, 1, body, "text/event-stream", "", "", FAILURES, number, part)


async def test_streams_that_are_under_way_are_bounded_and_forgotten_with_their_worker() -> None:
    aggregator = Aggregator("boot", lambda: 0.5)
    aggregator.watch({"r": WATCH})
    for number in range(1, OPEN_MAX + 2):
        aggregator.take(part(number, Part.FIRST, TOKEN), 0.0, source=7)
    for number in range(1, OPEN_MAX + 2):
        aggregator.take(part(number, Part.LEFT if number % 2 else Part.LOST, ERROR), 0.0, source=7)
    (entry,) = aggregator.report(0.0).report.evidence
    assert entry.canary.trials["model_errors"] == OPEN_MAX // 2 == entry.canary.events["model_errors"]
    aggregator.take(part(1, Part.FIRST, TOKEN), 0.0, source=7)
    aggregator.gone(7)
    aggregator.take(part(1, Part.ENDED, DONE), 0.0, source=7)
    assert json.loads(json.dumps(entry.canary.trials))["model_errors"] == OPEN_MAX // 2

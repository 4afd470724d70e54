"""A bad canary costs users nothing: every way of failing is answered by stable, and counted against the canary."""

from __future__ import annotations

import asyncio
import re
import signal

import httpx
import msgspec
import pytest

from gateway.core.stats.histogram import lower_us
from gateway.core.traffic.table import Endpoint, Rescue, Retry, Route, Timeouts
from tests.support.backend import Backend, Script, answer, hang, raw
from tests.support.worker import RunningWorker, eventually, table

pytestmark = pytest.mark.anyio
ALL_CANARY = Route("r", "/", stable="a", canary="b", weight_bp=10_000, timeouts=Timeouts(connect_s=20, first_byte_s=20))

GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

FAILURES: dict[str, Script] = {
    "status 500": answer(500, b"boom"),
    "status 503": answer(503, b"busy"),
    "hangs": hang,
    "closes at once": raw(b"", close=True),
    "closes inside the head": raw(b"HTTP/1.1 200 OK\r\ncont", close=True),
    "speaks nonsense": raw(b"nonsense\r\n\r\n"),
    "two lengths": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx"),
    "length and chunked": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "bad chunk at once": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "switches protocols unasked": raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
    "endless head": raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000),
}


async def test_stable_answers_in_the_same_exchange(subtests: pytest.Subtests) -> None:
    hasty = msgspec.structs.replace(ALL_CANARY, timeouts=Timeouts(connect_s=20, first_byte_s=0.75))
    async with Backend(answer(body=b"saved")) as a, Backend() as b:
        async with RunningWorker(table(hasty, a=a.port, b=b.port)) as w:
            for round_, (name, script) in enumerate(FAILURES.items(), 1):
                b.script = script
                a.seen.clear()
                with subtests.test(name):
                    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{w.port}", timeout=20) as client:
                        for i in range(3):
                            reply = await client.post("/infer", content=b"body %d" % i)
                            assert (reply.status_code, reply.text) == (200, "saved")
                            assert reply.headers["x-gateway-variant"] == "stable"
                            assert reply.headers["x-gateway-rescued"] == "true"
                    assert [seen.body for seen in a.seen] == [b"body 0", b"body 1", b"body 2"]
                    expected = 3 * round_
                    await eventually(lambda expected=expected: w.counts()[2] == expected, "canary requests are counted")
                    failures = sum(e.canary.of("errors") + e.canary.of("overload") for e in w.evidence())
                    assert failures == expected
                    assert w.counts()[0] == 0, "a rescue's own answer is not evidence"
                    assert w.totals(1).rescued == expected


async def test_a_dead_canary_is_rescued() -> None:
    async with Backend(answer(body=b"saved")) as a, Backend() as b:
        await b.stop()
        async with RunningWorker(table(ALL_CANARY, a=a.port, b=b.port)) as w:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{w.port}", timeout=20) as client:
                for _ in range(20):
                    assert (await client.get("/")).text == "saved"
            await eventually(lambda: w.counts() == (0, 0, 20, 20), f"20 failures of the canary, not {w.counts()}")


async def test_a_canary_that_was_never_tried_is_rescued_and_has_failed_nothing() -> None:
    async with Backend(answer(body=b"saved")) as a, Backend() as b:
        async with RunningWorker(table(ALL_CANARY, a=a.port, b=b.port)) as w:
            await w.publish_health(b.url)
            b.script = hang
            first = asyncio.create_task(w.raw(GET, timeout_s=60))
            await eventually(lambda: b.seen, "one request at a time finds out")
            assert (await w.raw(GET)).endswith(b"saved")
            await eventually(lambda: w.totals(1).unserved == {"no_healthy_endpoint": 1}, "it is counted apart")
            assert w.counts() == (0, 0, 0, 0), "what was not tried is nobody's failure"
            await b.stop()
            assert (await first).endswith(b"saved")
            await eventually(lambda: w.counts() == (0, 0, 1, 1), "what was tried is")
            for _ in range(9):
                assert (await w.raw(GET)).endswith(b"saved")
            await eventually(lambda: w.counts() == (0, 0, 10, 10), "and so is a refusal, which takes no time")


async def test_without_replays_the_canarys_failure_reaches_the_client() -> None:
    route = msgspec.structs.replace(ALL_CANARY, rescue=Rescue(replayable=False))
    async with Backend() as a, Backend(answer(500, b"boom")) as b:
        async with RunningWorker(table(route, a=a.port, b=b.port)) as w:
            got = await w.raw(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx")
    assert got.startswith(b"HTTP/1.1 500 ")
    assert got.endswith(b"boom")
    assert not a.seen


async def test_a_spent_budget_bounds_the_load_on_stable() -> None:
    route = msgspec.structs.replace(ALL_CANARY, rescue=Rescue(budget_percent=10, budget_burst=5))
    async with Backend() as a, Backend(answer(500, b"boom")) as b:
        async with RunningWorker(table(route, a=a.port, b=b.port)) as w:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{w.port}", timeout=20) as client:
                statuses = [(await client.get("/")).status_code for _ in range(100)]
            await eventually(lambda: w.counts()[3] == 100, "every failure is counted, rescued or not")
            assert w.totals(1).rescues_refused == {"budget": statuses.count(500)}
    assert len(a.seen) == statuses.count(200)
    assert 5 <= statuses.count(200) <= 5 + 100 * 0.10 + 1


async def test_a_body_over_the_limit_is_streamed_and_cannot_be_rescued() -> None:
    route = msgspec.structs.replace(ALL_CANARY, rescue=Rescue(body_bytes_max=1000, file_bytes_max=0))
    async with Backend() as a, Backend(answer(500, b"boom")) as b:
        async with RunningWorker(table(route, a=a.port, b=b.port)) as w:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{w.port}", timeout=20) as client:
                assert (await client.post("/", content=bytes(1000))).status_code == 200
                assert (await client.post("/", content=bytes(1001))).status_code == 500
    assert [len(seen.body) for seen in b.seen] == [1000, 1001]
    assert [len(seen.body) for seen in a.seen] == [1000]


async def test_an_answer_that_breaks_off_after_it_began_is_cut_not_completed() -> None:
    torn = raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")

    async def torn_later(seen: object, peer: object) -> None:
        await torn(seen, peer)  # type: ignore[arg-type]  # scripts are given what Backend gives them
        await asyncio.sleep(0.1)
        peer.close()  # type: ignore[attr-defined]  # a Peer

    async with Backend() as a, Backend(torn_later) as b, RunningWorker(table(ALL_CANARY, a=a.port, b=b.port)) as w:
        got = await w.raw(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"hello" in got
        assert not got.endswith(b"0\r\n\r\n"), "no fake clean end"
        await eventually(lambda: w.counts() == (0, 0, 1, 1), "the truncation counts against the canary")


async def test_a_clients_own_422_is_the_answer_of_both_and_a_class_of_its_own() -> None:
    async with Backend(answer(422, b"bad input")) as a, Backend(answer(422, b"bad input")) as b:
        async with RunningWorker(table(ALL_CANARY, a=a.port, b=b.port)) as w:
            got = await w.raw(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert got.startswith(b"HTTP/1.1 422 ")
            await eventually(lambda: w.counts()[2] == 1, "it is counted")
            (entry,) = [e for e in w.evidence() if e.canary.requests]
            assert (entry.canary.of("errors"), entry.canary.of("client_errors")) == (0, 1)


async def test_a_stale_connection_is_retried_once_and_blamed_on_nobody() -> None:
    async def once(_: object, peer: object) -> None:
        if peer.requests > 1:  # type: ignore[attr-defined]  # a Peer
            peer.reset()  # type: ignore[attr-defined]  # a Peer
        else:
            await answer()(None, peer)  # type: ignore[arg-type]  # scripts are given what Backend gives them

    async with Backend() as a, Backend(once) as b, RunningWorker(table(ALL_CANARY, a=a.port, b=b.port)) as w:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{w.port}", timeout=20) as client:
            for _ in range(10):
                reply = await client.post("/", content=b"x")
                assert (reply.status_code, reply.headers["x-gateway-variant"]) == (200, "canary")
        await eventually(lambda: w.counts() == (0, 0, 10, 0), f"ten clean canary answers, not {w.counts()}")
        assert w.totals(1).tries["stale"] >= 1


async def test_a_failing_stable_is_not_sent_to_the_canary() -> None:
    route = msgspec.structs.replace(ALL_CANARY, weight_bp=0)
    async with Backend(answer(500, b"boom")) as a, Backend() as b:
        async with RunningWorker(table(route, a=a.port, b=b.port)) as w:
            got = await w.raw(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert got.startswith(b"HTTP/1.1 500 ")
            await eventually(lambda: w.counts() == (1, 1, 0, 0), "stable's failure is stable's")
    assert not b.seen


async def test_by_default_a_dead_canary_adds_a_burst_and_a_fifth_to_stables_load() -> None:
    async with Backend() as a, Backend() as b:
        await b.stop()
        async with RunningWorker(table(ALL_CANARY, a=a.port, b=b.port)) as w:
            get = b"GET / HTTP/1.1\r\nHost: h\r\n%b\r\n"
            got = await w.raw(get % b"" * 1399 + get % b"Connection: close\r\n", timeout_s=60)
            statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", got)]
            await eventually(lambda: w.counts()[3] == 1400, "every failure is counted, rescued or not")
    burst = Rescue().budget_burst
    assert statuses[:burst].count(200) == burst, "nobody notices at first"
    # Every request adds a fifth of a token: 1000 + 0.2 n tokens for n requests.
    assert statuses.count(200) <= burst + 0.2 * 1400 + 1
    assert statuses[-100:].count(200) in range(15, 26)


async def test_a_full_queue_is_the_backends_overload_on_either_arm() -> None:
    never = asyncio.Event()

    async def wait(_: object, peer: object) -> None:
        await never.wait()

    route = msgspec.structs.replace(ALL_CANARY, weight_bp=5_000, timeouts=Timeouts(first_byte_s=20.0))
    made = table(route, a=1, b=1)
    async with Backend(wait) as a, Backend(wait) as b:
        backends = {
            name: msgspec.structs.replace(
                made.backends[name], endpoints=(Endpoint("127.0.0.1", port),), connections_max=1, queue_max=0
            )
            for name, port in (("a", a.port), ("b", b.port))
        }
        async with RunningWorker(msgspec.structs.replace(made, backends=backends)) as w:
            writers = [(await asyncio.open_connection("127.0.0.1", w.port))[1] for _ in range(40)]
            for writer in writers:
                writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")

            def assigned() -> int:
                return sum(e.stable.assigned + e.canary.assigned for e in w.evidence())

            await eventually(lambda: assigned() >= 40, "all have come")
            await eventually(lambda: w.observer.merged().faults.get("queue_full", 0) >= 30, "the queues are full")
            overload = [sum(getattr(e, arm).of("overload") for e in w.evidence()) for arm in ("stable", "canary")]
            assert min(overload) > 0, overload
            assert w.counts()[1] == w.counts()[3] == 0, "it is no error"
            assert assigned() == 40, "the coin fell 40 times"
            for writer in writers:
                writer.close()


async def test_a_retry_after_a_stale_connection_never_meets_another() -> None:
    """At the cap, with kept connections that all are about to close, the retry still gets a fresh one."""

    async def once(_: object, peer: object) -> None:
        if peer.requests > 1:  # type: ignore[attr-defined]  # a Peer
            peer.reset()  # type: ignore[attr-defined]  # a Peer
        else:
            await asyncio.sleep(0.05)
            await answer()(None, peer)  # type: ignore[arg-type]  # scripts are given what Backend gives them

    made = table(msgspec.structs.replace(ALL_CANARY, weight_bp=0), a=1)
    async with Backend(once) as a:
        spec = msgspec.structs.replace(
            made.backends["a"], endpoints=(Endpoint("127.0.0.1", a.port),), connections_max=4
        )
        async with RunningWorker(msgspec.structs.replace(made, backends={"a": spec})) as w:
            get = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx"
            for _ in range(5):
                replies = await asyncio.gather(*(w.raw(get) for _ in range(12)))
                assert all(reply.startswith(b"HTTP/1.1 200 ") for reply in replies), replies
            await eventually(lambda: w.counts() == (60, 0, 0, 0), f"sixty clean answers, not {w.counts()}")
            assert w.totals(0).tries["stale"] > 0


async def test_a_kept_connection_is_looked_at_before_a_request_that_cannot_be_resent() -> None:
    """Its end is there while the worker is stopped, and so is the next request: which one is read first is chance."""
    route = msgspec.structs.replace(ALL_CANARY, weight_bp=0, rescue=Rescue(replayable=False))
    async with Backend() as a, RunningWorker(table(route, a=a.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        for _ in range(20):
            writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx")
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")
            w.process.send_signal(signal.SIGSTOP)
            writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx")
            await asyncio.sleep(0.01)
            await a.restart()
            w.process.send_signal(signal.SIGCONT)
            got = await reader.readuntil(b"\r\n\r\n")
            assert got.startswith(b"HTTP/1.1 200 "), got
            await reader.readexactly(2)
        writer.close()


async def test_the_longest_pause_of_a_stream_is_counted_once() -> None:
    passed = asyncio.Semaphore(0)

    async def stream(_: object, peer: object) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")  # type: ignore[attr-defined]  # a Peer
        for pause_s in (0.0, 0.3, 0.05):
            await peer.send(b"1\r\nx\r\n")  # type: ignore[attr-defined]  # a Peer
            await passed.acquire()  # the gateway has seen it
            await asyncio.sleep(pause_s)
        await peer.send(b"0\r\n\r\n")  # type: ignore[attr-defined]  # a Peer

    async with Backend() as a, Backend(stream) as b, RunningWorker(table(ALL_CANARY, a=a.port, b=b.port)) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        for _ in range(3):
            await reader.readuntil(b"\r\nx\r\n")
            passed.release()
        await reader.read()
        writer.close()
        await eventually(lambda: w.counts() == (0, 0, 1, 0), "it is counted")
        (gap,) = [e.canary.gap for e in w.evidence() if e.canary.requests]
        assert len(gap) == 1 and sum(gap.values()) == 1
        assert 250_000 < lower_us(next(iter(gap))) < 10_000_000


async def test_a_reset_of_one_of_stables_endpoints_is_retried_on_another_and_counted() -> None:
    async def reset(_: object, peer: object) -> None:
        peer.reset()  # type: ignore[attr-defined]  # a Peer

    route = msgspec.structs.replace(ALL_CANARY, canary=None, weight_bp=0)
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody"
    async with Backend() as good, Backend(reset) as bad:
        async with RunningWorker(table(route, a=(good.port, bad.port))) as w:
            replies = [await w.raw(post) for _ in range(4)]
            assert all(reply.startswith(b"HTTP/1.1 200 ") for reply in replies)
            await eventually(lambda: w.counts()[0] == 4, "each is counted once")
            assert w.counts()[1] == len(bad.seen) > 0, "a try that failed is a failure, although nobody saw it"
            assert all(seen.body == b"body" for seen in good.seen)
            spent = msgspec.structs.replace(route, retry=Retry(budget_percent=0, budget_burst=0))
            await w.publish(table(spent, a=(good.port, bad.port), epoch=2))
            bad.seen.clear()
            replies = [await w.raw(post) for _ in range(4)]
            assert sum(reply.startswith(b"HTTP/1.1 502 ") for reply in replies) == len(bad.seen) > 0, "within a budget"

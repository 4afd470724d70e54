"""One endpoint or one version that fails in its own way costs users nothing: trials, retries, rescues."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from gateway.core.stats.outcomes import by_status
from gateway.core.traffic.table import Endpoint, OutlierEjection, Rescue, Retry, Route, RoutingTable, Timeouts
from gateway.proxy.counting.recent_answers import RecentAnswers
from gateway.runtime.settings import AccessLogSettings
from tests.support.backend import Backend, Peer, Script, Seen, answer, hang, raw
from tests.support.worker import RunningWorker, eventually, table

pytestmark = pytest.mark.anyio
STABLE = Route("r", "/", stable="a", timeouts=Timeouts(connect_s=20, first_byte_s=20))
CANARY = msgspec.structs.replace(STABLE, canary="b", weight_bp=10_000)
POST = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody"


def with_passive(spec: RoutingTable, **changes: float) -> RoutingTable:
    changed = {
        name: msgspec.structs.replace(backend, passive=OutlierEjection(**changes))  # type: ignore[arg-type]  # kinds vary
        for name, backend in spec.backends.items()
    }
    return msgspec.structs.replace(spec, backends=changed)


def hasty(route: Route, **timeouts: float) -> Route:
    return msgspec.structs.replace(route, timeouts=Timeouts(connect_s=20, **timeouts))


async def statuses(w: RunningWorker, count: int, request: bytes = POST) -> Counter[int]:
    """The answers to so many requests, one after the other."""
    return Counter([int((await w.raw(request, timeout_s=20))[9:12]) for _ in range(count)])


async def reset(_: Seen, peer: Peer) -> None:
    peer.reset()


# one endpoint of several (its probe is well: nobody says that it is down)


async def test_a_hung_endpoint_costs_a_wait_and_then_a_trial_at_a_time() -> None:
    async with Backend() as one, Backend() as two, Backend(hang) as hung:
        ports = (one.port, two.port, hung.port)
        spec = with_passive(table(hasty(STABLE, first_byte_s=1.0), a=ports), base_s=0.2, max_s=0.4)
        async with RunningWorker(spec) as w:
            assert await statuses(w, 30) == {200: 30}
            lost = w.totals(0).tries["errors"]
            assert lost <= 2, "two time-outs eject it"
            await eventually(lambda: ("a", hung.url) in w.observer.ejected(), "control gets it")
            hung.seen.clear()

            async def load() -> None:
                while len(hung.seen) < 3:
                    assert await statuses(w, 5) == {200: 5}

            await asyncio.gather(*(load() for _ in range(8)))
            seen = len(hung.seen)
            assert seen <= 4, "never two at once, however many ask"
            # A trial has half a second here, not the route's second.
            await eventually(lambda: w.totals(0).tries["trial"] >= seen, "its trials are over")
            assert w.totals(0).tries["errors"] == lost, "a trial cut short is no failure"
            hung.script = answer(body=b"well")
            async with asyncio.timeout(20):
                while not (await w.raw(POST)).endswith(b"well"):
                    await asyncio.sleep(0.05)
            await eventually(lambda: not w.observer.ejected(), "it is back")
            counted = w.observer.merged().notes[f"ejected a {hung.url} first_byte_timeout"]
            assert counted >= 3, "each failed trial ejects it anew"


async def test_two_of_three_endpoints_that_fail_cost_nobody_anything() -> None:
    """Were one of them kept in rotation it would fail half of the requests, and soon spend what retries may cost."""
    async with Backend() as one, Backend(reset) as two, Backend(raw(b"nonsense\r\n\r\n", close=True)) as three:
        route = msgspec.structs.replace(STABLE, retry=Retry(budget_burst=20))
        spec = with_passive(table(route, a=(one.port, two.port, three.port)), base_s=20.0)
        async with RunningWorker(spec) as w:
            assert await statuses(w, 120) == {200: 120}
            await eventually(lambda: set(w.observer.ejected()) == {("a", two.url), ("a", three.url)}, "both are out")


async def test_an_endpoint_that_fails_is_ejected_also_while_every_probe_is_refused() -> None:
    """As with a wrong probe path: what speaks for the others then is that they answer requests."""
    async with Backend() as one, Backend() as two, Backend(reset) as three:
        route = msgspec.structs.replace(STABLE, retry=Retry(budget_burst=20))
        spec = with_passive(table(route, a=(one.port, two.port, three.port)), base_s=20.0)
        async with RunningWorker(spec) as w:
            await w.publish_health(one.url, two.url, three.url)
            assert await statuses(w, 200) == {200: 200}
            await eventually(lambda: set(w.observer.ejected()) == {("a", three.url)}, "it is out")


async def test_requests_under_way_on_a_hung_endpoint_are_no_more_than_on_its_siblings() -> None:
    async def slowly(seen: Seen, peer: Peer) -> None:
        await asyncio.sleep(0.05)
        await answer()(seen, peer)

    async with Backend(slowly) as one, Backend(slowly) as two, Backend(hang) as hung:
        async with RunningWorker(table(STABLE, a=(one.port, two.port, hung.port))) as w:
            asked = [asyncio.create_task(w.raw(POST, timeout_s=60)) for _ in range(30)]
            await eventually(lambda: hung.open == 10, "each has a third of thirty")
            got = Counter(one_[9:12] for one_ in await asyncio.gather(*asked[:1]) if one_)
            assert got in ({b"200": 1}, {})
            assert await statuses(w, 40) == {200: 40}, "nobody else goes there"
            assert len(hung.seen) == 10
            for task in asked:
                task.cancel()


GARBAGE: dict[str, Script] = {
    "a reset": reset,
    "a clean end": raw(b"", close=True),
    "nonsense": raw(b"nonsense\r\n\r\n", close=True),
    "half a head": raw(b"HTTP/1.1 200 OK\r\ncont", close=True),
    "two lengths": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx"),
    "a bad chunk": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
}


async def test_what_breaks_off_before_its_answer_is_tried_elsewhere(subtests: pytest.Subtests) -> None:
    async with Backend() as one, Backend() as two, Backend() as bad:
        ports = (one.port, two.port, bad.port)
        async with RunningWorker(with_passive(table(STABLE, a=ports), failures=1000)) as w:
            for name, script in GARBAGE.items():
                bad.script = script
                bad.seen.clear()
                with subtests.test(name):
                    before = sum(w.totals(0).retries.values())
                    assert await statuses(w, 12) == {200: 12}
                    assert len(bad.seen) >= 3
                    await eventually(
                        lambda before=before: sum(w.totals(0).retries.values()) == before + len(bad.seen),
                        "each is counted",
                    )
            await bad.stop()
            assert await statuses(w, 12) == {200: 12}, "a refused connection"
            bodies = [bytes(seen.body) for seen in (*one.seen, *two.seen)]
            assert set(bodies) == {b"body"}, "whole, each time"
            assert w.counts()[1] == sum(w.totals(0).retries.values()), "each is a failure of its variant all the same"


async def test_retries_have_a_budget_that_a_spent_rescue_budget_does_not_touch() -> None:
    route = msgspec.structs.replace(
        STABLE, retry=Retry(budget_percent=0, budget_burst=3), rescue=Rescue(budget_percent=0, budget_burst=0)
    )
    async with Backend() as good, Backend(reset) as bad:
        async with RunningWorker(with_passive(table(route, a=(good.port, bad.port)), failures=1000)) as w:
            got = await statuses(w, 20)
            assert got == {200: 20 - (len(bad.seen) - 3), 502: len(bad.seen) - 3}
            await eventually(lambda: w.totals(0).retries == {"reset": 3}, "retries are counted")
            await eventually(lambda: w.totals(0).retries_refused == {"budget": got[502]}, "and refusals")


async def test_an_answer_by_its_status_is_tried_again_only_where_the_route_says_so() -> None:
    async with Backend() as good, Backend(answer(502)) as bad:
        spec = with_passive(table(STABLE, a=(good.port, bad.port)), failures=1000)
        async with RunningWorker(spec) as w:
            assert await statuses(w, 10) == {200: 5, 502: 5}
            wants = msgspec.structs.replace(STABLE, retry=Retry(statuses=("502",)))
            await w.publish(msgspec.structs.replace(spec, epoch=2, routes=(wants,)))
            assert await statuses(w, 10) == {200: 10}


async def test_the_only_endpoint_is_asked_once_more_after_a_moment() -> None:
    first: list[bool] = []

    async def once(seen: Seen, peer: Peer) -> None:
        first.append(not first)
        await (reset if first[-1] else answer())(seen, peer)

    async with Backend(once) as a, RunningWorker(table(STABLE, a=a.port)) as w:
        assert await statuses(w, 1) == {200: 1}
        await eventually(lambda: w.counts() == (1, 1, 0, 0), "the first failure counts")
        a.script = reset
        a.seen.clear()
        assert await statuses(w, 1) == {502: 1}
        assert len(a.seen) == 3, "the kept connection, a fresh one, and once more"
        never = msgspec.structs.replace(STABLE, rescue=Rescue(replayable=False))
        await w.publish(table(never, a=a.port, epoch=2))
        a.seen.clear()
        assert await statuses(w, 1) == {502: 1}
        assert len(a.seen) == 1, "what may not be sent twice is not"


async def test_a_hung_endpoint_is_ejected_also_where_the_whole_time_ends_first() -> None:
    async with Backend() as good, Backend(hang) as hung:
        route = hasty(STABLE, first_byte_s=20, total_s=0.3)
        spec = with_passive(table(route, a=(good.port, hung.port)), failures=2, base_s=600, max_s=600)
        async with RunningWorker(spec) as w:
            got = await statuses(w, 12)
            assert got[504] == 2 and got[200] == 10


# rescues


async def test_rescue_statuses_are_the_routes_own() -> None:
    route = msgspec.structs.replace(CANARY, rescue=Rescue(statuses=("404", "503"), unlike_stable=False))
    async with Backend() as a, Backend(answer(404)) as b, RunningWorker(table(route, a=a.port, b=b.port)) as w:
        assert await statuses(w, 1) == {200: 1}
        b.script = answer(500)
        assert await statuses(w, 1) == {500: 1}
        b.script = answer(503)
        assert await statuses(w, 1) == {200: 1}


LACKING = (204, 302, 400, 401, 404, 410, 422)
GET = b"GET / HTTP/1.1\r\nHost: h\r\n%b\r\n"


async def at_weight(w: RunningWorker, weight_bp: int) -> None:
    await w.publish(w.table.with_weight("r", weight_bp))


async def ask(w: RunningWorker, count: int) -> None:
    """So many requests, one behind the other on one connection."""
    await w.raw(GET % b"" * (count - 1) + GET % b"Connection: close\r\n", timeout_s=20)


@pytest.mark.parametrize("request_", [POST, GET % b"Connection: close\r\n"], ids=["post", "get"])
@pytest.mark.parametrize("status", LACKING)
async def test_a_canary_that_answers_what_stable_never_does_is_rescued_by_default(status: int, request_: bytes) -> None:
    """From its very first answer on: nothing needs to be known of stable."""
    body = b"" if status == 204 else b"no"
    async with Backend() as a, Backend(answer(status, body=body)) as b:
        async with RunningWorker(table(CANARY, a=a.port, b=b.port)) as w:
            assert await statuses(w, 5, request_) == {200: 5}
            kind = by_status()[status]
            await eventually(lambda: w.totals(1).rescued == 5, "all are rescued")
            assert w.totals(1).tries[kind] == 5, "and its failures all the same"


@pytest.mark.parametrize("method", [b"HEAD", b"POST"])
async def test_an_empty_answer_is_rescued_where_a_body_was_due(method: bytes) -> None:
    request = method + b" / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    async with Backend() as a, Backend(answer(body=b"")) as b:
        async with RunningWorker(table(CANARY, a=a.port, b=b.port)) as w:
            assert await statuses(w, 3, request) == {200: 3}
            assert len(a.seen) == (0 if method == b"HEAD" else 3)


async def test_a_large_body_reaches_stable_whole_after_an_unlike_answer() -> None:
    sent = bytes(range(256)) * 2000
    request = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(sent)
    async with Backend() as a, Backend(answer(404)) as b:
        async with RunningWorker(table(CANARY, a=a.port, b=b.port)) as w:
            assert await statuses(w, 1, request + sent) == {200: 1}
            assert a.seen[0].body == sent


@pytest.mark.parametrize("status", [201, 202])
async def test_a_success_in_another_form_is_an_answer(status: int) -> None:
    async with Backend() as a, Backend(answer(status)) as b:
        async with RunningWorker(table(CANARY, a=a.port, b=b.port)) as w:
            assert await statuses(w, 3) == {status: 3} and not a.seen


@pytest.mark.parametrize("status", LACKING)
async def test_what_both_versions_answer_is_not_asked_for_twice(status: int) -> None:
    body = b"" if status == 204 else b"no"
    async with Backend(answer(status, body=body)) as a, Backend(answer(status, body=body)) as b:
        async with RunningWorker(table(CANARY, a=a.port, b=b.port)) as w:
            assert await statuses(w, 10) == {status: 10}
            assert len(a.seen) <= 1, "to know of stable takes one answer"


async def test_a_class_of_which_stable_gives_few_is_rescued_when_the_canary_gives_it_to_all() -> None:
    """Stable's own 404s (a tenth) do not hide that the canary answers nothing else."""
    count = itertools.count()

    async def every_tenth(seen: Seen, peer: Peer) -> None:
        await answer(404 if next(count) % 10 == 0 else 200)(seen, peer)

    async with Backend(every_tenth) as a, Backend() as b:
        async with RunningWorker(table(CANARY, a=a.port, b=b.port)) as w:
            await at_weight(w, 0)
            await ask(w, 200)
            await at_weight(w, 10_000)
            b.script = answer(404)
            asked = len(a.seen)
            seen = await statuses(w, 20)
            assert len(a.seen) == asked + 20 and seen[200] == 18, "and two are stable's own"


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("share", [0.02, 0.3])
def test_two_equal_versions_are_not_doubled_in_load(share: float, seed: int) -> None:
    draw = random.Random(seed).random
    stable: dict[str, int] = {}
    canary: dict[str, int] = {}
    recent = RecentAnswers(stable, canary)
    rescued, asked = 0, 20_000
    for _ in range(asked):
        kind = "not_found" if draw() < share else "ok"
        if draw() < 0.5:
            stable[kind] = stable.get(kind, 0) + 1
            continue
        if kind != "ok" and recent.canary_has_more(kind):
            rescued += 1
            stable[kind] = stable.get(kind, 0) + 1
        canary[kind] = canary.get(kind, 0) + 1
    assert rescued < 0.12 * share * asked / 2, f"seed {seed}: {rescued} of {share * asked / 2:.0f}"


def test_what_stable_did_long_ago_says_nothing_of_now() -> None:
    stable, canary = {"ok": 400, "not_found": 600}, {"ok": 10}
    recent = RecentAnswers(stable, canary)
    stable["not_found"] += 600
    assert not recent.canary_has_more("not_found")
    for _ in range(2):
        stable["ok"] += 600
        recent.move_on()
    assert recent.canary_has_more("not_found")


async def test_half_of_the_budget_is_kept_for_what_is_broken() -> None:
    route = msgspec.structs.replace(CANARY, rescue=Rescue(budget_percent=0, budget_burst=4))
    async with Backend() as a, Backend(answer(404)) as b, RunningWorker(table(route, a=a.port, b=b.port)) as w:
        assert await statuses(w, 4) == {200: 2, 404: 2}
        b.script = answer(500)
        assert await statuses(w, 3) == {200: 2, 500: 1}


async def test_two_slow_versions_are_not_asked_one_after_the_other() -> None:
    """Scaled down: answers that take longer than the 1.5 s that are allowed, in a total of 30 s."""
    half = msgspec.structs.replace(hasty(CANARY, first_byte_s=1.5, total_s=30.0), weight_bp=5_000)
    async with Backend(hang) as a, Backend(hang) as b, RunningWorker(table(half, a=a.port, b=b.port)) as w:
        got = Counter(one[9:12] for one in await asyncio.gather(*(w.raw(POST, timeout_s=20) for _ in range(20))))
        assert got == {b"504": 20}
        await eventually(lambda: w.counts()[0] + w.counts()[2] == 20, "all are counted")
        assert len(a.seen) + len(b.seen) == 20, "each was computed once"
        refused = w.totals(1).rescues_refused
        assert refused == {"no_time": len(b.seen)} or not b.seen


async def test_a_hung_canary_leaves_stable_its_time_where_the_total_is_short() -> None:
    short = hasty(CANARY, first_byte_s=2.0, total_s=2.0)
    async with Backend(answer(body=b"saved")) as a, Backend(hang) as b:
        spec = table(msgspec.structs.replace(short, weight_bp=0), a=a.port, b=b.port)
        async with RunningWorker(spec) as w:
            assert await statuses(w, 3) == {200: 3}
            await w.publish(spec.with_weight("r", 10_000))
            assert (await w.raw(POST)).endswith(b"saved")
            await eventually(lambda: w.counts()[2:] == (1, 1), "and that it hung is its failure")


async def test_every_rescue_that_is_refused_says_why(tmp_path: Path) -> None:
    torn = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart")

    async def torn_later(seen: Seen, peer: Peer) -> None:
        await torn(seen, peer)
        await asyncio.sleep(0.1)
        peer.close()

    cases: dict[str, tuple[Route, Script]] = {
        "budget": (msgspec.structs.replace(CANARY, rescue=Rescue(budget_percent=0, budget_burst=0)), answer(500)),
        "not_replayable": (msgspec.structs.replace(CANARY, rescue=Rescue(replayable=False)), answer(500)),
        "body_not_kept": (
            msgspec.structs.replace(CANARY, rescue=Rescue(body_bytes_max=1, file_bytes_max=0)),
            answer(500),
        ),
        "answer_begun": (CANARY, torn_later),
        "no_time": (hasty(CANARY, first_byte_s=20, total_s=0.2), hang),
    }
    path = tmp_path / "log"
    async with Backend() as a, Backend() as b:
        spec = table(CANARY, a=a.port, b=b.port)
        async with RunningWorker(spec, access_log=AccessLogSettings(path=str(path))) as w:
            for reason, (route, script) in cases.items():
                b.script = script
                await w.publish(msgspec.structs.replace(spec, epoch=w.table.epoch + 1, routes=(route,)))
                await w.raw(POST)
                await eventually(lambda reason=reason: w.totals(1).rescues_refused.get(reason) == 1, reason)
            lines = lambda: re.findall(r'"rescue_refused":"(\w+)"', path.read_text())  # noqa: E731  # read anew
            await eventually(lambda: lines() == list(cases), "and so do the lines of the log")
    assert not a.seen


# what was never tried


async def test_no_room_is_nobodys_failure_while_endpoints_are_kept_out() -> None:
    made = table(STABLE, a=1)
    async with Backend(hang) as busy, Backend() as away:
        ends = (Endpoint("127.0.0.1", busy.port), Endpoint("127.0.0.1", away.port))
        backend = msgspec.structs.replace(made.backends["a"], endpoints=ends, connections_max=1, queue_max=0)
        async with RunningWorker(msgspec.structs.replace(made, backends={"a": backend})) as w:
            await w.publish_health(away.url)
            held = asyncio.create_task(w.raw(POST, timeout_s=60))
            await eventually(lambda: busy.seen, "the one that is left is busy")
            assert await statuses(w, 3) == {503: 3}
            await eventually(lambda: w.totals(0).unserved == {"queue_full": 3}, "they are counted apart")
            assert w.counts() == (0, 0, 0, 0)
            held.cancel()

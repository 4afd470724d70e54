"""A request that hangs has been assigned and has no outcome: over real connections, that alone holds a PASS."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.core.analysis import AnalysisSpec, Evidence, LatencySpec, Mode, RateSpec, Verdict, fresh_state, look
from gateway.core.analysis.spec import RATE_METRICS
from gateway.core.traffic import Route
from gateway.core.traffic.table import Timeouts
from tests.support.backend import Backend, Peer, Seen, answer
from tests.support.worker import RunningWorker, eventually, table

pytestmark = pytest.mark.anyio

HANGS = 30
# Content with little, so that a few hundred requests prove it.
EASY: dict[str, Any] = dict.fromkeys(RATE_METRICS, RateSpec(margin_delta=0.3))
SPEC = AnalysisSpec(latency=LatencySpec(mode=Mode.OFF), alpha_sample_ratio=0.0, **EASY)


async def test_a_canary_whose_requests_hang_does_not_pass_until_they_are_over() -> None:
    released = asyncio.Event()
    hanging = 0

    async def some_hang(seen: Seen, peer: Peer) -> None:
        nonlocal hanging
        if hanging < HANGS:
            hanging += 1
            await released.wait()
        await answer()(seen, peer)

    route = Route("r", "/", "a", "b", 5000, timeouts=Timeouts(first_byte_s=50.0, total_s=60.0))
    async with Backend(answer()) as a, Backend(some_hang) as b, RunningWorker(table(route, a=a.port, b=b.port)) as w:
        request = b"GET /m HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        tasks = [asyncio.create_task(w.raw(request)) for _ in range(150)]

        def all_but_those_that_hang() -> bool:
            entry = w.evidence()[-1]
            assigned, known = (
                sum(getattr(arm, name) for arm in (entry.stable, entry.canary)) for name in ("assigned", "requests")
            )
            return assigned == 150 and known == 150 - HANGS

        await eventually(all_but_those_that_hang, "all but those that hang are reported")
        entry = w.evidence()[-1]
        assert entry.canary.assigned - entry.canary.requests == HANGS
        assert entry.stable.assigned == entry.stable.requests and entry.stable.lasted_us > 0
        state, seen = look(SPEC, fresh_state(SPEC), Evidence(1.0, (entry,)))
        assert seen.verdict is Verdict.UNDECIDED and "have no outcome yet" in seen.reason, seen.reason

        released.set()
        await asyncio.gather(*tasks)
        await eventually(lambda: w.evidence()[-1].canary.requests == entry.canary.assigned, "they are over")
        _, seen = look(SPEC, state, Evidence(2.0, (w.evidence()[-1],)))
        assert seen.verdict is Verdict.PASS, seen.reason

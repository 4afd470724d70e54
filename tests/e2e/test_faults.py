"""Faults of whole backends and of files, met by the whole gateway: what must happen, and what must not."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import httpx
import pytest

from gateway.proxy.listen.certificates import read_certificate
from tests.support.backend import Backend, Peer, Seen, answer
from tests.support.certificates import Authority, Pair
from tests.support.gateway import WARM, RunningGateway, Traffic, config
from tests.support.worker import EVENTUALLY_S

pytestmark = pytest.mark.anyio
OUTPUT = {"name": "price", "datatype": "FP32", "shape": [1], "data": [1.5]}
GOOD = answer(200, json.dumps({"outputs": [OUTPUT]}).encode(), b"content-type: application/json\r\n")
NONSENSE = answer(200, b'{"error": "out of memory"}', b"content-type: application/json\r\n")


async def test_when_stable_dies_the_canary_neither_takes_over_nor_pays_for_it(tmp_path: Path) -> None:
    """Fault 2: no rollback, no promotion, no more for the canary than its share, and quick, honest refusals."""
    plan = {"steps": [{"percent": 20, "min_time_s": 1.5, "min_requests": 20}]}
    async with Backend() as s, Backend() as c:
        async with RunningGateway(tmp_path, config(s.url, c.url, plan=plan)) as gateway:
            rollout = await gateway.start_rollout()
            await s.stop()
            async with Traffic(gateway.url, rate_hz=400) as traffic:
                await traffic.fails(40)
                before = len(traffic.failures), traffic.variants.get("canary", 0)
                await asyncio.sleep(3.0)  # twice as long as the step has to last
                await traffic.fails(before[0] + 80)
                view = await gateway.rollout(rollout)
                failed, served = len(traffic.failures) - before[0], traffic.variants["canary"] - before[1]
                assert (view["phase"], view["canary_percent"]) == ("PROGRESSING", 20), view["reason"]
                assert set(traffic.variants) == {"canary"}
                assert 0 < served < 0.4 * (failed + served), "no more than its share comes to the canary"
                assert all(text.startswith(("502 ", "503 ")) for text in traffic.failures), traffic.failures[-1]
                (alarm,) = await gateway.until_alarms(1)
                assert "nobody to" in alarm["reason"] or "nothing to compare" in alarm["reason"], alarm
                await s.restart()
                await gateway.until_alarms(0)
                assert (await gateway.rollout(rollout))["phase"] == "PROGRESSING"


async def test_a_canary_that_is_fast_because_it_fails_is_rolled_back(tmp_path: Path) -> None:
    """Fault 47: it is thirty times as fast as stable, in every answer."""

    async def slowly(seen: Seen, peer: Peer) -> None:
        await asyncio.sleep(0.03)
        await answer()(seen, peer)

    analysis = {"latency": {"mode": "decide"}, **WARM}
    async with Backend(slowly) as s, Backend(answer(500, b"")) as c:
        async with RunningGateway(tmp_path, config(s.url, c.url, analysis=analysis)) as gateway:
            async with Traffic(gateway.url) as traffic:
                rollout = await gateway.start_rollout()
                view = await gateway.until_phase(rollout, "PROMOTED", "ROLLED_BACK")
            assert (view["phase"], view["causes"]) == ("ROLLED_BACK", ["errors"])
            assert max(step["percent"] for step in view["plan"]["steps"]) > view["canary_percent"] == 0
            assert traffic.failures == []


async def test_nonsense_with_status_200_is_seen_where_answers_are_looked_at(tmp_path: Path) -> None:
    """Fault 46; what nobody looks at stays a blind spot (docs/predictions.md)."""
    analysis = {"latency": {"mode": "advise"}, "predictions": {"kind": "values", "samples_per_s_max": 1000}}
    async with Backend(GOOD) as s, Backend(NONSENSE) as c:
        async with RunningGateway(tmp_path, config(s.url, c.url, analysis=analysis)) as gateway:
            async with Traffic(gateway.url, rate_hz=400) as traffic:
                rollout = await gateway.start_rollout()
                view = await gateway.until_phase(rollout, "PROMOTED", "ROLLED_BACK")
            assert traffic.failures == []
    # What is no prediction is also no answer of stable's form: what is proven first, or at the same look, is named.
    assert view["phase"] == "ROLLED_BACK" and set(view["causes"]) <= {"unreadable", "model_errors"}, view["causes"]


async def test_a_certificate_that_ends_soon_is_an_alarm_until_it_is_renewed(tmp_path: Path) -> None:
    """Fault 57: operators see it before clients do."""
    authority = Authority(tmp_path)
    soon, renewed = (authority.sign("gateway.test", file=f"days{days}", days=days) for days in (1, 30))
    live = Pair(tmp_path / "live.pem", tmp_path / "live.key")
    shutil.copy(soon.key, live.key)
    shutil.copy(soon.cert, live.cert)
    async with Backend() as s:
        settings = config(s.url, None)
        settings["tls"] = {"certificates": [{"cert_file": str(live.cert), "key_file": str(live.key)}]}
        async with RunningGateway(tmp_path, settings) as gateway:
            (alarm,) = await gateway.until_alarms(1)
            assert alarm["what"] == "certificate" and "a TLS certificate for clients ends in 2" in alarm["reason"]
            assert await _metric(gateway.admin, "gateway_tls_certificate_not_after_seconds") == _end_of(soon)
            assert (await gateway.admin.get("/readyz")).status_code == 200, "traffic does not suffer from it"
            shutil.copy(renewed.key, live.key)
            shutil.copy(renewed.cert, live.cert)
            async with asyncio.timeout(EVENTUALLY_S):  # for a moment the key is the new one and the certificate is not
                series = "gateway_tls_certificate_not_after_seconds"
                while await _metric(gateway.admin, series) != _end_of(renewed):
                    await asyncio.sleep(0.05)
            await gateway.until_alarms(0)


def _end_of(pair: Pair) -> float:
    return read_certificate(pair.cert).not_after_s


async def _metric(admin: httpx.AsyncClient, series: str) -> float | None:
    lines = (await admin.get("/metrics")).text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{series} ")), None)

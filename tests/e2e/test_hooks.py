"""Hooks and gates beside the whole process tree: called at least once, also for what happened meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.hooks.receiver import Received, WebReceiver, reply
from tests.support.backend import Backend
from tests.support.gateway import RunningGateway, Traffic, config
from tests.support.worker import eventually

pytestmark = pytest.mark.anyio

GATED = {"steps": [{"percent": 20, "min_time_s": 0.2, "min_requests": 5, "gate": "load-test"}]}


def kinds(received: list[Received]) -> list[str]:
    """The kinds of the transitions that arrived, without repetitions."""
    events = {one.headers.get("webhook-id", one.body): one.body for one in received}
    return [json.loads(body)["type"].rpartition(".")[2] for body in events.values()]


async def test_a_rollout_waits_for_its_gate_and_calls_its_hooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_SECRET", "a secret of many bytes")
    asked_while_closed = 2
    async with (
        Backend() as s,
        Backend() as c,
        WebReceiver() as hook,
        WebReceiver(lambda n: reply(403 if n < asked_while_closed else 200)) as gate,
        WebReceiver(lambda _: reply(202)) as pager,
    ):
        more: dict[str, Any] = {
            "hooks": [
                {"name": "ci", "url": hook.url, "secret_env": "HOOK_SECRET"},
                {"name": "oncall", "pagerduty": {"url": pager.url, "routing_key_env": "HOOK_SECRET"}},
            ],
            "gates": [{"name": "load-test", "url": gate.url, "interval_s": 0.1}],
        }
        async with RunningGateway(tmp_path, config(s.url, c.url, plan=GATED) | more) as gateway:
            async with Traffic(gateway.url, rate_hz=200):
                rollout = await gateway.start_rollout()
                view = await gateway.until_phase(rollout, "PROMOTED", "ROLLED_BACK", timeout_s=120)
            assert view["phase"] == "PROMOTED", view["reason"]
            assert len(gate.received) == asked_while_closed + 1
            await eventually(lambda: "promoted" in kinds(hook.received), "the hook gets the promotion")
            assert kinds(hook.received)[:2] == ["started", "advanced"]
            await eventually(lambda: bool(pager.received), "the promotion resolves what may be open")
            (event,) = (json.loads(one.body) for one in pager.received)
            assert (event["event_action"], event["dedup_key"]) == ("resolve", f"canary-gateway/{rollout}")
            assert all("webhook-signature" in one.headers for one in hook.received)
            counted = await gateway.admin.get("/metrics")
            assert f'gateway_gate_answers_total{{answer="unreachable",gate="load-test"}} {asked_while_closed}.0' in (
                counted.text
            )
            assert 'gateway_gate_answers_total{answer="passed",gate="load-test"} 1.0' in counted.text
            assert 'gateway_hook_messages_total{hook="ci",result="dropped"} 0.0' in counted.text
            reported = json.loads(hook.received[-1].body)
            assert reported["data"]["id"] == rollout and reported["id"].startswith(rollout)

            # Another receiver: over the API it is refused, and what does change it is said; from the file it is taken.
            async with WebReceiver() as late:
                more["hooks"] = [{"name": "late", "url": late.url}]
                text = yaml.safe_dump(yaml.safe_load(gateway.path.read_text()) | more)
                yaml_text = {"content-type": "application/yaml"}
                refused = await gateway.admin.put("/api/v1/config", content=text, headers=yaml_text)
                assert (refused.status_code, refused.json()["title"]) == (409, "This change needs a restart")
                assert "cannot change hooks" in refused.text and "reload it (SIGHUP)" in refused.text
                gateway.path.write_text(text)
                taken = await gateway.admin.post("/api/v1/config/reload")
                assert (taken.status_code, taken.json()["changed"]) == (200, ["hooks"]), taken.text
                series = 'gateway_hook_messages_total{hook="late",result="delivered"}'
                async with asyncio.timeout(20):
                    while series not in (await gateway.admin.get("/metrics")).text:
                        await asyncio.sleep(0.05)
                before = len(hook.received)
                await gateway.admin.post(f"/api/v1/rollouts/{rollout}/abort", json={"reason": "after all"})
                await eventually(lambda: kinds(late.received) == ["rolled_back"], "the new receiver gets it")
                assert len(hook.received) == before, "the old one is not"


async def test_what_a_dead_control_process_had_not_sent_is_sent_by_the_next(tmp_path: Path) -> None:
    slow = {"steps": [{"percent": 20, "min_time_s": 3600, "min_requests": 5}]}
    down = True
    async with Backend() as s, Backend() as c, WebReceiver(lambda _: reply(503 if down else 204)) as hook:
        more = {"hooks": [{"name": "ci", "url": hook.url}]}
        async with RunningGateway(tmp_path, config(s.url, c.url, plan=slow) | more) as gateway:
            rollout = await gateway.start_rollout()
            await gateway.admin.post(f"/api/v1/rollouts/{rollout}/abort", json={"reason": "no"})
            await eventually(lambda: bool(hook.received), "the receiver has refused the first letter")
            # A rollback is applied before it is journaled; the decision history is read after it, from the same disk.
            history = (await gateway.admin.get(f"/api/v1/rollouts/{rollout}/story")).json()
            assert [decision["phase"] for decision in history["decisions"]] == ["PROGRESSING", "ROLLED_BACK"]
            (control,) = gateway.children()["control"]
            os.kill(control, signal.SIGKILL)
            refused, down = len(hook.received), False
            await eventually(
                lambda: {"started", "rolled_back"} <= set(kinds(hook.received[refused:])), "both get it at last"
            )
            order = kinds(hook.received[refused:])
            assert order.index("started") < order.index("rolled_back")
            ids = [json.loads(one.body)["id"] for one in hook.received[refused:]]
            assert f"{rollout}.1" in ids and f"{rollout}.2" in ids


async def test_a_control_process_that_hangs_is_noticed_and_replaced(tmp_path: Path) -> None:
    async with Backend() as s, Backend() as c:
        async with RunningGateway(tmp_path, config(s.url, c.url)) as gateway:
            async with Traffic(gateway.url, rate_hz=50) as traffic:
                (control,) = gateway.children()["control"]
                os.kill(control, signal.SIGSTOP)
                async with asyncio.timeout(90):  # it is given fifteen seconds, and this machine may be slow
                    while control in gateway.children()["control"]:
                        await asyncio.sleep(0.1)
                await eventually(lambda: bool(gateway.children()["control"]), "there is another")
                await gateway.ready()
                await traffic.reaches(traffic.total + 20)
            assert traffic.failures == []
            assert re.search(rb"control \(process \d+, state T\) hangs: no heartbeat", gateway.log)
            assert b"connection to control lost (nothing received for 10 s)" in gateway.log

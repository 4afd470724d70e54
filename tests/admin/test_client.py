"""Both clients against the admin API on a real socket."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import threading
from typing import Any

import httpx
import pytest

from gateway import client as package
from gateway.client import (
    AsyncClient,
    Client,
    InvalidRequestError,
    RefusedError,
    UnauthorizedError,
    UnexpectedAnswerError,
    UnknownNameError,
    WaitTimeoutError,
)
from gateway.client.calls import Call


@pytest.fixture
def gateway_client(served: Any) -> Any:
    with Client(served.url) as client:
        yield client


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        found = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(f).parameters) for name, f in found if not name.startswith("_")}

    assert methods(Client) == methods(AsyncClient)


def test_a_key_finds_the_rollout_again(gateway_client: Client) -> None:
    first = gateway_client.start_rollout("digits", idempotency_key="build-1")
    assert gateway_client.start_rollout("digits", idempotency_key="build-1") == first
    with pytest.raises(RefusedError):
        gateway_client.start_rollout("digits", idempotency_key="build-2")
    assert gateway_client.find("digits").id == first.id


def test_a_rollout_is_steered_and_waited_for(gateway_client: Client) -> None:
    rollout = gateway_client.start_rollout("digits", reason="weekly")
    told: list[str] = []
    waited = threading.Thread(target=lambda: told.append(gateway_client.wait(rollout, 30).phase))
    waited.start()
    assert gateway_client.pause(rollout.id).phase == "PAUSED"
    assert gateway_client.resume(rollout.id).phase == "PROGRESSING"
    assert gateway_client.abort(rollout.id, "enough").phase == "ROLLED_BACK"
    waited.join(30)
    assert told == ["ROLLED_BACK"]
    assert [one.phase for one in gateway_client.explain(rollout.id).decisions][-1] == "ROLLED_BACK"


def test_waiting_has_a_limit(gateway_client: Client) -> None:
    rollout = gateway_client.start_rollout("digits")
    with pytest.raises(WaitTimeoutError) as caught:
        gateway_client.wait(rollout, 0.05)
    assert caught.value.rollout.id == rollout.id


def test_refusals_are_typed(gateway_client: Client, guarded: Any) -> None:
    with pytest.raises(UnknownNameError) as unknown:
        gateway_client.route("nowhere")
    assert (unknown.value.status, unknown.value.problem) == (404, "not-found")
    with pytest.raises(InvalidRequestError):
        gateway_client.set_weight("digits", 101)
    with pytest.raises(UnauthorizedError), Client(guarded.url) as stranger:
        stranger.routes()
    with pytest.raises(UnexpectedAnswerError):
        gateway_client.ask(Call("GET", "/routes", package.RolloutBody))


def test_events_come_as_values(gateway_client: Client) -> None:
    listening = threading.Event()
    kinds: list[str] = []

    def listen() -> None:
        for event in gateway_client.events(on_open=listening.set):
            kinds.append(event.kind)
            if event.kind == "rolled_back":
                return

    thread = threading.Thread(target=listen)
    thread.start()
    assert listening.wait(10)
    gateway_client.abort(gateway_client.start_rollout("digits").id)
    thread.join(10)
    assert "started" in kinds and kinds[-1] == "rolled_back"


def test_events_after_a_restart_are_not_missed_when_their_ids_have_passed_the_last_one_seen(double: Any) -> None:
    with double.Served() as old:
        client = Client(old.url)
        for percent in (1, 2):
            client.set_weight("digits", percent)
        events = client.events(after=0)
        seen = [next(events), next(events)]
        listener = old.listener()
    new = double.Served(listener=listener)
    for number in range(4):
        new.control.log.publish("alarm", {"reason": str(number)})
    with new, client:
        news = [next(events)]
        while news[-1].data["reason"] != "3":
            news.append(next(events))
        assert [(event.id, event.data["reason"]) for event in news] == [(1, "0"), (2, "1"), (3, "2"), (4, "3")]
        assert [event.id for event in seen] == [1, 2] and seen[1].cursor != news[1].cursor
        by_cursor = [list(itertools.islice(client.events(one.cursor), 3)) for one in (seen[1], news[0])]
        assert [[event.id for event in found] for found in by_cursor] == [[1, 2, 3], [2, 3, 4]]
        events.close()  # type: ignore[attr-defined]  # it is a generator


def test_a_restart_before_the_first_event_loses_none_either(double: Any) -> None:
    async def scenario() -> list[int]:
        with double.Served() as old:
            listener, listening = old.listener(), asyncio.Event()
            client = AsyncClient(old.url)
            events = client.events(on_open=listening.set)
            first = asyncio.ensure_future(anext(events))
            await asyncio.wait_for(listening.wait(), 10)
            await asyncio.to_thread(old.stop)
        new = double.Served(listener=listener)
        for number in range(3):
            new.control.log.publish("alarm", {"reason": str(number)})
        with new:
            async with asyncio.timeout(60):
                found = [(await first).id, (await anext(events)).id, (await anext(events)).id]
            await events.aclose()  # type: ignore[attr-defined]  # it is a generator
            await client.close()
            return found

    assert asyncio.run(scenario()) == [1, 2, 3]


def test_the_same_awaited(served: Any) -> None:
    async def scenario() -> tuple[str, list[str], bool]:
        async with AsyncClient(served.url) as client:
            rollout = await client.start_rollout("digits")
            phases: list[str] = []
            waited = asyncio.ensure_future(client.wait(rollout, 30, lambda view: phases.append(view.phase)))
            await client.pause(rollout.id)
            await client.abort(rollout.id)
            ended = await waited
            ready = await client.readiness()
            return ended.phase, phases, ready.ready

    phase, phases, ready = asyncio.run(scenario())
    assert (phase, phases[-1], ready) == ("ROLLED_BACK", "ROLLED_BACK", True)


def test_a_webhook_needs_no_token_but_a_signature(guarded: Any) -> None:
    for _ in range(25):
        answer = httpx.post(f"{guarded.url}/api/v1/webhooks/mlflow", content=b"{}")
        assert (answer.status_code, answer.json()["type"]) == (401, "urn:canary-gateway:problem:invalid-signature")

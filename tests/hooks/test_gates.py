"""Gates: asked while a rollout waits, opened by a yes only, paused by a no, closed by anything else."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator

import pytest

from gateway.control.views import RolloutView
from gateway.core.errors import ConflictError
from gateway.hooks.gates import Gate, GateKeeper, read_answer
from gateway.hooks.webhook import Webhook
from gateway.runtime.clock import SystemClock
from tests.hooks.receiver import WebReceiver, reply
from tests.hooks.transitions import transition
from tests.support.worker import eventually

pytestmark = pytest.mark.anyio

VIEW: RolloutView = dataclasses.replace(transition().view, phase="WAITING")
Recorder = list[tuple[str, str, bool, str]]


@contextlib.asynccontextmanager
async def keeping(receiver: WebReceiver, reported: Recorder, refusals: int = 0) -> AsyncIterator[GateKeeper]:
    left = refusals

    async def answer_with(rollout_id: str, gate: str, passed: bool, reason: str) -> None:
        nonlocal left
        if left:
            left -= 1
            raise ConflictError("not now")
        reported.append((rollout_id, gate, passed, reason))

    gate = Gate("load-test", Webhook(receiver.url, 20.0), interval_s=0.02)
    keeper = GateKeeper([gate], SystemClock(), answer_with)
    yield keeper
    keeper.stop()
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("body", "passed", "reason"),
    [
        (b"", True, ""),
        (b"fine", True, ""),
        (b'{"passed": true}', True, ""),
        (b'{"passed": false, "reason": "p99"}', False, "p99"),
    ],
)
async def test_an_answer_opens_the_gate_or_says_a_final_no(body: bytes, passed: bool, reason: str) -> None:
    reported: Recorder = []
    async with WebReceiver(lambda _: reply(200, body)) as receiver, keeping(receiver, reported) as keeper:
        keeper.waits(VIEW, "load-test")
        await eventually(lambda: bool(reported), "the rollout gets the answer")
    assert reported == [("r-1", "load-test", passed, reason)]
    question = json.loads(receiver.received[0].body)
    assert question["type"] == "io.canary-gateway.gate.asked"
    assert question["data"]["gate"] == "load-test" and question["data"]["rollout"]["id"] == "r-1"


async def test_not_yet_is_asked_again_until_it_is_a_yes() -> None:
    answers = [
        reply(403),
        b"",
        reply(200, b'{"passed": null}'),
        reply(200, b'{"passed": "yes"}'),
        reply(500),
        reply(202),
    ]
    reported: Recorder = []
    async with WebReceiver(lambda n: answers[n]) as receiver, keeping(receiver, reported) as keeper:
        keeper.waits(VIEW, "load-test")
        await eventually(lambda: bool(reported), "the gate opens")
    assert len(receiver.received) == len(answers)
    assert reported == [("r-1", "load-test", True, "")]


async def test_an_answer_that_the_journal_did_not_take_is_brought_again() -> None:
    reported: Recorder = []
    async with WebReceiver() as receiver, keeping(receiver, reported, refusals=2) as keeper:
        keeper.waits(VIEW, "load-test")
        await eventually(lambda: bool(reported), "the rollout gets the answer")
    assert len(receiver.received) == 3


async def test_a_gate_is_asked_once_at_a_time_and_not_after_the_wait() -> None:
    reported: Recorder = []
    async with WebReceiver(lambda _: reply(403)) as receiver, keeping(receiver, reported) as keeper:
        for _ in range(5):
            keeper.waits(VIEW, "load-test")
        await eventually(lambda: len(receiver.received) >= 2, "it is asked again")
        keeper.waits(dataclasses.replace(VIEW, phase="PAUSED"), "")
        for _ in range(100):  # turns of the loop in which what was on its way arrives
            await asyncio.sleep(0.001)
        asked = len(receiver.received)
        await asyncio.sleep(0.1)
        assert len(receiver.received) == asked and reported == []


async def test_a_manual_gate_is_nobodys_to_ask() -> None:
    reported: Recorder = []
    async with WebReceiver() as receiver, keeping(receiver, reported) as keeper:
        keeper.waits(VIEW, "manual")
        await asyncio.sleep(0.05)
        assert receiver.received == []


@pytest.mark.parametrize("body", [b'{"passed": "no"}', b'{"passed": 0}', b'{"reason": 7}'])
def test_an_answer_that_cannot_be_understood_is_not_a_yes(body: bytes) -> None:
    assert read_answer(body).passed is None


def test_a_reason_cannot_steer_a_terminal_and_is_bounded() -> None:
    answer = read_answer(json.dumps({"passed": False, "reason": "\x1b[2J" + "x" * 500}).encode())
    assert answer.reason.startswith("[2Jxxx") and len(answer.reason) == 200

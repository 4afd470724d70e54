"""One attempt: what arrives, what counts as delivered, and what a receiver cannot do to us."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import sys
from pathlib import Path

import pytest

from gateway.config.hooks import key_of
from gateway.hooks.chat import slack, teams
from gateway.hooks.command import Command
from gateway.hooks.delivery import NotDeliveredError
from gateway.hooks.envelope import Message, cloudevent
from gateway.hooks.webhook import Webhook
from tests.hooks.receiver import WebReceiver, reply
from tests.hooks.transitions import transition

pytestmark = pytest.mark.anyio

LETTER = Message("r-1.7", "application/json", b'{"a":1}')
SECRET = "whsec_" + base64.b64encode(b"sixteen bytes or more").decode()


async def deliver(receiver: WebReceiver, timeout_s: float = 20.0, key: bytes | None = None) -> None:
    await Webhook(receiver.url, timeout_s, key, lambda: 1_700_000_000.9).deliver(LETTER)


async def test_a_signed_letter_can_be_verified_by_its_receiver() -> None:
    async with WebReceiver() as receiver:
        await deliver(receiver, key=key_of(SECRET))
    (got,) = receiver.received
    assert (got.body, got.headers["content-type"]) == (LETTER.body, LETTER.content_type)
    assert (got.headers["webhook-id"], got.headers["webhook-timestamp"]) == ("r-1.7", "1700000000")
    signed = b"r-1.7.1700000000." + got.body
    expected = hmac.new(b"sixteen bytes or more", signed, hashlib.sha256).digest()
    version, _, signature = got.headers["webhook-signature"].partition(",")
    assert version == "v1" and base64.b64decode(signature) == expected


async def test_without_a_secret_nothing_is_signed() -> None:
    async with WebReceiver() as receiver:
        await deliver(receiver)
    assert not any(name.startswith("webhook-") for name in receiver.received[0].headers)


@pytest.mark.parametrize(
    ("answer", "again", "after_s", "words"),
    [
        (reply(500, b"sorry"), True, 0.0, "500 Said: 'sorry'"),
        (reply(429, b"", "retry-after: 7"), True, 7.0, "429"),
        (reply(503, b"", "retry-after: 1e9"), True, 3600.0, "503"),
        (reply(503, b"", "retry-after: Wed, 21 Oct 2026 07:28:00 GMT"), True, 0.0, "503"),
        (reply(410), False, 0.0, "410"),
        (reply(302, b"", "location: http://127.0.0.1:1/"), True, 0.0, "302"),
        (b"not http at all\r\n\r\n", True, 0.0, "RemoteProtocolError"),
        (b"", True, 0.0, "RemoteProtocolError"),
    ],
)
async def test_what_is_not_taken_says_why_and_whether_to_try_again(
    answer: bytes, again: bool, after_s: float, words: str
) -> None:
    async with WebReceiver(lambda _: answer) as receiver:
        with pytest.raises(NotDeliveredError, match=words) as caught:
            await deliver(receiver)
    assert (caught.value.again, caught.value.after_s) == (again, after_s)
    assert len(receiver.received) == 1  # a redirect was not followed


async def test_a_receiver_that_hangs_or_is_not_there_is_no_delivery() -> None:
    async with WebReceiver(lambda _: None) as receiver:
        with pytest.raises(NotDeliveredError, match=r"timed out after 0\.2 s"):
            await deliver(receiver, timeout_s=0.2)
    with pytest.raises(NotDeliveredError, match="ConnectError"):
        await deliver(receiver)


async def test_an_endless_answer_is_not_read_to_its_end() -> None:
    head = b"HTTP/1.1 200 Ok\r\ncontent-length: 99999999999\r\n\r\n"
    async with WebReceiver(lambda _: head + b"x" * 200_000) as receiver:
        said = await Webhook(receiver.url, 20.0).ask(LETTER)
    assert said == b"x" * 65536


async def test_a_command_gets_the_letter_and_none_of_our_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_TOKEN", "a-secret")
    out = tmp_path / "out.json"
    program = "import json,os,sys; json.dump([sys.stdin.read(), dict(os.environ)], open(sys.argv[1], 'w'))"
    await Command([sys.executable, "-c", program, str(out)], 20.0).deliver(LETTER)
    said, environment = json.loads(out.read_text())
    assert said == '{"a":1}'
    assert environment["GATEWAY_EVENT_ID"] == "r-1.7" and "GATEWAY_TOKEN" not in environment


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ([sys.executable, "-c", "raise SystemExit(3)"], "exited with status 3"),
        (["/no/such/program"], "cannot run /no/such/program: No such file or directory"),
    ],
)
async def test_a_command_that_fails_is_no_delivery(program: list[str], words: str) -> None:
    with pytest.raises(NotDeliveredError, match=words):
        await Command(program, 20.0).deliver(LETTER)


async def test_a_command_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = f"sleep 600 & echo $! > {pid_file}.part; mv {pid_file}.part {pid_file}; wait"
    delivery = asyncio.create_task(Command(["/bin/sh", "-c", script], 5.0).deliver(LETTER))
    while not pid_file.exists():
        await asyncio.sleep(0.01)
    with pytest.raises(NotDeliveredError, match="timed out after 5 s"):
        await delivery
    async with asyncio.timeout(20):
        while _runs(int(pid_file.read_text())):
            await asyncio.sleep(0.01)


def _runs(pid: int) -> bool:
    """Whether the process is there and is not a zombie that nobody has collected yet."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.parametrize("kind", ["promoted", "rolled_back"])
def test_a_cloudevent_has_all_that_the_standard_asks_for(kind: str) -> None:
    letter = cloudevent(transition(kind=kind))
    event = json.loads(letter.body)
    assert letter.content_type == "application/cloudevents+json"
    assert {key: event[key] for key in ("specversion", "id", "source", "type", "subject", "time")} == {
        "specversion": "1.0",
        "id": "r-1.3",
        "source": "/api/v1/routes/r",
        "type": f"io.canary-gateway.rollout.{kind}",
        "subject": "r-1",
        "time": "2026-11-23T08:00:00.000Z",
    }
    assert event["data"]["reason"] == "errors <canary> & more" and event["data"]["canary_percent"] == 5.0


def test_an_infinite_number_in_the_evidence_becomes_null() -> None:
    event = json.loads(cloudevent(transition(log_e_bad=float("inf"))).body)
    assert event["data"]["analysis"]["log_e_bad"] is None


def test_chat_messages_say_what_and_why_and_escape_what_steers() -> None:
    reported = json.loads(slack(transition()).body)
    assert reported["text"] == "r: rollout r-1 rolled back"
    assert "*Why:* errors &lt;canary&gt; &amp; more" in reported["blocks"][0]["text"]["text"]
    card = json.loads(teams(transition()).body)["attachments"][0]["content"]
    facts = {fact["title"]: fact["value"] for fact in card["body"][1]["facts"]}
    assert facts["Why"] == "errors <canary> & more" and facts["Causes"] == "errors"


def test_a_chat_message_stays_under_its_length_limit() -> None:
    long = transition(reason="x" * 10_000)
    assert len(json.loads(slack(long).body)["blocks"][0]["text"]["text"]) < 3_000

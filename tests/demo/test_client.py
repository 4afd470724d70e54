"""The demo's client is a measuring instrument: what it says users have seen must be what the server did to them."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from typing import Any

import msgspec
import pytest

from gateway import bundled
from gateway.demo.client.answers import label_of
from gateway.demo.client.report import ClientReport, ClientSettings
from gateway.demo.client.traffic import TrafficClient

LABELS = bundled.heldout().labels


def answer(label: int, *, status: int = 200, headers: str = "x-gateway-variant: stable\r\n") -> bytes:
    body = json.dumps({"model_name": "digits", "outputs": [{"name": "label", "shape": [1], "data": [label]}]}).encode()
    return f"HTTP/1.1 {status} X\r\n{headers}content-length: {len(body)}\r\n\r\n".encode() + body


CANARY = "x-gateway-variant: canary\r\n"
RESCUED = "x-gateway-variant: stable\r\nX-Gateway-Rescued: true\r\n"
# What the server does to one request after another: a name, the answer given the right label, and the variant that
# the client must count it under. None closes the connection; b"" leaves it without an answer.
ACTIONS: list[tuple[str, Any, str]] = [
    ("right", answer, "stable"),
    ("right", lambda label: answer(label, headers=CANARY), "canary"),
    ("right", lambda label: answer(label, headers=RESCUED), "rescued"),
    ("right", lambda label: answer(label, headers="connection: close\r\n" + CANARY), "canary"),
    ("wrong", lambda label: answer((label + 1) % 10, headers=CANARY), "canary"),
    ("status 500", lambda label: answer(label, status=500, headers=CANARY), "canary"),
    ("status 503", lambda label: answer(label, status=503), "stable"),
    ("malformed", lambda _: b"HTTP/1.1 200 OK\r\nx-gateway-variant: canary\r\ncontent-length: 2\r\n\r\n{}", "canary"),
    ("malformed", lambda _: b"no such protocol\r\n\r\n", "none"),
    ("reset", lambda _: None, "none"),
    ("timeout", lambda _: b"", "none"),
]


def streamed(events: bytes) -> bytes:
    """An event stream from the canary, as a body of known length."""
    return f"HTTP/1.1 200 OK\r\n{CANARY}content-length: {len(events)}\r\n\r\n".encode() + events


def last_event(label: int) -> bytes:
    return b"data: " + answer(label).partition(b"\r\n\r\n")[2] + b"\n\n"


ERROR = b'event: error\ndata: {"error": "x"}\n\n'
PART = b'data: {"name": "label", "index": 0, "value": 1}\n\n'
STREAMED: list[tuple[str, Any, str]] = [
    ("right", lambda label: streamed(PART + last_event(label)), "canary"),
    ("right", lambda label: streamed(last_event(label)), "canary"),
    ("wrong", lambda label: streamed(PART + last_event((label + 1) % 10)), "canary"),
    ("error event", lambda _: streamed(ERROR), "canary"),
    ("error event", lambda _: streamed(PART + ERROR), "canary"),
    ("malformed", lambda _: streamed(PART), "canary"),
    ("malformed", lambda label: streamed(last_event(label)[:-2]), "canary"),
    ("malformed", lambda _: streamed(b""), "canary"),
    ("status 404", lambda label: answer(label, status=404, headers=CANARY), "canary"),
    ("gave up", lambda label: answer(label, headers=CANARY)[:-4], "canary"),
    ("gave up", lambda _: b"", "none"),
]


class Server:
    """Gives one answer after another, and counts them."""

    def __init__(self, actions: list[tuple[str, Any, str]]) -> None:
        self._actions = actions
        self.left_by_fin = 0
        self.done: Counter[tuple[str, str]] = Counter()
        self.ids: list[int] = []
        self._next = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                number = int(json.loads(await reader.readexactly(length))["id"])
                self.ids.append(number)
                name, make, variant = self._actions[self._next % len(self._actions)]
                self._next += 1
                self.done[name, variant] += 1
                said = make(LABELS[number])
                if said is None:
                    break
                writer.write(said)
        except asyncio.IncompleteReadError:
            self.left_by_fin += 1
        except ConnectionError:
            pass
        finally:
            writer.close()


async def replay(
    seed: int, requests: int, actions: list[tuple[str, Any, str]] = ACTIONS, **changes: Any
) -> tuple[Server, TrafficClient]:
    """TrafficClient until the server has had so many requests, and let the client finish."""
    server = Server(actions)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    options: dict[str, Any] = {"rate_per_s": 400.0, "timeout_s": 1.5} | changes
    client = TrafficClient(ClientSettings("127.0.0.1", port, "/v2/models/digits/infer", seed, **options))
    running = asyncio.create_task(client.run())
    while len(server.ids) < requests:
        await asyncio.sleep(0.01)
    client.stopping.set()
    await running
    listener.close()
    return server, client


def reports(printed: bytes) -> list[ClientReport]:
    return [msgspec.json.decode(line, type=ClientReport) for line in printed.splitlines()]


@pytest.mark.parametrize(
    ("actions", "changes"),
    [(ACTIONS, {}), (STREAMED, {"streams": 1.0, "stream_path": "/stream", "patience_s": 1.0, "timeout_s": 5.0})],
    ids=["plain", "streams"],
)
def test_every_answer_is_counted_for_what_it_was(
    capfdbinary: pytest.CaptureFixture[bytes], actions: list[tuple[str, Any, str]], changes: dict[str, Any]
) -> None:
    server, client = asyncio.run(replay(seed=7, requests=120, actions=actions, **changes))
    last = reports(capfdbinary.readouterr().out)[-1]
    assert last.final
    assert last.requests == len(server.ids)
    expected: Counter[str] = Counter()
    for (name, _), count in server.done.items():
        if name not in ("right", "wrong"):
            expected[name] += count
    assert last.failures == dict(expected)
    assert last.failed == sum(expected.values())
    assert server.left_by_fin >= expected["gave up"], "who gives up closes the connection, as any client does"
    for variant in ("stable", "canary", "rescued"):
        seen = last.variants[variant]
        assert seen.requests == sum(count for (_, of), count in server.done.items() if of == variant)
        assert seen.correct == server.done["right", variant]
        assert seen.accuracy == (seen.correct / (seen.requests - seen.failed) if seen.requests else None)
    assert last.first_canary_s is not None and last.first_canary_s <= last.at_s
    assert client.first_canary_s == last.first_canary_s


def test_reports_only_grow_and_only_the_last_is_final(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    asyncio.run(replay(seed=1, requests=100))
    reported = reports(capfdbinary.readouterr().out)
    assert len(reported) >= 2
    assert [report.final for report in reported] == [False] * (len(reported) - 1) + [True]
    for earlier, later in itertools.pairwise(reported):
        assert earlier.requests <= later.requests and earlier.failed <= later.failed


def test_one_seed_is_one_sequence_of_inputs(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    # One connection at a time, so that the order of arrival is the order of sending.
    first, _ = asyncio.run(replay(seed=5, requests=40, connections=1, timeout_s=0.05))
    again, _ = asyncio.run(replay(seed=5, requests=40, connections=1, timeout_s=0.05))
    other, _ = asyncio.run(replay(seed=6, requests=40, connections=1, timeout_s=0.05))
    assert first.ids[:40] == again.ids[:40]
    assert first.ids[:40] != other.ids[:40]
    assert len(set(first.ids[:40])) == 40, "inputs repeat only when all have had their turn"


def test_a_gateway_that_does_not_listen_is_a_failure(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    async def nobody() -> None:
        listener = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        listener.close()
        await listener.wait_closed()
        client = TrafficClient(ClientSettings("127.0.0.1", port, "/", seed=1))
        running = asyncio.create_task(client.run())
        await asyncio.sleep(0.4)
        client.stopping.set()
        await running

    asyncio.run(nobody())
    last = reports(capfdbinary.readouterr().out)[-1]
    assert last.failed == last.requests == last.failures["refused"] > 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"outputs": []}',
        b'{"outputs": [{"name": "label", "data": []}]}',
        b'{"outputs": [{"name": "label", "data": [1, 2]}]}',
        b'{"outputs": [{"name": "label", "data": ["1"]}]}',
        b'{"outputs": [{"name": "label", "data": [null]}]}',
        b'{"outputs": [{"name": "other", "data": [1]}]}',
        b'{"outputs": [{"name": "label", "data": [1]}, {"name": "label", "data": [1]}]}',
        b'{"outputs": [{"name": "label", "data": [1]}',
        b"\xff\xfe",
    ],
)
def test_an_answer_without_one_label_is_none(body: bytes) -> None:
    assert label_of(body) is None


def test_an_answer_with_one_label_is_one() -> None:
    assert label_of(b'{"outputs": [{"name": "probabilities", "data": [0]}, {"name": "label", "data": [7]}]}') == 7

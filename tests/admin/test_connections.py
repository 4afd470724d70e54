"""The admin listener's connections: capped, the idle ones first to go, and nobody is waited for without an end."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Callable, Iterator

import httpx
import pytest

from gateway.admin import connections
from gateway.admin.auth_failures import AuthFailures
from gateway.admin.connections import Connections
from gateway.admin.listener_metrics import listener_metrics
from gateway.runtime.clock import SystemClock
from tests.admin.control_double import METRICS, Served

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


Connect = Callable[..., socket.socket]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Opens connections on which something is sent; all are closed at the end."""
    with contextlib.ExitStack() as opened:

        def connect(api: Served, data: bytes = b"") -> socket.socket:
            client = opened.enter_context(socket.create_connection(("127.0.0.1", api.port), timeout=20))
            client.sendall(data)
            return client

        yield connect


def read(client: socket.socket, mark: bytes = b"") -> bytes:
    """What comes until the mark, or to the connection's end."""
    got = b""
    try:
        while not mark or mark not in got:
            piece = client.recv(65536)
            if not piece:
                break
            got += piece
    except ConnectionResetError:
        pass
    return got


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A listener with room for four, which waits for nobody longer than a moment."""
    for name in ("HEAD_S", "BODY_S", "READ_S"):
        monkeypatch.setattr(connections, name, 0.3)
    with Served(connections=Connections(4)) as api:
        yield api


def ended(api: Served) -> dict[str, int]:
    """What was ended so far, by reason."""
    return {reason: n for reason, n in api.server.config.connections.ended.items() if n}  # type: ignore[attr-defined]  # the configuration is a subclass of uvicorn's


def test_silent_clients_take_no_room_from_those_that_ask(connect: Connect) -> None:
    with Served(connections=Connections(4)) as api:
        silent = [connect(api) for _ in range(20)]
        for _ in range(3):
            assert httpx.get(f"{api.url}/metrics").content == METRICS
        closed = [client for client in silent if not read_nothing(client)]
        assert len(closed) >= 16, "those that have been silent for longest were closed"
        assert ended(api) == {"displaced": len(closed)}


def read_nothing(client: socket.socket) -> bool:
    """Whether the connection stands, and nothing has come on it."""
    client.setblocking(False)
    try:
        return bool(client.recv(1))
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


def test_one_between_two_requests_goes_before_one_that_waits_for_its_answer(connect: Connect) -> None:
    with Served(connections=Connections(2)) as api:
        stream = connect(api, b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in read(stream, b"\r\n\r\n")
        kept = connect(api, GET)
        assert b"alive" in read(kept, b"}")
        assert b"alive" in read(connect(api, GET), b"}")
        assert read(kept) == b"", "it was idle"
        assert read_nothing(stream)


def test_where_all_are_busy_one_more_is_asked_to_retry_later(connect: Connect) -> None:
    with Served(connections=Connections(2)) as api:
        busy = [connect(api, b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n") for _ in range(2)]
        for stream in busy:
            assert b"200 OK" in read(stream, b"\r\n\r\n")
        refused = read(connect(api, GET))
        assert refused.startswith(b"HTTP/1.1 503 ") and b"retry-after: 1" in refused
        assert ended(api) == {"full": 1}


def test_a_head_a_body_and_a_reader_have_their_time(impatient: Served, connect: Connect) -> None:
    assert read(connect(impatient)).startswith(b"HTTP/1.1 408 "), "it has said nothing"
    assert read(connect(impatient, GET[:20])).startswith(b"HTTP/1.1 408 "), "its head is not whole"
    command = b"PUT /api/v1/routes/digits/weight HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    assert read(connect(impatient, command + b"Content-Length: 100\r\n\r\n{")) == b"", "its body is not whole"
    assert ended(impatient) == {"slow_head": 2, "slow_body": 1}
    kept = connect(impatient, GET)
    assert b"alive" in read(kept, b"}")
    assert read_nothing(kept)
    kept.setblocking(True)
    kept.sendall(GET[:20])
    assert read(kept).startswith(b"HTTP/1.1 408 "), "the second head has its time, too"


def test_the_room_is_never_more_than_a_part_of_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    assert Connections(1000).most == 64 and Connections(10).most == 10


def test_what_happened_is_exposed_to_prometheus() -> None:
    shared = Connections(4)
    shared.ended["slow_head"] += 3
    families = listener_metrics(shared, AuthFailures(SystemClock()))
    samples = {s.name + "".join(s.labels.values()): s.value for f in families for s in f.samples}
    assert samples["gateway_admin_connections"] == 0 and samples["gateway_admin_connections_max"] == 4
    assert samples["gateway_admin_connections_ended_totalslow_head"] == 3

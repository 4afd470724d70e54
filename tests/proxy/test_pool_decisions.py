"""What a pool decides for those who wait, as values: no socket is opened, nothing is carried out."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from gateway.core.traffic.table import Backend, Endpoint
from gateway.proxy.heads import gateway_errors
from gateway.proxy.heads.gateway_errors import Fault
from gateway.proxy.heads.request import Request
from gateway.proxy.upstream.pool import EndpointPool
from gateway.proxy.upstream.types import (
    CONNECTION,
    NOTHING,
    UPLOAD_SHARE,
    ConnectionOwner,
    UpstreamConnection,
    UpstreamUser,
)
from tests.support.upstream_user import Asking

pytestmark = pytest.mark.anyio


class Kept(UpstreamConnection):
    """A connection that stands, or has gone stale."""

    def __init__(self, *, usable: bool = True) -> None:
        super().__init__()
        self._usable = usable
        self.closed = False

    @property
    def usable(self) -> bool:
        return self._usable

    @property
    def readable(self) -> bool:
        return False

    def send(
        self,
        user: UpstreamUser,
        request: Request,
        host: bytes,
        lines: bytes,
        pieces: list[bytes],
        size: int,
        trailers: list[bytes] | None,
    ) -> None:
        raise AssertionError("nothing is sent here")

    def send_body(self, piece: bytes) -> None:
        raise AssertionError("nothing is sent here")

    def send_end(self, trailers: list[bytes]) -> None:
        raise AssertionError("nothing is sent here")

    def detach(self, *, sent: bool, drain: bool = False) -> None:
        raise AssertionError("nothing is read here")

    def end_drain(self) -> None:
        raise AssertionError("nothing is read here")

    def pause_reading(self) -> None:
        raise AssertionError("nothing is read here")

    def resume_reading(self) -> None:
        raise AssertionError("nothing is read here")

    def close(self) -> None:
        self.closed = True

    def tunnel_lost(self, exc: Exception | None) -> None:
        raise AssertionError("there is no tunnel")


def _never(owner: ConnectionOwner) -> UpstreamConnection:
    raise AssertionError("nothing is connected here")


async def pool_of(connections_max: int, *, open_: int, idle: int = 0, queue_max: int = 10) -> EndpointPool:
    backend = Backend("a", (Endpoint("127.0.0.1", 1),), connections_max=connections_max, queue_max=queue_max)
    pool = EndpointPool(backend.endpoints[0], backend, asyncio.get_running_loop(), _never)
    pool.open = open_
    pool.idle += [Kept() for _ in range(idle)]
    return pool


# connections_max, open, idle, who waits (f: for a fresh one) -> (handed over to, connected for, closed, still waiting)
TABLE: dict[str, tuple[int, int, int, str, tuple[list[int], list[int], int, list[int]]]] = {
    "nobody waits": (2, 1, 1, "", ([], [], 0, [])),
    "an idle one, first come first served": (2, 2, 1, "kk", ([0], [], 0, [1])),
    "an idle one, and room for another": (2, 1, 1, "kkk", ([0], [1], 0, [2])),
    "room alone": (3, 1, 0, "kkk", ([], [0, 1], 0, [2])),
    "no room": (2, 2, 0, "k", ([], [], 0, [0])),
    "fresh, and room": (2, 1, 1, "f", ([], [0], 0, [])),
    "fresh, and no room: an idle one gives way": (2, 2, 2, "f", ([], [], 1, [0])),
    "fresh, and no room: nobody overtakes": (2, 2, 2, "fk", ([], [], 1, [0, 1])),
    "fresh, and nothing that could give way": (2, 2, 0, "fk", ([], [], 0, [0, 1])),
    "kept before fresh": (2, 2, 2, "kf", ([0], [], 1, [1])),
}


@pytest.mark.parametrize("case", TABLE)
async def test_those_who_wait_are_served_in_their_order(case: str) -> None:
    connections_max, open_, idle, kinds, expected = TABLE[case]
    pool = await pool_of(connections_max, open_=open_, idle=idle)
    users = [Asking(fresh=kind == "f") for kind in kinds]
    pool.waiting.extend(users)
    moves = pool.decide()
    assert (
        [users.index(user) for user, _ in moves.hand_over],  # type: ignore[arg-type]  # all of them are ours
        [users.index(user) for user in moves.connect],  # type: ignore[arg-type]  # as above
        len(moves.close),
        [users.index(user) for user in pool.waiting],  # type: ignore[arg-type]  # as above
    ) == expected
    assert not any(user.got or user.faults or user.said for user in users), "it calls nobody"


async def test_one_idle_connection_at_a_time_gives_way() -> None:
    pool = await pool_of(3, open_=3, idle=3)
    pool.waiting.append(Asking(fresh=True))
    (gone,) = pool.decide().close
    assert not pool.decide().close, "room is on its way"
    pool.closed(gone)
    await asyncio.sleep(0)
    assert not pool.waiting and pool.open == 3, "the next one is being made"


async def test_a_retired_endpoint_keeps_nothing() -> None:
    pool = await pool_of(2, open_=2, idle=2)
    pool.retired = True
    assert len(pool.decide().close) == 2 and not pool.idle


async def test_a_connection_that_has_gone_stale_meanwhile_is_handed_to_nobody() -> None:
    pool = await pool_of(2, open_=2)
    pool.idle.append(Kept(usable=False))
    pool.waiting.append(Asking())
    moves = pool.decide()
    assert not moves.hand_over and not pool.idle and len(pool.waiting) == 1


async def test_a_full_queue_is_refused_and_an_idle_connection_asks_no_queue() -> None:
    pool = await pool_of(1, open_=1, queue_max=1)
    first, second = Asking(), Asking()
    assert pool.lease(first) is None and first.waits_for == CONNECTION
    assert pool.lease(second) is gateway_errors.QUEUE_FULL and second.waits_for == NOTHING
    pool.leave(first)
    assert not pool.waiting and first.waits_for == NOTHING
    pool.idle.append(Kept())
    got = pool.lease(second)
    assert isinstance(got, Kept) and got.reused


async def test_uploads_have_half_of_the_connections_and_a_queue_of_their_own() -> None:
    pool = await pool_of(4, open_=4, idle=4, queue_max=1)
    uploads = [Asking(uploading=True) for _ in range(4)]
    got = [pool.lease(user) for user in uploads]
    assert [type(one).__name__ for one in got] == ["Kept", "Kept", "NoneType", "Fault"]
    assert got[3] is gateway_errors.BODY_BUFFERS_FULL and isinstance(got[3], Fault)
    assert uploads[2].waits_for == UPLOAD_SHARE
    assert isinstance(pool.lease(Asking()), Kept), "the others are not theirs"
    pool.upload_ended(uploads[0])
    await asyncio.sleep(0)
    assert uploads[2].has_share and len(uploads[2].got) == 1 and not pool.waiting_uploads


async def test_an_upload_that_has_become_whole_waits_no_longer_for_a_share() -> None:
    pool = await pool_of(2, open_=2, idle=1)
    pool.backend = msgspec.structs.replace(pool.backend, connections_max=1)
    holder, user = Asking(uploading=True), Asking(uploading=True)
    assert isinstance(pool.lease(holder), Kept)
    assert pool.lease(user) is None
    assert pool.leave_uploads(user) and not pool.leave_uploads(user)
    assert user.waits_for == NOTHING and not pool.waiting_uploads

"""What is held of a request's body: whatever comes in whatever pieces, each attempt sends it whole, or says why not."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.body_store import BodyStore
from gateway.proxy.exchange.request_body import RequestBody

KIB = 1024


def _sent(body: RequestBody) -> bytes:
    """One attempt, as an exchange makes it."""
    out = b"".join(body.begin_attempt())
    body.sent()
    while body.behind:
        out += body.next()
        assert not body.lost
    return out


@given(
    pieces=st.lists(st.binary(max_size=6) | st.sampled_from((b"x" * 3000, b"y" * 70_000)), max_size=40),
    kept_max=st.sampled_from((0, 10, 100_000, 1 << 20)),
    file_max=st.sampled_from((0, 150_000, 64 << 20)),
    memory_max=st.sampled_from((20_000, 64 << 20)),
    disk_max=st.sampled_from((0, 100_000, 1 << 30)),
    sent_before=st.integers(0, 40),
    slow=st.booleans(),
)
def test_every_attempt_sends_all_that_came_or_the_body_is_not_kept(
    pieces: list[bytes],
    kept_max: int,
    file_max: int,
    memory_max: int,
    disk_max: int,
    sent_before: int,
    slow: bool,
) -> None:
    store = BodyStore(memory_max, disk_max, None)
    body = RequestBody(store)
    body.limit(kept_max, file_max)
    body.slow = slow
    for piece in pieces[:sent_before]:
        body.hold(piece)
    first = _sent(body)
    for piece in pieces[sent_before:]:
        first += piece
        body.keep(piece)
    whole = b"".join(pieces)
    assert first == whole and body.received == len(whole)
    if body.kept:
        assert _sent(body) == whole, "the next attempt sends the same"
    else:
        assert body.not_kept and store.not_kept == {body.not_kept: 1}
        assert (body.held_bytes, store.disk_bytes) == (0, 0), "what is not kept is let go once it is sent"
    assert store.memory_bytes == body.held_bytes
    body.close()
    assert (store.memory_bytes, store.disk_bytes) == (0, 0)


def test_single_bytes_cost_no_more_than_large_pieces() -> None:
    body = RequestBody(BodyStore(64 << 20, 0, None))
    for _ in range(300_000):
        body.hold(b"x")
    pieces = body.begin_attempt()
    assert len(pieces) < 20 and b"".join(pieces) == b"x" * 300_000


def test_slow_bodies_leave_half_of_the_memory_to_the_others() -> None:
    store = BodyStore(1 << 20, 0, None)
    slow = [RequestBody(store) for _ in range(20)]
    for body in slow:
        body.slow = True
        for _ in range(6):
            if not body.full:  # then its client has to wait
                body.hold(bytes(10 * KIB))
    assert [body.full for body in slow].count(True) > 10, "half a MiB has room for eight"
    assert sum(body.held_bytes for body in slow) < 800 * KIB
    quick = RequestBody(store)
    for _ in range(10):
        quick.hold(bytes(10 * KIB))
    assert quick.kept and not quick.full
    small = RequestBody(store)
    small.slow = True
    small.hold(bytes(16 * KIB))
    assert small.kept, "what most requests have is always taken"


def test_files_are_bounded_together_and_given_back() -> None:
    store = BodyStore(1 << 20, 150 * KIB, None)
    bodies = [RequestBody(store) for _ in range(2)]
    for body in bodies:
        body.limit(0, 1 << 20)
        for _ in range(4):
            body.hold(bytes(50 * KIB))  # the first is in memory, the others would be in a file
    assert [body.kept for body in bodies] == [True, False]
    assert (store.disk_bytes, store.not_kept) == (150 * KIB, {"disk_limit": 1})
    bodies[0].close()
    assert store.disk_bytes == 0


def test_a_disk_that_fails_costs_the_copy_and_not_the_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    for reason, directory in (("disk_failed", tmp_path / "absent"), ("disk_full", tmp_path)):
        with subtests.test(reason), monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", full)
            store = BodyStore(1 << 20, 1 << 20, str(directory))
            body = RequestBody(store)
            body.limit(0, 1 << 20)
            for _ in range(3):
                body.hold(b"x" * 40_000)
            assert (body.kept, body.full, store.not_kept) == (False, True, {reason: 1})
            assert _sent(body) == b"x" * 120_000
            assert list(tmp_path.iterdir()) == [], "a file has no name"


def test_on_a_disk_that_makes_the_loop_wait_no_file_is_begun() -> None:
    store = BodyStore(1 << 20, 1 << 20, None)
    store.took(0.3)
    body = RequestBody(store)
    body.limit(0, 1 << 20)
    for _ in range(2):
        body.hold(b"x" * 40_000)
    assert store.not_kept == {"disk_slow": 1}
    assert _sent(body) == b"x" * 80_000


def test_a_file_that_cannot_be_read_back_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    store = BodyStore(1 << 20, 1 << 20, None)
    body = RequestBody(store)
    body.limit(0, 1 << 20)
    for _ in range(2):
        body.hold(b"x" * 40_000)
    monkeypatch.setattr(os, "pread", broken)
    assert b"".join(body.begin_attempt()) == b"x" * 40_000 and body.behind
    assert body.next() == b"" and body.lost
    body.close()
    assert (store.memory_bytes, store.disk_bytes) == (0, 0)

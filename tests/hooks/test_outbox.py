"""The outbox: in order, at least once, nobody delayed by another, and what is given up is counted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from gateway.hooks.delivery import NotDeliveredError
from gateway.hooks.envelope import Message, Transition
from gateway.hooks.outbox import Hook, Outbox
from gateway.runtime.clock import SystemClock
from tests.hooks.transitions import transition
from tests.support.worker import eventually

pytestmark = pytest.mark.anyio


class Receiver:
    """Takes letters, or fails with the next of ``failures``."""

    def __init__(self, *failures: NotDeliveredError) -> None:
        self.failures = list(failures)
        self.got: list[str] = []
        self.open = asyncio.Event()
        self.open.set()

    async def deliver(self, letter: Message) -> None:
        await self.open.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.got.append(letter.id)


class Cursors:
    """Remembers how far each hook has come, as the journal would."""

    def __init__(self) -> None:
        self.last: dict[str, str] = {}
        self.disk = asyncio.Event()
        self.disk.set()
        self.failures = 0

    async def remember(self, hook: str, transition: Transition) -> None:
        await self.disk.wait()
        if self.failures:
            self.failures -= 1
            raise OSError("no space left")
        self.last[hook] = transition.id


def hook(name: str, receiver: Receiver, **more: object) -> Hook:
    options: dict = {"backoff_s": 0.001} | more
    return Hook(name, receiver, lambda t: Message(t.id, "text/plain", b""), **options)


@contextlib.asynccontextmanager
async def sending(*hooks: Hook, cursors: Cursors | None = None) -> AsyncIterator[Outbox]:
    outbox = Outbox(hooks, SystemClock(), (cursors or Cursors()).remember)
    task = asyncio.create_task(outbox.run())
    try:
        yield outbox
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def some(*revisions: int, kind: str = "advanced", route: str = "r") -> list[Transition]:
    return [transition(revision, kind=kind, route=route) for revision in revisions]


async def test_messages_arrive_in_order_and_the_cursor_follows() -> None:
    receiver, cursors = Receiver(), Cursors()
    async with sending(hook("a", receiver), cursors=cursors) as outbox:
        for one in some(1, 2, 3):
            outbox.post(one)
        await eventually(lambda: cursors.last.get("a") == "r-1.3", "the cursor is at the last one")
        assert receiver.got == ["r-1.1", "r-1.2", "r-1.3"]
        assert (outbox.totals["a"].delivered, outbox.totals["a"].pending) == (3, 0)


async def test_a_failed_letter_is_tried_again_before_the_next_one() -> None:
    receiver = Receiver(NotDeliveredError("500"), NotDeliveredError("500"))
    async with sending(hook("a", receiver)) as outbox:
        for one in some(1, 2):
            outbox.post(one)
        await eventually(lambda: len(receiver.got) == 2, "both are there")
        assert receiver.got == ["r-1.1", "r-1.2"]
        assert (outbox.totals["a"].failed_attempts, outbox.totals["a"].dropped) == (2, 0)


async def test_what_the_receiver_refuses_for_good_or_is_too_old_is_dropped_and_counted() -> None:
    gone = Receiver(NotDeliveredError("410", again=False))
    stubborn = Receiver(*[NotDeliveredError("500")] * 1000)
    async with sending(hook("gone", gone), hook("old", stubborn, give_up_s=0.05)) as outbox:
        for one in some(1, 2):
            outbox.post(one)
        await eventually(lambda: gone.got == ["r-1.2"], "the next one is taken")
        await eventually(lambda: outbox.totals["old"].dropped == 2, "both are given up")
        assert outbox.totals["gone"].dropped == 1


async def test_a_hook_that_hangs_delays_no_other_and_its_queue_is_bounded() -> None:
    hung, well = Receiver(), Receiver()
    hung.open.clear()
    async with sending(hook("hung", hung), hook("well", well)) as outbox:
        for one in some(*range(1500)):
            outbox.post(one)
            await asyncio.sleep(0)
        await eventually(lambda: len(well.got) == 1500, "the other has all of them")
        assert outbox.totals["hung"].pending <= 1000
        assert outbox.totals["hung"].pending + outbox.totals["hung"].dropped == 1500


async def test_a_disk_that_hangs_delays_no_letter() -> None:
    receiver, cursors = Receiver(), Cursors()
    cursors.disk.clear()
    async with sending(hook("a", receiver), cursors=cursors) as outbox:
        for one in some(1, 2, 3):
            outbox.post(one)
        await eventually(lambda: len(receiver.got) == 3, "all three are there")
        assert cursors.last == {}


async def test_a_journal_that_fails_costs_the_cursor_and_nothing_else() -> None:
    receiver, cursors = Receiver(), Cursors()
    cursors.failures = 1
    async with sending(hook("a", receiver), cursors=cursors) as outbox:
        for one in some(1, 2):
            outbox.post(one)
        await eventually(lambda: cursors.last == {"a": "r-1.2"}, "the cursor goes on")
        assert receiver.got == ["r-1.1", "r-1.2"]


async def test_a_hook_receives_what_it_asked_for_only() -> None:
    ends, other = Receiver(), Receiver()
    hooks = (
        hook("ends", ends, kinds=frozenset({"promoted", "rolled_back"})),
        hook("other", other, routes=frozenset({"q"})),
    )
    async with sending(*hooks) as outbox:
        for one in (*some(1), *some(2, kind="promoted"), *some(3, route="q")):
            outbox.post(one)
        outbox.post(some(4, kind="promoted")[0], only="other")
        await eventually(lambda: len(ends.got) == 1 and len(other.got) == 1, "each has its own")
        assert (ends.got, other.got) == (["r-1.2"], ["q-1.3"])
        assert outbox.totals["ends"].pending == 0

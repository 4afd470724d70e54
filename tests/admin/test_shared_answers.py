"""Answers that are kept for a moment: made once for many, and never from before a change."""

from __future__ import annotations

import asyncio

import pytest

from gateway.admin.shared_answers import KEPT_MAX, KEPT_S, SharedAnswers

pytestmark = pytest.mark.anyio


class ManualClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s


class Maker:
    """Counts how often an answer was made; ``open`` lets it be finished."""

    def __init__(self) -> None:
        self.made = 0
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self) -> bytes:
        self.made += 1
        said = b"%d" % self.made
        await self.open.wait()
        return said


async def test_an_answer_serves_everybody_for_a_moment() -> None:
    clock, make = ManualClock(), Maker()
    shared = SharedAnswers(clock)
    assert [await shared.get(("a",), make) for _ in range(3)] == [b"1"] * 3
    assert await shared.get(("b",), make) == b"2", "another question"
    clock.now_s += KEPT_S
    assert await shared.get(("a",), make) == b"3"


async def test_after_a_change_nothing_from_before_it_is_given() -> None:
    make = Maker()
    shared = SharedAnswers(ManualClock())
    assert await shared.get(("a",), make) == b"1"
    shared.forget()
    assert await shared.get(("a",), make) == b"2"
    shared.forget()
    make.open.clear()
    slow = asyncio.create_task(shared.get(("a",), make))
    await asyncio.sleep(0)
    shared.forget()  # while the third was being made
    make.open.set()
    assert await slow == b"3"
    assert await shared.get(("a",), make) == b"4", "what was begun before the change is not kept"


async def test_no_more_than_so_many_questions_are_kept() -> None:
    make = Maker()
    shared = SharedAnswers(ManualClock())
    for number in range(KEPT_MAX + 1):
        await shared.get((str(number),), make)
    await shared.get((str(KEPT_MAX),), make)
    assert make.made == KEPT_MAX + 1
    await shared.get(("0",), make)
    assert make.made == KEPT_MAX + 2, "the oldest has gone"

"""`/metrics` beside the event loop: one rendering for all who ask, kept for a while, never waited for by the loop."""

from __future__ import annotations

import asyncio
import gzip
import threading

import pytest

from gateway.admin.exposition import Exposition
from tests.support.control import ManualClock

pytestmark = pytest.mark.anyio


class Slow:
    """Values whose rendering waits until it may go on; it says on which thread it was done."""

    def __init__(self, number: int, go: threading.Event, rendered: list[str]) -> None:
        self._number = number
        self._go = go
        self._rendered = rendered

    def render(self, *, openmetrics: bool) -> tuple[bytes, str]:
        """The number, in a body that is worth compressing."""
        assert self._go.wait(20)
        self._rendered.append(threading.current_thread().name)
        if self._number < 0:
            raise ValueError("cannot be rendered")
        return b"%d %s\n" % (self._number, b"openmetrics" if openmetrics else b"plain") * 100, "text/plain"


class Source:
    """Counts what is collected."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.collected = 0
        self.rendered: list[str] = []
        self.broken = False

    def __call__(self) -> Slow:
        self.collected += 1
        return Slow(-1 if self.broken else self.collected, self.go, self.rendered)


async def test_those_who_ask_meanwhile_share_one_rendering_and_the_loop_goes_on() -> None:
    source, clock = Source(), ManualClock()
    exposition = Exposition(source, clock)
    asking = [asyncio.create_task(exposition.answer(openmetrics=False)) for _ in range(50)]
    for _ in range(10):
        await asyncio.sleep(0)  # the loop turns while the rendering stands still
    asking.pop().cancel()
    source.go.set()
    answers = await asyncio.gather(*asking)
    assert source.collected == 1 and {answer.body for answer in answers} == {b"1 plain\n" * 100}
    assert gzip.decompress(answers[0].zipped) == answers[0].body and len(answers[0].zipped) < 100
    assert threading.main_thread().name not in source.rendered


async def test_an_answer_is_kept_for_a_second_in_each_format() -> None:
    source, clock = Source(), ManualClock()
    source.go.set()
    exposition = Exposition(source, clock)
    assert (await exposition.answer(openmetrics=False)).body.startswith(b"1 plain")
    assert (await exposition.answer(openmetrics=True)).body.startswith(b"2 openmetrics")
    clock.now_s += 0.9
    assert (await exposition.answer(openmetrics=False)).body.startswith(b"1 ")
    clock.now_s += 0.2
    assert (await exposition.answer(openmetrics=False)).body.startswith(b"3 ")


async def test_what_is_costly_is_kept_for_longer() -> None:
    """So that rendering never takes more than a fifth of the time."""
    source, clock = Source(), ManualClock()
    exposition = Exposition(source, clock)
    asking = asyncio.create_task(exposition.answer(openmetrics=False))
    await asyncio.sleep(0.05)
    clock.now_s += 2.0  # as long as it took
    source.go.set()
    await asking
    clock.now_s += 7.9
    assert (await exposition.answer(openmetrics=False)).body.startswith(b"1 ")
    clock.now_s += 0.2
    assert (await exposition.answer(openmetrics=False)).body.startswith(b"2 ")


async def test_a_failure_is_not_kept() -> None:
    source, clock = Source(), ManualClock()
    source.go.set()
    source.broken = True
    exposition = Exposition(source, clock)
    with pytest.raises(ValueError, match="cannot be rendered"):
        await exposition.answer(openmetrics=False)
    source.broken = False
    assert (await exposition.answer(openmetrics=False)).body.startswith(b"2 ")

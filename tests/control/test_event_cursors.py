"""Where a listener's cursor begins in the log of this process, and in that of another."""

from __future__ import annotations

import asyncio

import pytest

from gateway.control.events import EventLog
from gateway.runtime.clock import SystemClock


def log(count: int) -> EventLog:
    made = EventLog(SystemClock())
    for number in range(count):
        made.publish("alarm", {"reason": str(number)})
    return made


async def heard(made: EventLog, after: str | None) -> list[int]:
    """The ids of all remembered events that a listener gets at once."""
    events = made.listen(after)
    found: list[int] = []
    following = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    while following.done():
        found.append(following.result().id)
        following = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    return found


@pytest.mark.parametrize("after", [None, "own-1", "own-3", "0", "2", "9", "5f3a9c1b-1", "5f3a9c1b-2", "5f3a9c1b-9"])
def test_what_a_listener_gets(after: str | None) -> None:
    made = log(3)
    boot = made.cursor().rpartition("-")[0]
    asked = None if after is None else after.replace("own", boot)
    expected = {None: [], "own-1": [2, 3], "own-3": [], "0": [1, 2, 3], "2": [3]}.get(after, [1, 2, 3])
    assert asyncio.run(heard(made, asked)) == expected
    assert asyncio.run(heard(made, made.cursor(asked))) == expected, "its cursor says the same"


def test_each_process_has_cursors_of_its_own() -> None:
    assert log(2).cursor() != log(2).cursor()

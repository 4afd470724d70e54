"""What follows the configuration in force: it is started for one configuration, and anew when that has changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

_LOOK_S = 1.0

Part = TypeVar("Part")


async def run_in_force(part: Callable[[], Part], begin: Callable[[Part], Iterable[Coroutine[Any, Any, None]]]) -> None:
    """Run what ``begin`` makes of a part of the configuration until that part is another one, for ever."""
    while True:
        built = part()
        tasks = [asyncio.create_task(one) for one in begin(built)]
        try:
            while built == part():
                await asyncio.sleep(_LOOK_S)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

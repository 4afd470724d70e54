"""A thread for what blocks on a disk: one thing after the other, and nobody has to wait for it."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class DiskThread:
    """Runs what blocks, one after the other. A daemon: a disk that hangs must not keep the process from ending."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="disk", daemon=True).start()

    def do(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Queue ``work``; its future may be dropped."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put((work, future))
        return future

    def _run(self) -> None:
        while True:
            work, future = self._jobs.get()
            try:
                done, error = work(), None
            except Exception as raised:  # noqa: BLE001  # it is raised in the caller
                done, error = None, raised
            try:
                future.get_loop().call_soon_threadsafe(settle, future, done, error)
            except RuntimeError:
                return  # the loop is closed: there is no caller left


def settle(future: asyncio.Future[Any], done: Any, error: Exception | None) -> None:
    """Give a future its result or its error, unless somebody was first."""
    if future.done():
        return
    if error is None:
        future.set_result(done)
    else:
        future.set_exception(error)
        future.exception()  # a caller that awaits it still gets it; one that dropped it gets no warning

"""A few threads with a bounded queue before them: blocking work off the event loop, refused when there is too much.

A job is refused, not queued, once `queue_max` jobs wait beyond those being run: a server that answers 503 at once can
be worked around, one that answers everything too late cannot. A job whose caller has gone is skipped when its turn
comes. One wake-up of the loop per job ends it, frees its place and delivers its result.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from gateway.serving.errors import OverloadedError

T = TypeVar("T")
_Job = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[[], Any]]


class Runner:
    """Runs jobs on `threads` daemon threads; all methods belong to the event loop's thread."""

    def __init__(self, threads: int, queue_max: int) -> None:
        if threads < 1 or queue_max < 0:
            raise ValueError(f"a runner needs threads >= 1 and queue_max >= 0, not {threads} and {queue_max}")
        self._jobs_max = threads + queue_max
        self._jobs = 0
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"model-{i}", daemon=True) for i in range(threads)]
        for thread in self._threads:
            thread.start()

    async def run(self, job: Callable[[], T]) -> T:
        """Run `job` on a thread and return its result; OverloadedError at once if the queue is full."""
        if self._jobs >= self._jobs_max:
            raise OverloadedError(f"the model is busy: {self._jobs} requests are running or waiting; try again later")
        self._jobs += 1
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.put((loop, future, job))
        return await future

    def close(self) -> None:
        """Let the threads end after the jobs already queued; does not wait for them."""
        for _ in self._threads:
            self._queue.put(None)

    def _work(self) -> None:
        while (entry := self._queue.get()) is not None:
            loop, future, job = entry
            result: Any = None
            error: BaseException | None = None
            if not future.cancelled():
                try:
                    result = job()
                except BaseException as caught:  # whatever it is, it belongs to the caller
                    error = caught
            try:
                loop.call_soon_threadsafe(self._settle, future, result, error)
            except RuntimeError:
                return  # the loop has closed: nobody waits any more
            del entry, future, job, result, error

    def _settle(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self._jobs -= 1
        if future.cancelled():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

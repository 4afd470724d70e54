"""The outbox: every transition to every hook, in order, at least once, also across a restart.

Rules:

1. A message goes out as soon as the transition stands; it does not wait for the disk (a rollback is sent even where
   the journal is broken). How far each hook has come is journaled after the delivery. What a dead process had not
   delivered is read from the journal and sent (service.py).
2. So a message may come twice, with the same id, and never gets lost as long as the journal is readable.
3. Each hook has its own queue and order; a receiver that hangs delays nobody else. A failed message is tried again with
   a backoff that doubles up to five minutes, and blocks the ones behind it until it is delivered or too old.
4. Queues are bounded. What falls out, is too old or is not wanted any more (410) is counted as dropped and logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from gateway.hooks.counters import HookCounters, HookTotals
from gateway.hooks.delivery import NotDeliveredError, Receiver
from gateway.hooks.envelope import Message, Transition
from gateway.runtime.clock import Clock

_log = logging.getLogger("gateway.hooks")
_BACKOFF_S_MAX = 300.0
_QUEUE_MAX = 1000


@dataclass(frozen=True)
class Hook:
    """One receiver and what it subscribes to: ``kinds`` and ``routes``, None for all."""

    name: str
    receiver: Receiver
    write: Callable[[Transition], Message]
    kinds: frozenset[str] | None = None
    routes: frozenset[str] | None = None
    give_up_s: float = 86_400.0
    backoff_s: float = 1.0

    def wants(self, transition: Transition) -> bool:
        """Whether it gets this one."""
        return (self.kinds is None or transition.kind in self.kinds) and (
            self.routes is None or transition.view.route in self.routes
        )


@dataclass
class _Item:
    transition: Transition
    since_s: float


@dataclass
class _Queue:
    hook: Hook
    totals: HookTotals
    items: deque[_Item] = field(default_factory=deque)
    filled: asyncio.Event = field(default_factory=asyncio.Event)


class Outbox:
    """Queues and sends. ``remember(hook, transition)`` journals how far a hook has come; it may raise anything."""

    def __init__(
        self,
        hooks: Iterable[Hook],
        clock: Clock,
        remember: Callable[[str, Transition], Awaitable[object]],
        seed: int = 0,
        counters: HookCounters | None = None,
    ) -> None:
        self._clock = clock
        self._remember = remember
        counters = counters or HookCounters()
        self._queues = [_Queue(hook, counters.hook(hook.name)) for hook in hooks]
        for queue in self._queues:
            queue.totals.pending = 0  # those that a predecessor left are posted again
        self._random = random.Random(seed)
        self._advancing: set[asyncio.Task[None]] = set()

    @property
    def totals(self) -> dict[str, HookTotals]:
        """By hook."""
        return {queue.hook.name: queue.totals for queue in self._queues}

    @property
    def hooks(self) -> list[Hook]:
        """The hooks, in the order of the configuration."""
        return [queue.hook for queue in self._queues]

    @property
    def names(self) -> list[str]:
        """The hooks' names."""
        return [queue.hook.name for queue in self._queues]

    def post(self, transition: Transition, *, only: str | None = None) -> None:
        """Queue a transition, for one hook or for all that want it. Never waits, never raises."""
        for queue in self._queues:
            if only not in (None, queue.hook.name) or not queue.hook.wants(transition):
                continue
            if len(queue.items) >= _QUEUE_MAX:
                oldest = queue.items.popleft()
                self._drop(queue, oldest, f"{_QUEUE_MAX} are queued already")
            queue.items.append(_Item(transition, self._clock.monotonic_s()))
            queue.totals.pending = len(queue.items)
            queue.filled.set()

    async def run(self) -> None:
        """Send for ever."""
        async with asyncio.TaskGroup() as group:
            for queue in self._queues:
                group.create_task(self._send_all(queue))

    async def _send_all(self, queue: _Queue) -> None:
        while True:
            while not queue.items:
                queue.filled.clear()
                await queue.filled.wait()
            item = queue.items[0]
            await self._send(queue, item)
            # It may have been pushed out of a full queue while it was on its way.
            if queue.items and queue.items[0] is item:
                queue.items.popleft()
            queue.totals.pending = len(queue.items)

    async def _send(self, queue: _Queue, item: _Item) -> None:
        """Try until it is delivered, refused for good or too old."""
        hook, delay_s = queue.hook, queue.hook.backoff_s
        message = hook.write(item.transition)
        while True:
            try:
                await hook.receiver.deliver(message)
            except NotDeliveredError as error:
                queue.totals.failed_attempts += 1
                if not error.again or self._clock.monotonic_s() - item.since_s > hook.give_up_s:
                    self._drop(queue, item, str(error))
                    break
                _log.warning("hook %s: delivery of %s failed: %s", hook.name, message.id, error)
                # Spread, so that many gateways do not come back to a receiver at the same moment.
                await asyncio.sleep(max(error.after_s, delay_s * self._random.uniform(0.8, 1.2)))
                delay_s = min(2 * delay_s, _BACKOFF_S_MAX)
            else:
                queue.totals.delivered += 1
                break
        # Not awaited: a disk that hangs must not keep the next message.
        task = asyncio.create_task(self._advance(hook.name, item.transition))
        self._advancing.add(task)
        task.add_done_callback(self._advancing.discard)

    async def _advance(self, name: str, transition: Transition) -> None:
        """Journal how far this hook has come; where that fails, the worst is a message that comes twice."""
        with contextlib.suppress(Exception):  # the journal writer has raised the alarm already
            await self._remember(name, transition)

    def _drop(self, queue: _Queue, item: _Item, why: str) -> None:
        queue.totals.dropped += 1
        _log.error("hook %s: %s is dropped: %s", queue.hook.name, item.transition.id, why)

"""The supervisor: spawns the children, restarts them with backoff, replaces them, forwards signals. No other logic.

Rules:

1. Listening sockets belong to the supervisor for its whole life and are inherited; a child that dies loses none of the
   connections that are still queued.
2. A child that dies is started again at once the first time, then ever later, up to five seconds; one that lived for
   ten seconds starts with a clean slate. One that says it retires gets its successor at once, while it still drains.
3. A child that ends with status 2 says that it cannot work as configured: everything stops with that status, unless
   the child is not vital: then rule 2 holds.
4. A child is replaced make before break: its successor has to be ready before the old one is stopped.
   A successor that never does is killed, and nothing has changed.
5. SIGTERM and SIGINT drain: children stop in the order of their ``stop_rank``, each rank before the next, and who has
   not ended after its time is killed. A second signal kills at once, and the status is 128 + its number.
6. A child that hangs (process.py, rule 3) is killed, and rule 2 holds. One that the kernel cannot end (it waits for a
   disk) is succeeded all the same.
7. A supervisor that is killed takes its children along (child.py).
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.runtime.process import Child, ChildProcess, start

_log = logging.getLogger("gateway.supervisor")
_BACKOFF_S = 0.1
_BACKOFF_S_MAX = 5.0
_HEALTHY_S = 10.0
_LOOK_S = 0.05
# What the kernel takes to end a process that was killed, unless it waits for a device.
_KILLED_S_MAX = 2.0
CANNOT_WORK = 2

EXITED = "exit"
HUNG = "hang"


@dataclass
class _Slot:
    """The place of one child: what is to run there, what runs there, and those that still drain."""

    child: Child
    process: ChildProcess | None = None
    leaving: set[asyncio.Task[None]] = field(default_factory=set)
    leaving_processes: set[ChildProcess] = field(default_factory=set)
    restart_requested: bool = False
    removed: bool = False


class Supervisor:
    """Runs the children until a signal to stop.

    ``before_stop`` is awaited after the stop was requested, before the first child is stopped. ``on_restart`` is called
    with a child's name and `EXITED` or `HUNG` when it is about to be started again. ``environ`` is added to the
    children's.
    """

    def __init__(
        self,
        children: Sequence[Child],
        *,
        before_stop: Callable[[], Awaitable[None]] | None = None,
        on_restart: Callable[[str, str], None] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._slots = [_Slot(child) for child in children]
        self._before_stop = before_stop
        self._on_restart = on_restart
        self._environ = environ or {}
        self._stopping = asyncio.Event()
        self._killing = asyncio.Event()
        self._status = 0
        self._keepers: list[asyncio.Task[None]] = []

    def watch_signals(self, on_hangup: Callable[[], None] | None = None) -> None:
        """Take signals from now on; one that comes before `run` makes it end at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        if on_hangup is not None:
            loop.add_signal_handler(signal.SIGHUP, on_hangup)

    async def run(self) -> int:
        """Run until a signal or a child that cannot work; returns the exit status."""
        self._keepers += [asyncio.create_task(self._keep(slot)) for slot in self._slots]
        await self._stopping.wait()
        if self._before_stop is not None:
            before = asyncio.ensure_future(self._before_stop())
            killing = asyncio.create_task(self._killing.wait())
            await asyncio.wait({before, killing}, return_when=asyncio.FIRST_COMPLETED)
            for task in (before, killing):
                task.cancel()
            await asyncio.gather(before, killing, return_exceptions=True)
        for rank in sorted({slot.child.stop_rank for slot in self._slots}):
            await asyncio.gather(*(self._stop(slot) for slot in self._slots if slot.child.stop_rank == rank))
        await asyncio.gather(*self._keepers)
        return self._status

    async def ready(self) -> None:
        """Return when all children that say so have been ready."""
        for slot in self._slots:
            while slot.child.says_ready and not (slot.process is not None and slot.process.ready.is_set()):
                await asyncio.sleep(_LOOK_S)

    def stop(self) -> None:
        """Drain and end, as after SIGTERM."""
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        """Whether the end was requested."""
        return self._stopping.is_set()

    def send(self, number: signal.Signals, prefix: str) -> None:
        """Send a signal to the present processes of all children whose name begins so."""
        for slot in self._slots:
            if slot.process is not None and slot.child.name.startswith(prefix):
                slot.process.send(number)

    def set_child(self, child: Child) -> None:
        """From the next start on, run this in the place of the child of the same name."""
        self._slot(child.name).child = child

    def add(self, child: Child) -> None:
        """Run one more child, from now on; `run` must have begun."""
        if not self._stopping.is_set():
            slot = _Slot(child)
            self._slots.append(slot)
            self._keepers.append(asyncio.create_task(self._keep(slot)))

    async def remove(self, name: str) -> None:
        """Stop the child of this name for good."""
        slot = self._slot(name)
        slot.removed = True
        await self._stop(slot)
        self._slots.remove(slot)

    def restart(self, child: Child) -> None:
        """Stop the child of this name and start it again as described; break before make."""
        slot = self._slot(child.name)
        slot.child = child
        if slot.process is not None and not slot.process.ended.done():
            slot.restart_requested = True
            self._let_go(slot, slot.process)

    async def replace(self, child: Child, ready_timeout_s: float) -> bool:
        """Put a new process in the place of the child of this name (rule 4); False when it never got ready."""
        slot = self._slot(child.name)
        try:
            process = await start(child, self._environ)
        except OSError as error:
            _log.error("%s cannot be started: %s", child.name, error)
            return False
        await _first({process.ended}, process.ready, self._stopping, timeout_s=ready_timeout_s)
        if self._stopping.is_set() or not process.ready.is_set() or process.ended.done():
            process.send(signal.SIGKILL)
            await process.ended
            return False
        before, slot.process, slot.child = slot.process, process, child
        if before is not None:
            self._let_go(slot, before)
        return True

    def _slot(self, name: str) -> _Slot:
        return next(slot for slot in self._slots if slot.child.name == name)

    def _signalled(self, number: signal.Signals) -> None:
        if self._stopping.is_set():
            self._status = self._status or 128 + number
            self._killing.set()
            for slot in self._slots:
                for process in (slot.process, *slot.leaving_processes):
                    if process is not None:
                        process.send(signal.SIGKILL)
        self._stopping.set()

    async def _keep(self, slot: _Slot) -> None:
        failures = 0
        followed: ChildProcess | None = None
        while not (self._stopping.is_set() or slot.removed):
            born_s = time.monotonic()
            status: int | None = 1
            try:
                # Unless somebody else has put a process there while this one waited.
                if slot.process is followed:
                    slot.process = await start(slot.child, self._environ)
                status = await self._follow(slot)
            except OSError as error:
                # No memory, no process ids, no descriptors: they may be there in a moment.
                _log.error("%s cannot be started: %s", slot.child.name, error)
            followed = slot.process
            if self._stopping.is_set() or slot.removed:
                return
            if status is None:
                failures = 0
                continue
            if status == CANNOT_WORK and slot.child.vital:
                _log.error("%s cannot run with this configuration: stopping", slot.child.name)
                self._status = CANNOT_WORK
                self._stopping.set()
                return
            if self._on_restart is not None:
                self._on_restart(slot.child.name, HUNG if followed is not None and followed.hung.is_set() else EXITED)
            failures = 0 if time.monotonic() - born_s > _HEALTHY_S else failures + 1
            delay_s = min(_BACKOFF_S * 2 ** (failures - 2), _BACKOFF_S_MAX) if failures > 1 else 0.0
            _log.error("%s exited with status %d: restarting in %.1f s", slot.child.name, status, delay_s)
            await _first(set(), self._stopping, timeout_s=delay_s)

    async def _follow(self, slot: _Slot) -> int | None:
        """Until the slot's process has ended (its status), or makes room for a successor (None)."""
        while True:
            process = slot.process
            assert process is not None
            if self._stopping.is_set():
                # The stop was requested while this child was being born, so that `_stop` did not see it.
                process.send(signal.SIGKILL)
            await _first({process.ended}, process.retiring, process.hung)
            if process.hung.is_set():
                await _first({process.ended}, timeout_s=_KILLED_S_MAX)
            if slot.process is not process:
                continue  # replaced: its successor is the one to follow
            if slot.restart_requested:
                slot.restart_requested = False
                await process.ended
                return None
            if process.ended.done():
                return process.ended.result()
            if self._stopping.is_set() or slot.removed:
                return await process.ended
            if process.hung.is_set():
                _log.error("%s was killed and has not exited: starting its successor beside it", slot.child.name)
            else:
                _log.warning("%s is retiring: starting its successor", slot.child.name)
            self._let_go(slot, process)
            return -signal.SIGKILL if process.hung.is_set() else None

    def _let_go(self, slot: _Slot, process: ChildProcess) -> None:
        task = asyncio.create_task(process.stop())
        slot.leaving.add(task)
        slot.leaving_processes.add(process)
        task.add_done_callback(slot.leaving.discard)
        task.add_done_callback(lambda _: slot.leaving_processes.discard(process))

    async def _stop(self, slot: _Slot) -> None:
        if slot.process is not None and not slot.process.ended.done() and slot.process not in slot.leaving_processes:
            self._let_go(slot, slot.process)
        await asyncio.gather(*slot.leaving)


async def _first(tasks: set[asyncio.Task[int]], *events: asyncio.Event, timeout_s: float | None = None) -> None:
    """Wait until one of the tasks is done or one of the events is set, or the time is over."""
    waiters = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait({*tasks, *waiters}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for waiter in waiters:
        waiter.cancel()
    await asyncio.gather(*waiters, return_exceptions=True)

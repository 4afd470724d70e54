"""The supervisor: spawns the children, restarts them with backoff, replaces them, forwards signals. No other logic.

Rules:

1. Listening sockets belong to the supervisor for its whole life and are inherited; a child that dies loses none of the
   connections that are still queued.
2. A child that dies is started again at once the first time, then ever later, up to five seconds; one that lived for
   ten seconds starts with a clean slate. One that says it retires gets its successor at once, while it still drains.
3. A child that ends with status 2 says that it cannot work as configured: everything stops with that status.
4. A child is replaced make before break: its successor has to say that it is ready before it is told to stop. A
   successor that never does is killed, and nothing has changed.
5. SIGTERM and SIGINT drain: children stop in the order of their ``stop_rank``, each rank before the next, and who has
   not ended after its time is killed. A second signal kills at once, and the status is 128 + its number.
6. A child with ``silence_s_max`` that has not been heard for so long hangs: it is killed, and rule 2 holds. Only time
   in which the supervisor itself was awake counts (a machine that was suspended or starved of CPU, a supervisor that
   was stopped): each look adds at most two of its own intervals. A child that has yet to speak has `_BIRTH_S_MAX`;
   one that a debugger holds is left alone. One that the kernel cannot end (it waits for a disk) is succeeded all the
   same.
7. A supervisor that is killed takes its children along (child.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.runtime.child import BEAT_S, READY, READY_FD_VARIABLE, RETIRING

_log = logging.getLogger("gateway.supervisor")
_BACKOFF_S = 0.1
_BACKOFF_S_MAX = 5.0
_HEALTHY_S = 10.0
_LOOK_S = 0.05
# Imports and a large table, on a machine that has other things to do.
_BIRTH_S_MAX = 60.0
# What the kernel takes to end a process that was killed, unless it waits for a device.
_KILLED_S_MAX = 2.0
CANNOT_WORK = 2

EXITED = "exit"
HUNG = "hang"


@dataclass(frozen=True)
class Child:
    """One process to keep alive: its module, what it reads on standard input, and the descriptors it inherits.

    ``says_ready``: the whole is ready when all those are who say so. ``silence_s_max``: it beats (child.py), and hangs
    when it has not for so long.
    """

    name: str
    module: str
    stdin: bytes
    pass_fds: Sequence[int] = ()
    stop_rank: int = 0
    stop_timeout_s: float = 5.0
    says_ready: bool = False
    silence_s_max: float | None = None


class Life:
    """One process of a child, from its birth to its end."""

    def __init__(self, child: Child, process: asyncio.subprocess.Process, said_fd: int) -> None:
        self.child = child
        self.ready = asyncio.Event()
        self.retiring = asyncio.Event()
        self._process = process
        self.hung = asyncio.Event()
        self._said_fd = said_fd
        self._spoke = False
        self._silent_s = 0.0
        asyncio.get_running_loop().add_reader(said_fd, self._hear)
        self.ended = asyncio.create_task(self._live())

    async def _live(self) -> int:
        watch = asyncio.create_task(self._watch())
        # communicate() writes the settings and ends at the child's end; stdout and stderr are inherited.
        await self._process.communicate(self.child.stdin)
        watch.cancel()
        self._close()
        assert self._process.returncode is not None
        return self._process.returncode

    async def _watch(self) -> None:
        """Kill it when it hangs (rule 6)."""
        limit_s = self.child.silence_s_max
        if not limit_s:
            return
        look_s = min(BEAT_S, limit_s / 4)
        while self._silent_s <= (limit_s if self._spoke else max(limit_s, _BIRTH_S_MAX)) or self._state() == "t":
            slept_s = time.monotonic()
            await asyncio.sleep(look_s)
            self._silent_s += min(time.monotonic() - slept_s, 2 * look_s)
        _log.error(
            "%s (process %d, state %s) hangs, nothing was heard from it for %.1f s: killed",
            *(self.child.name, self._process.pid, self._state(), self._silent_s),
        )
        self.hung.set()
        self.send(signal.SIGKILL)

    def _state(self) -> str:
        """The process's state in the kernel's letters (proc_pid_stat(5)): T stopped, t traced, D waits for a device."""
        try:
            status = Path(f"/proc/{self._process.pid}/stat").read_text()
        except OSError:
            return "unknown"
        return status.rpartition(")")[2].split()[0]

    def _hear(self) -> None:
        said = os.read(self._said_fd, 4096)
        self._silent_s = 0.0
        self._spoke = True
        if READY in said:
            self.ready.set()
        if RETIRING in said:
            self.retiring.set()
        if not said:
            self._close()

    def _close(self) -> None:
        if self._said_fd >= 0:
            asyncio.get_running_loop().remove_reader(self._said_fd)
            os.close(self._said_fd)
            self._said_fd = -1

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if there is still somebody to get it."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def stop(self) -> None:
        """Tell it to stop, and kill it when it does not in its time."""
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(self.child.stop_timeout_s):
                await asyncio.shield(self.ended)
        except TimeoutError:
            _log.error("%s did not stop in %.0f s: killed", self.child.name, self.child.stop_timeout_s)
            self.send(signal.SIGKILL)
            await self.ended


@dataclass
class _Slot:
    """The place of one child: what is to run there, what runs there, and those that still drain."""

    child: Child
    life: Life | None = None
    leaving: set[asyncio.Task[None]] = field(default_factory=set)
    leaving_lives: set[Life] = field(default_factory=set)
    restart_wished: bool = False


class Supervisor:
    """Runs the children until told to stop.

    ``before_stop`` is awaited between the wish to stop and the first child's being told. ``on_restart`` is called with
    a child's name and `EXITED` or `HUNG` when it is about to be started again. ``environ`` is added to the children's.
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

    def watch_signals(self, on_hangup: Callable[[], None] | None = None) -> None:
        """Take signals from now on; one that comes before `run` makes it end at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        if on_hangup is not None:
            loop.add_signal_handler(signal.SIGHUP, on_hangup)

    async def run(self) -> int:
        """Run until a signal or a child that cannot work; returns the exit status."""
        keepers = [asyncio.create_task(self._keep(slot)) for slot in self._slots]
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
        await asyncio.gather(*keepers)
        return self._status

    async def ready(self) -> None:
        """Return when all children that say so have been ready."""
        for slot in self._slots:
            while slot.child.says_ready and not (slot.life is not None and slot.life.ready.is_set()):
                await asyncio.sleep(_LOOK_S)

    def stop(self) -> None:
        """Drain and end, as after SIGTERM."""
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        """Whether the end has been wished for."""
        return self._stopping.is_set()

    def send(self, number: signal.Signals, prefix: str) -> None:
        """Send a signal to the present processes of all children whose name begins so."""
        for slot in self._slots:
            if slot.life is not None and slot.child.name.startswith(prefix):
                slot.life.send(number)

    def set_child(self, child: Child) -> None:
        """From the next start on, run this in the place of the child of the same name."""
        self._slot(child.name).child = child

    def restart(self, child: Child) -> None:
        """Stop the child of this name and start it again as described; break before make."""
        slot = self._slot(child.name)
        slot.child = child
        if slot.life is not None and not slot.life.ended.done():
            slot.restart_wished = True
            self._let_go(slot, slot.life)

    async def replace(self, child: Child, ready_timeout_s: float) -> bool:
        """Put a new process in the place of the child of this name (rule 4); False when it never got ready."""
        slot = self._slot(child.name)
        try:
            life = await self._begin(child)
        except OSError as error:
            _log.error("%s cannot be started: %s", child.name, error)
            return False
        await _first({life.ended}, life.ready, self._stopping, timeout_s=ready_timeout_s)
        if self._stopping.is_set() or not life.ready.is_set() or life.ended.done():
            life.send(signal.SIGKILL)
            await life.ended
            return False
        before, slot.life, slot.child = slot.life, life, child
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
                for life in (slot.life, *slot.leaving_lives):
                    if life is not None:
                        life.send(signal.SIGKILL)
        self._stopping.set()

    async def _keep(self, slot: _Slot) -> None:
        failures = 0
        followed: Life | None = None
        while not self._stopping.is_set():
            born_s = time.monotonic()
            status: int | None = 1
            try:
                # Unless somebody else has put a process there while this one waited.
                if slot.life is followed:
                    slot.life = await self._begin(slot.child)
                status = await self._follow(slot)
            except OSError as error:
                # No memory, no process ids, no descriptors: they may be there in a moment.
                _log.error("%s cannot be started: %s", slot.child.name, error)
            followed = slot.life
            if self._stopping.is_set():
                return
            if status is None:
                failures = 0
                continue
            if status == CANNOT_WORK:
                _log.error("%s cannot work as configured: stopping", slot.child.name)
                self._status = CANNOT_WORK
                self._stopping.set()
                return
            if self._on_restart is not None:
                self._on_restart(slot.child.name, HUNG if followed is not None and followed.hung.is_set() else EXITED)
            failures = 0 if time.monotonic() - born_s > _HEALTHY_S else failures + 1
            delay_s = min(_BACKOFF_S * 2 ** (failures - 2), _BACKOFF_S_MAX) if failures > 1 else 0.0
            _log.error("%s ended with status %d: starting it again in %.1f s", slot.child.name, status, delay_s)
            await _first(set(), self._stopping, timeout_s=delay_s)

    async def _follow(self, slot: _Slot) -> int | None:
        """Until the slot's process has ended (its status), or makes room for a successor (None)."""
        while True:
            life = slot.life
            assert life is not None
            if self._stopping.is_set():
                # The wish to stop came while this child was being born, so that `_stop` did not see it.
                life.send(signal.SIGKILL)
            await _first({life.ended}, life.retiring, life.hung)
            if life.hung.is_set():
                await _first({life.ended}, timeout_s=_KILLED_S_MAX)
            if slot.life is not life:
                continue  # replaced: its successor is the one to follow
            if slot.restart_wished:
                slot.restart_wished = False
                await life.ended
                return None
            if life.ended.done():
                return life.ended.result()
            if self._stopping.is_set():
                return await life.ended
            if life.hung.is_set():
                _log.error("%s was killed and has not ended: starting its successor beside it", slot.child.name)
            else:
                _log.warning("%s retires: starting its successor", slot.child.name)
            self._let_go(slot, life)
            return -signal.SIGKILL if life.hung.is_set() else None

    async def _begin(self, child: Child) -> Life:
        said_fd, say_fd = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway.runtime.child", str(os.getpid()), child.module),
                stdin=asyncio.subprocess.PIPE,
                pass_fds=(*child.pass_fds, say_fd),
                env={**os.environ, **self._environ, READY_FD_VARIABLE: str(say_fd)},
                # A terminal's Ctrl-C is for the supervisor, who then stops the children in order.
                start_new_session=True,
            )
        except BaseException:
            os.close(said_fd)
            raise
        finally:
            os.close(say_fd)
        return Life(child, process, said_fd)

    def _let_go(self, slot: _Slot, life: Life) -> None:
        task = asyncio.create_task(life.stop())
        slot.leaving.add(task)
        slot.leaving_lives.add(life)
        task.add_done_callback(slot.leaving.discard)
        task.add_done_callback(lambda _: slot.leaving_lives.discard(life))

    async def _stop(self, slot: _Slot) -> None:
        if slot.life is not None and not slot.life.ended.done() and slot.life not in slot.leaving_lives:
            self._let_go(slot, slot.life)
        await asyncio.gather(*slot.leaving)


async def _first(tasks: set[asyncio.Task[int]], *events: asyncio.Event, timeout_s: float | None = None) -> None:
    """Wait until one of the tasks is done or one of the events is set, or the time is over."""
    waiters = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait({*tasks, *waiters}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for waiter in waiters:
        waiter.cancel()
    await asyncio.gather(*waiters, return_exceptions=True)

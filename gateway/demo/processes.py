"""The demo's processes: started, watched, and gone when the demo is, however it ends.

Rules:

1. Each child leads a session of its own, so that a terminal's Ctrl-C reaches the demo alone, which then stops them in
   order.
2. Stopping is SIGTERM, patience, SIGKILL; then SIGKILL for whatever the child itself had started.
3. On Linux the kernel tells each child when the demo dies without a word (PR_SET_PDEATHSIG), so that not even a
   `kill -9` of the demo leaves anything behind: the gateway's supervisor then stops its own children.
4. A child that ends although nobody asked it to is news: `ended` is set, and its last lines on standard error are kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import gateway

_TAIL_LINES = 12
_LINE_BYTES_MAX = 1 << 20
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class DemoError(Exception):
    """The demo itself could not run; the text says which part, and what it said last."""


class Process:
    """One child process: its standard output line by line, the end of its standard error, and its end."""

    def __init__(self, name: str, command: Sequence[str], *, stop_timeout_s: float = 4.0) -> None:
        self.name = name
        self.expected_to_die = False
        self.ended = asyncio.Event()
        self._command = command
        self._stop_timeout_s = stop_timeout_s
        self._process: asyncio.subprocess.Process | None = None
        self._said: asyncio.Queue[str | None] = asyncio.Queue()
        self._complaints: deque[str] = deque(maxlen=_TAIL_LINES)
        self._watching: asyncio.Task[None] | None = None
        self._status = 0
        self._stopping = False

    @property
    def pid(self) -> int:
        """The process id; only after `start`."""
        assert self._process is not None
        return self._process.pid

    @property
    def failure(self) -> str | None:
        """What to say of a child that ended by itself; None while it runs, or when its end was wished for."""
        if not self.ended.is_set() or self._stopping or self.expected_to_die:
            return None
        return f"{self.name} {_how(self._status)}{self._last_words()}"

    async def start(self, stdin: bytes | None = None) -> None:
        """Start the process; ``stdin`` is written to its standard input, which stays open. DemoError if it cannot."""
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=_LINE_BYTES_MAX,
                env=_environment(),
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        except OSError as error:
            raise DemoError(f"{self.name} could not be started: {error}") from error
        if stdin is not None and self._process.stdin is not None:
            self._process.stdin.write(stdin)
        self._watching = asyncio.create_task(self._watch(self._process))

    async def lines(self) -> AsyncIterator[str]:
        """The lines of its standard output, from where the last reader stopped, until it ends."""
        while (line := await self._said.get()) is not None:
            yield line

    async def until_said(self, pattern: str, timeout_s: float) -> re.Match[str]:
        """Wait for a line on standard output that matches; DemoError when none comes."""
        try:
            async with asyncio.timeout(timeout_s):
                async for line in self.lines():
                    if match := re.search(pattern, line):
                        return match
                await self.ended.wait()
        except TimeoutError:
            pass
        raise DemoError(self.failure or f"{self.name} was not ready within {timeout_s:g} s{self._last_words()}")

    async def stop(self) -> None:
        """Stop the process and everything that it has started; returns when they are gone."""
        process = self._process
        if process is None:
            return
        self._stopping = True
        family = descendants(process.pid)
        if process.returncode is None:
            self.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._stop_timeout_s):
                    await self.ended.wait()
        self.kill(family)
        await self.ended.wait()
        for member in family:
            await _gone(member)

    def terminate(self) -> None:
        """SIGTERM, to the process alone."""
        if self._process is not None and self._process.returncode is None:
            _signal(self._process.pid, signal.SIGTERM)

    def kill(self, family: Sequence[Member] = ()) -> None:
        """SIGKILL, at once: to its whole session and to its descendants."""
        if self._process is None:
            return
        if self._process.returncode is None:
            family = [*family, *descendants(self._process.pid)]
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        for member in family:
            if member.alive:
                _signal(member.pid, signal.SIGKILL)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None and process.stderr is not None
        pumps = [
            asyncio.create_task(_each_line(process.stdout, self._said.put_nowait)),
            asyncio.create_task(_each_line(process.stderr, self._complaints.append)),
        ]
        self._status = await process.wait()
        # What the process said last may still be in its pipes; a grandchild that holds them open is not waited for.
        await asyncio.wait(pumps, timeout=0.5)
        for pump in pumps:
            pump.cancel()
        self._said.put_nowait(None)
        self.ended.set()

    def _last_words(self) -> str:
        if not self._complaints:
            return ""
        return "; it said last:\n" + "\n".join(f"    {line}" for line in self._complaints)


async def _each_line(stream: asyncio.StreamReader, hear: Callable[[str], None]) -> None:
    async for line in stream:
        hear(line.decode(errors="replace").rstrip())


def _how(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    return f"was killed by {signal.Signals(-status).name}"


def _environment() -> dict[str, str]:
    """Ours; and no module is looked for in the working directory, which may hold anything, unless this package is."""
    elsewhere = Path(gateway.__file__).parent.parent != Path.cwd()
    return {**os.environ, "PYTHONSAFEPATH": "1"} if elsewhere else dict(os.environ)


def _die_with_parent() -> None:
    # Between fork and exec: nothing but one system call.
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


# Families: who was started by whom, as Linux tells it in /proc (elsewhere: nobody).


class Member(NamedTuple):
    """A process that is told apart from a later one with the same id by the time of its birth."""

    pid: int
    born: str

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        stat = _stat(self.pid)
        return stat is not None and stat[2] == self.born and stat[0] != "Z"


def descendants(pid: int) -> list[Member]:
    """The processes that ``pid`` has started, and theirs, and so on."""
    children: dict[int, list[Member]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        stat = _stat(int(entry.name))
        if stat is not None:
            children.setdefault(int(stat[1]), []).append(Member(int(entry.name), stat[2]))
    found: list[Member] = []
    waiting = [pid]
    while waiting:
        members = children.get(waiting.pop(), [])
        found += members
        waiting += [member.pid for member in members]
    return found


def _stat(pid: int) -> tuple[str, str, str] | None:
    """State, parent and birth of a process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # The second field, the command in parentheses, may hold anything; the fields are counted after it.
    fields = text.rpartition(")")[2].split()
    return fields[0], fields[1], fields[19]


async def _gone(member: Member, timeout_s: float = 2.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while member.alive and time.monotonic() < deadline_s:
        await asyncio.sleep(0.02)

"""One child process, from its start to its end: what the supervisor and the demo have in common.

Rules:

1. Every child runs through child.py, so that it ends with its parent, and leads a session of its own: a terminal's
   Ctrl-C is for the parent, who then stops the children in order.
2. Stopping is SIGTERM, patience (``stop_timeout_s``), SIGKILL.
3. A child with ``silence_s_max`` that sends nothing for so long hangs and is killed. Only time in which the parent
   itself was awake counts (a machine that was suspended or starved of CPU, a parent that was stopped): each look adds
   at most two of its own intervals. A child that has yet to send its first beat has `_BIRTH_S_MAX`; one that a debugger
   holds is left alone.
4. Standard output and error are inherited, or read line by line where a reader is given. When `ended` is
   done, what the child wrote has been read; a grandchild that holds the pipes open is not waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.runtime.child import BEAT_S, READY, READY_FD_VARIABLE, RETIRING

_log = logging.getLogger("gateway.supervisor")
# Imports and a large table, on a machine that has other things to do.
_BIRTH_S_MAX = 60.0
_LINE_BYTES_MAX = 1 << 20
_LAST_LINES_S_MAX = 0.5


@dataclass(frozen=True)
class Child:
    """One process: its module and arguments, what it reads on standard input, and the descriptors it inherits.

    ``vital``: where it says that it cannot work as configured (status 2), everything stops. ``says_ready``: the
    whole is ready when all those are who say so. ``silence_s_max``: it beats (child.py), and hangs when it has not
    for so long. ``on_output`` and ``on_error`` get each line of standard output and standard error.
    """

    name: str
    module: str
    stdin: bytes
    pass_fds: Sequence[int] = ()
    stop_rank: int = 0
    stop_timeout_s: float = 5.0
    says_ready: bool = False
    silence_s_max: float | None = None
    arguments: Sequence[str] = ()
    on_output: Callable[[str], None] | None = None
    on_error: Callable[[str], None] | None = None
    vital: bool = True


class ChildProcess:
    """One process of a child, from its start to its end."""

    def __init__(self, child: Child, process: asyncio.subprocess.Process, said_fd: int) -> None:
        self.child = child
        self.ready = asyncio.Event()
        self.retiring = asyncio.Event()
        self.hung = asyncio.Event()
        self._process = process
        self._said_fd = said_fd
        self._spoke = False
        self._silent_s = 0.0
        asyncio.get_running_loop().add_reader(said_fd, self._on_message)
        self.ended = asyncio.create_task(self._live())

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def _live(self) -> int:
        """Until its end; returns its status, negative for a signal."""
        watch = asyncio.create_task(self._watch())
        readers = [
            asyncio.create_task(_each_line(stream, on_line))
            for stream, on_line in (
                (self._process.stdout, self.child.on_output),
                (self._process.stderr, self.child.on_error),
            )
            if stream is not None and on_line is not None
        ]
        await self._give_stdin()
        status = await self._process.wait()
        watch.cancel()
        if readers:
            await asyncio.wait(readers, timeout=_LAST_LINES_S_MAX)
        for reader in readers:
            reader.cancel()
        self._close()
        return status

    async def _give_stdin(self) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it ended before it had read all of it
            stdin.write(self.child.stdin)
            await stdin.drain()
        stdin.close()

    async def _watch(self) -> None:
        """Kill it when it hangs (rule 3)."""
        limit_s = self.child.silence_s_max
        if not limit_s:
            return
        look_s = min(BEAT_S, limit_s / 4)
        while self._silent_s <= (limit_s if self._spoke else max(limit_s, _BIRTH_S_MAX)) or self._state() == "t":
            slept_s = time.monotonic()
            await asyncio.sleep(look_s)
            self._silent_s += min(time.monotonic() - slept_s, 2 * look_s)
        _log.error(
            "%s (process %d, state %s) hangs: no heartbeat for %.1f s, killed",
            *(self.child.name, self._process.pid, self._state(), self._silent_s),
        )
        self.hung.set()
        self.send(signal.SIGKILL)

    def _state(self) -> str:
        """The process's state, one letter (proc_pid_stat(5)): T stopped, t traced, D waits for a device."""
        try:
            status = Path(f"/proc/{self._process.pid}/stat").read_text()
        except OSError:
            return "unknown"
        return status.rpartition(")")[2].split()[0]

    def _on_message(self) -> None:
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
        """Send a signal, if the process still runs."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def stop(self) -> None:
        """Ask it to stop, and kill it when it has not stopped in its time."""
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(self.child.stop_timeout_s):
                await asyncio.shield(self.ended)
        except TimeoutError:
            _log.error("%s did not stop within %.0f s: killed", self.child.name, self.child.stop_timeout_s)
            self.send(signal.SIGKILL)
            await self.ended


async def start(child: Child, environ: Mapping[str, str] | None = None) -> ChildProcess:
    """Start a child with ``environ`` added to this process's environment. Raises OSError where it cannot."""
    said_fd, say_fd = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway.runtime.child", str(os.getpid()), child.module, *child.arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=None if child.on_output is None else asyncio.subprocess.PIPE,
            stderr=None if child.on_error is None else asyncio.subprocess.PIPE,
            limit=_LINE_BYTES_MAX,
            pass_fds=(*child.pass_fds, say_fd),
            env={**os.environ, **(environ or {}), READY_FD_VARIABLE: str(say_fd)},
            start_new_session=True,
        )
    except BaseException:
        os.close(said_fd)
        raise
    finally:
        os.close(say_fd)
    return ChildProcess(child, process, said_fd)


async def _each_line(stream: asyncio.StreamReader, on_line: Callable[[str], None]) -> None:
    async for line in stream:
        on_line(line.decode(errors="replace").rstrip())

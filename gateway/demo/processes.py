"""The demo's processes: started, watched, and gone when the demo is, however it ends.

Rules:

1. They are child processes like the supervisor's own (gateway/runtime/process.py): each leads a session of its own, so
   that a terminal's Ctrl-C reaches the demo alone, and ends with the demo, however that ends. The gateway's workers
   end with the gateway in the same way.
2. For a child that ends by itself `ended` is set, and `failure` has its status and its last lines on standard error.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import gateway
from gateway.runtime.process import Child, ChildProcess, start

_TAIL_LINES = 12


class DemoError(Exception):
    """The demo itself could not run; the text says which part, and its last output."""


class DemoProcess:
    """One child process: its standard output line by line, the end of its standard error, and its end."""

    def __init__(self, name: str, module: str, *arguments: str, stop_timeout_s: float = 4.0) -> None:
        self.name = name
        self.expected_to_die = False
        self.ended = asyncio.Event()
        self._output: asyncio.Queue[str | None] = asyncio.Queue()
        self._errors: deque[str] = deque(maxlen=_TAIL_LINES)
        self._child = Child(
            name,
            module,
            b"",
            arguments=arguments,
            stop_timeout_s=stop_timeout_s,
            on_output=self._output.put_nowait,
            on_error=self._errors.append,
        )
        self._process: ChildProcess | None = None
        self._stopping = False

    @property
    def pid(self) -> int:
        """The process id; only after `start`."""
        assert self._process is not None
        return self._process.pid

    @property
    def failure(self) -> str | None:
        """What to say of a child that ended by itself; None while it runs, or when its end was asked for."""
        if self._process is None or not self.ended.is_set() or self._stopping or self.expected_to_die:
            return None
        return f"{self.name} {_exit_text(self._process.ended.result())}{self._last_lines()}"

    async def start(self, stdin: bytes = b"") -> None:
        """Start the process with ``stdin`` on its standard input. DemoError if it cannot be started."""
        try:
            self._process = await start(replace(self._child, stdin=stdin), _environment())
        except OSError as error:
            raise DemoError(f"{self.name} could not be started: {error}") from error
        self._process.ended.add_done_callback(self._on_end)

    async def lines(self) -> AsyncIterator[str]:
        """The lines of its standard output, from where the last reader stopped, until it ends."""
        while (line := await self._output.get()) is not None:
            yield line

    async def wait_for_line(self, pattern: str, timeout_s: float) -> re.Match[str]:
        """Wait for a line on standard output that matches; DemoError when none comes."""
        try:
            async with asyncio.timeout(timeout_s):
                async for line in self.lines():
                    if match := re.search(pattern, line):
                        return match
                await self.ended.wait()
        except TimeoutError:
            pass
        raise DemoError(self.failure or f"{self.name} was not ready within {timeout_s:g} s{self._last_lines()}")

    async def stop(self) -> None:
        """Stop the process; returns when it has ended."""
        self._stopping = True
        if self._process is not None:
            await self._process.stop()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if the process runs."""
        if self._process is not None:
            self._process.send(number)

    def _on_end(self, _: asyncio.Task[int]) -> None:
        self._output.put_nowait(None)
        self.ended.set()

    def _last_lines(self) -> str:
        if not self._errors:
            return ""
        return "; its last lines:\n" + "\n".join(f"    {line}" for line in self._errors)


def _exit_text(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    return f"was killed by {signal.Signals(-status).name}"


def _environment() -> dict[str, str]:
    """No module is looked for in the working directory, which may hold anything, unless this package is there."""
    return {} if Path(gateway.__file__).parent.parent == Path.cwd() else {"PYTHONSAFEPATH": "1"}

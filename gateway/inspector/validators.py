"""A validator's process: windows go to its standard input, a line of JSON each, and its verdicts come back.

Rules:

1. It is started with the first window and kept, because to import what it needs may take seconds. It sees as little of
   the environment as every program of the gateway's (runtime/programs.py), and ends with its standard input.
2. One window at a time. One that is not answered in time, or by what is no verdict, is lost, and the process is started
   again, ever later, up to a minute. A validator that fails only delays promotions: its metrics have no data.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable

import msgspec

from gateway.inspector.data_checks import DataChecks, DataVerdict, DataWindow
from gateway.runtime.programs import seen_environment

_log = logging.getLogger("gateway.inspector")
_LOOK_S = 0.1
_BACKOFF_S, _BACKOFF_S_MAX = 1.0, 60.0
_LINE_BYTES_MAX = 4 << 20
_ENVIRON = {"GX_ANALYTICS_ENABLED": "false"}

Judged = Callable[[DataWindow, DataVerdict], None]


class ValidatorError(Exception):
    """The program cannot be run, or its answer is no verdict."""


class ValidatorProcess:
    """The program of one route's checks. ``judged`` takes its verdicts."""

    def __init__(self, route: str, checks: DataChecks, judged: Judged) -> None:
        self._route = route
        self._checks = checks
        self._judged = judged
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Have windows judged as they come, until cancelled."""
        delay_s = _BACKOFF_S
        try:
            while True:
                window = self._checks.next()
                if window is None:
                    await asyncio.sleep(_LOOK_S)
                    continue
                try:
                    self._judged(window, await self._ask(window))
                except (ValidatorError, OSError, TimeoutError) as error:
                    await self._stop()
                    problem = str(error) or f"not judged within {self._checks.settings.timeout_s:g} s"
                    self._checks.lost("validator", f"{self._checks.settings.command[0]}: {problem}")
                    _log.error("route %s: the validator failed, starting it again: %s", self._route, problem)
                    await asyncio.sleep(delay_s)
                    delay_s = min(2 * delay_s, _BACKOFF_S_MAX)
                else:
                    delay_s = _BACKOFF_S
        finally:
            await self._stop()

    async def _ask(self, window: DataWindow) -> DataVerdict:
        process = await self._started()
        assert process.stdin is not None and process.stdout is not None  # both are pipes
        asked = {"route": self._route, "variant": "canary" if window.of.variant else "stable", "rows": window.rows}
        async with asyncio.timeout(self._checks.settings.timeout_s):
            with contextlib.suppress(ConnectionError):  # it has ended: what it said before that is read
                process.stdin.write(msgspec.json.encode(asked) + b"\n")
                await process.stdin.drain()
            try:
                line = await process.stdout.readline()
            except ValueError:
                raise ValidatorError(f"its answer has more than {_LINE_BYTES_MAX} bytes") from None
        if not line:
            raise ValidatorError("it ended without an answer: the lines above this one may say why")
        try:
            return msgspec.json.decode(line, type=DataVerdict)
        except msgspec.DecodeError as error:
            raise ValidatorError(f"its answer is no verdict: {error}: {line[:100]!r}") from None

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self._checks.settings.command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    env=seen_environment() | _ENVIRON,
                    limit=_LINE_BYTES_MAX,
                    start_new_session=True,
                )
            except OSError as error:
                raise ValidatorError(f"cannot be run: {error.strerror}") from None
        return self._process

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

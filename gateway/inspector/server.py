"""The inspector's process: listens for workers and for control on one Unix-domain socket, and reports to control.

    python -m gateway.inspector.server      settings as JSON on standard input

Workers send batches of samples; each connection is read one frame at a time, and between two frames everybody else has
a turn, so that a flood from the workers delays a report by one batch at most. Control says what to look at, hands on
business events, and receives everything every `REPORT_EVERY_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
import sys
import time
from functools import partial
from pathlib import Path

import msgspec

from gateway.inspector.aggregator import Aggregator
from gateway.inspector.data_checks import DataChecks, DataVerdict, DataWindow
from gateway.inspector.validators import ValidatorProcess
from gateway.runtime import samples
from gateway.runtime.child import serve_until_stopped
from gateway.runtime.logs import log_to_stderr
from gateway.runtime.settings import InspectorSettings
from gateway.runtime.unix_server import unix_server

_log = logging.getLogger("gateway.inspector")
REPORT_EVERY_S = 0.1
_SAMPLES_A_TURN = 20


class Inspector:
    """All connections, around one aggregator."""

    def __init__(self, aggregator: Aggregator) -> None:
        self._aggregator = aggregator
        self._tasks: set[asyncio.Task[None]] = set()
        self._validators: dict[DataChecks, asyncio.Task[None]] = {}

    async def run(self, path: Path) -> None:
        """Listen at ``path`` (mode 0600) until cancelled; a socket left by an earlier life is replaced."""
        server = await unix_server(self._accept, path)
        try:
            while True:
                await asyncio.sleep(REPORT_EVERY_S)
                self._aggregator.expire(time.monotonic())
        finally:
            server.close()
            tasks = [*self._tasks, *self._validators.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        reports: asyncio.Task[None] | None = None
        try:
            while True:
                message = await samples.read_message(reader)
                if isinstance(message, samples.Watching) and reports is None:
                    reports = asyncio.create_task(self._report(writer))
                await self._take(message, id(task))
        except (OSError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            pass  # by `run`; a cancelled task would make asyncio's streams complain
        except ValueError as error:
            _log.error("connection closed after a protocol error: %s", error)
        finally:
            self._tasks.discard(task)
            self._aggregator.gone(id(task))
            if reports is not None:
                reports.cancel()
            writer.close()

    async def _take(self, message: samples.ToInspector, source: int) -> None:
        now_s = time.monotonic()
        match message:
            case samples.Batch(taken, served, pairs):
                for news in served:
                    self._aggregator.served(news, now_s)
                for number, sample in enumerate(taken):
                    self._aggregator.take(sample, now_s, source)
                    if number % _SAMPLES_A_TURN == 0:
                        await asyncio.sleep(0)
                for number, pair in enumerate(pairs):
                    self._aggregator.take_pair(pair, now_s)
                    if number % _SAMPLES_A_TURN == 0:
                        await asyncio.sleep(0)
            case samples.Watching(routes, known):
                self._aggregator.watch(routes, known)
                self._validate()
            case samples.Labels(route, labels):
                for label in labels:
                    self._aggregator.label(route, label, now_s)
            case samples.ReportTaken(seq):
                self._aggregator.confirm(seq)

    def _validate(self) -> None:
        """Have a validator for each route whose data are checked, and none for others."""
        wanted = self._aggregator.checks
        for checks in [one for one in self._validators if one not in wanted.values()]:
            self._validators.pop(checks).cancel()
        for route, checks in wanted.items():
            if checks not in self._validators:
                process = ValidatorProcess(route, checks, partial(self._judged, checks))
                self._validators[checks] = asyncio.create_task(process.run())

    def _judged(self, checks: DataChecks, window: DataWindow, verdict: DataVerdict) -> None:
        self._aggregator.judged(checks, window, verdict, time.monotonic())

    async def _report(self, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # the reading side sees the same end
            while True:
                writer.write(samples.encode(self._aggregator.report(time.monotonic())))
                await writer.drain()
                await asyncio.sleep(REPORT_EVERY_S)


async def _serve(settings: InspectorSettings) -> None:
    boot = f"inspector-{os.getpid()}-{secrets.token_hex(4)}"
    inspector = Inspector(Aggregator(boot, random.Random().random))
    await serve_until_stopped(inspector.run(Path(settings.path)))


def main() -> None:
    """Entry of ``python -m gateway.inspector.server``."""
    settings = msgspec.json.decode(sys.stdin.buffer.read(), type=InspectorSettings)
    log_to_stderr("inspector")
    asyncio.run(_serve(settings))


if __name__ == "__main__":
    main()

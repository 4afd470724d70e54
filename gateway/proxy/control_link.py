"""The worker's end of the conversation with control: tables and health in, reports out, for ever reconnecting.

A dead control plane changes nothing for traffic: the worker keeps its last table, goes on counting, and tries again.
What probes said is forgotten after a while: without control nothing would say that an endpoint is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from time import monotonic

from gateway.proxy.context import WorkerContext
from gateway.runtime import logs, wire

_log = logging.getLogger("gateway.worker")
_RETRY_S = 0.05
# Short, so that a control plane that is back gets a report of every worker before it publishes.
_RETRY_S_MAX = 0.25
_SILENCE_S_MAX = 10.0
_HEALTH_AGE_S_MAX = 30.0


class ControlLink:
    """Keeps one connection to control, as long as the worker lives."""

    def __init__(self, worker: WorkerContext, index: int, path: str, report_interval_s: float) -> None:
        self._worker = worker
        self._index = index
        self._path = path
        self._interval_s = report_interval_s
        self.table_received = asyncio.Event()
        # When the last message from control came.
        self._last_message_s = monotonic()

    async def run(self) -> None:
        """Connect, talk until the connection ends, and again."""
        retry_s = _RETRY_S
        while True:
            if monotonic() - self._last_message_s > _HEALTH_AGE_S_MAX:
                self._worker.pools.enter_health({})
            try:
                reader, writer = await asyncio.open_unix_connection(self._path)
            except OSError:
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, _RETRY_S_MAX)
                continue
            retry_s = _RETRY_S
            try:
                await self._talk(reader, writer)
            except (OSError, asyncio.IncompleteReadError, ValueError) as error:
                why = str(error) or f"nothing received for {_SILENCE_S_MAX:g} s"
                _log.warning(
                    "worker %d: connection to control lost (%s); still routing by table %d",
                    self._index,
                    why,
                    self._epoch,
                )
            except Exception:  # noqa: BLE001  # a worker without a link would route by an old table for ever
                _log.exception(
                    "worker %d: connection to control lost; still routing by table %d", self._index, self._epoch
                )
                retry_s = _RETRY_S_MAX
            finally:
                writer.close()
            await asyncio.sleep(retry_s)

    @property
    def _epoch(self) -> int:
        return self._worker.table.epoch

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        weights_bp = {route.name: route.weight_bp for route in self._worker.table.routes}
        stables = {route.name: route.stable for route in self._worker.table.routes}
        canaries = {route.name: route.canary for route in self._worker.table.routes if route.canary is not None}
        hello = wire.Hello(self._worker.boot, self._index, os.getpid(), self._epoch, weights_bp, stables, canaries)
        writer.write(wire.encode(hello))
        reports = asyncio.create_task(self._report(writer))
        try:
            while True:
                # Every report is acknowledged: silence means that control hangs, however well its socket looks.
                async with asyncio.timeout(_SILENCE_S_MAX):
                    message = await wire.read_down(reader)
                self._take(message, writer)
        finally:
            reports.cancel()

    def _take(self, message: wire.Down, writer: asyncio.StreamWriter) -> None:
        self._last_message_s = monotonic()
        match message:
            case wire.SetTable(table):
                self._worker.enter_table(table)
                self.table_received.set()
                writer.write(wire.encode(wire.Applied(self._epoch)))
            case wire.SetHealth(down):
                self._worker.pools.enter_health({(one.backend, one.url): one.refused for one in down})
            case wire.Ack(seq):
                self._worker.counts.acknowledged(seq)

    async def _report(self, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # the reading side sees the same end, and acts on it
            while True:
                self.send_report(writer)
                await writer.drain()
                await asyncio.sleep(self._interval_s)

    def send_report(self, writer: asyncio.StreamWriter) -> None:
        """Send everything counted so far."""
        worker = self._worker
        report = worker.counts.report(self._epoch, len(worker.active), len(worker.connections), worker.pools.open_count)
        report.panics, report.kept = worker.pools.panicking(), worker.pools.kept()
        report.ejected = worker.pools.ejected()
        report.notes.update(worker.pools.ejections)
        report.notes["process_log_dropped"] = logs.dropped()
        report.notes.update(worker.features.notes)
        if worker.tracer is not None:
            tracer = worker.tracer
            found = {"exported": tracer.exported, "failed": tracer.failed, "dropped": tracer.dropped}
            report.notes.update({f"spans_{result}": n for result, n in found.items()})
        bodies = worker.bodies
        report.notes.update({f"body_not_kept:{reason}": n for reason, n in bodies.not_kept.items()})
        report.body_memory_bytes, report.body_disk_bytes = bodies.memory_bytes, bodies.disk_bytes
        writer.write(wire.encode(report))

"""The process that looks features up for the workers, on a Unix-domain socket of its own.

    python -m gateway.integrations.feast.server      settings as JSON on standard input

Workers stay free of an HTTP client, share one cache, and wait for no longer than their route allows, whatever this
process does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from pathlib import Path

import msgspec

from gateway.integrations.feast.online import OnlineFeatures
from gateway.runtime import features
from gateway.runtime.child import serve_until_stopped
from gateway.runtime.features import Found, LookedUp, Lookup
from gateway.runtime.logs import log_to_stderr
from gateway.runtime.settings import FeaturesSettings
from gateway.runtime.unix_server import unix_server

_log = logging.getLogger("gateway.features")


class FeatureServer:
    """All connections of workers, around one cache."""

    def __init__(self, online: OnlineFeatures) -> None:
        self._online = online
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, path: Path) -> None:
        """Listen at ``path`` until cancelled."""
        server = await unix_server(self._accept, path)
        try:
            await asyncio.Event().wait()
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._online.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                lookup = await features.read_lookup(reader)
                task = asyncio.create_task(self._answer(lookup, writer))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except ValueError as error:
            _log.error("connection closed after a protocol error: %s", error)
        finally:
            writer.close()

    async def _answer(self, lookup: Lookup, writer: asyncio.StreamWriter) -> None:
        try:
            found = await self._online.find(lookup)
        except Exception:  # noqa: BLE001  # one lookup's failure is not the others'
            _log.exception("a lookup failed")
            found = Found(lookup.number, LookedUp.UNAVAILABLE)
        if not writer.is_closing():
            with contextlib.suppress(OSError):
                writer.write(features.encode(found))


def main() -> None:
    """Entry of ``python -m gateway.integrations.feast.server``."""
    settings = msgspec.json.decode(sys.stdin.buffer.read(), type=FeaturesSettings)
    log_to_stderr("features")
    server = FeatureServer(OnlineFeatures(time.monotonic, time.time))
    asyncio.run(serve_until_stopped(server.run(Path(settings.path))))


if __name__ == "__main__":
    main()

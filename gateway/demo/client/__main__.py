"""``python -m gateway.demo.client``: sends held-out digits to the gateway and measures what users see.

Rules:

1. Requests come at a paced, seeded rate with exponential gaps, whatever the answers do (an open loop), over a fixed
   number of kept connections. Only when all of them are busy does a request wait, and arrears of more than a moment
   are dropped: a machine that stalled is not punished with a burst that no user would have sent.
2. A user has seen a failure when the connection broke, no answer came in time, or the answer is not one: anything but
   a 200 with one label in it. Of an event stream (a share of ``streams``) that is the last event's; an error event is a
   failure. A user with little patience leaves when nothing has come for ``patience_s``, by closing the connection.
3. Answers are distinguished by the gateway's headers: stable, canary, or *rescued* (stable answered what
   the canary had failed). An answer without them counts as `none`.
4. One JSON line (`ClientReport`) on standard output four times a second, and a last one on SIGTERM. Times are
   CLOCK_MONOTONIC, which the processes of one machine share.

It shares a small machine with all that it measures, so it is written to cost little: httptools on bare transports, and
bodies that are encoded once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys

import msgspec
import uvloop

from gateway.demo.client.report import ClientSettings
from gateway.demo.client.traffic import TrafficClient


async def _main(settings: ClientSettings) -> None:
    client = TrafficClient(settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, client.stopping.set)
    # A collection in the middle of a measurement would be counted as the gateway's latency.
    gc.collect()
    gc.freeze()
    await client.run()


def main() -> None:
    """Settings arrive as JSON on standard input."""
    settings = msgspec.json.decode(sys.stdin.buffer.read(), type=ClientSettings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, contextlib.suppress(BrokenPipeError):
        runner.run(_main(settings))


if __name__ == "__main__":
    main()

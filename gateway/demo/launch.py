"""From the command line to a run and back: directory, output, signals, exit status.

Rules:

1. 0: the rollout came to an end. 1: the demo itself could not run; what failed is on standard error (with `--json` on
   standard output too). 128 + n: stopped by signal n. Errors of the command line itself are command.py's.
2. SIGINT, SIGTERM and SIGHUP end the demo in order; a second one stops it at once, a third one kills. No process stays
   behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from gateway.demo.output import DemoOutput, JsonLines, PlainLines, write_line
from gateway.demo.processes import DemoError
from gateway.demo.run import Demo, DemoSettings

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def launch(settings: DemoSettings, keep: Path | None, *, as_json: bool) -> int:
    """Run the demo in the directory ``keep``, or in one that is removed afterwards; returns the exit status."""
    try:
        return asyncio.run(_until_signalled(settings, keep, as_json=as_json))
    except DemoError as error:
        if as_json:
            write_line(msgspec.json.encode({"event": "error", "message": str(error)}).decode())
        sys.stderr.write(f"gateway demo: {error}\n")
        return 1


async def _until_signalled(settings: DemoSettings, keep: Path | None, *, as_json: bool) -> int:
    """Run to the end, or until a signal; returns the exit status."""
    running = asyncio.current_task()
    received: list[int] = []
    demo: Demo | None = None

    def on_signal(number: int) -> None:
        received.append(number)
        if len(received) == 1:
            assert running is not None
            running.cancel()
        elif demo is not None:
            demo.stop_now() if len(received) == 2 else demo.kill()

    for number in _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    try:
        with _directory(keep) as directory, _demo_output(as_json=as_json) as output:
            demo = Demo(settings, directory, output)
            summary = await demo.run()
        output.end(summary)
    except asyncio.CancelledError:
        if not received:
            raise
        sys.stderr.write(f"gateway demo: stopped by {signal.Signals(received[0]).name}\n")
        return 128 + received[0]
    return 0


@contextlib.contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        try:
            keep.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DemoError(f"cannot write to {keep}: {error.strerror}") from error
        yield keep.absolute()
        return
    directory = Path(tempfile.mkdtemp(prefix="gateway-demo-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _demo_output(*, as_json: bool) -> DemoOutput:
    if as_json:
        return JsonLines()
    if not sys.stdout.isatty():
        return PlainLines()
    from gateway.demo.live import LiveView  # noqa: PLC0415  # rich takes a moment to import, which logs and pipes do not need

    return LiveView()

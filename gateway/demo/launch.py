"""From the command line to a run and back: the directory, the narrator, the signals, the exit status.

Rules:

1. 0: the rollout came to an end. 1: the demo itself could not run; what failed is on standard error (with `--json` on
   standard output too). 128 + n: stopped by signal n. What comes before and after is the command line's own affair.
2. SIGINT, SIGTERM and SIGHUP end the demo in order; a second one makes haste, a third one kills. Nothing stays behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gateway.demo.processes import DemoError
from gateway.demo.run import Demo, Settings
from gateway.demo.scenarios import Scenario
from gateway.demo.show import JsonLines, Narrator, PlainLines, write_line

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Wish:
    """What the command line said."""

    scenario: Scenario
    seed: int
    as_json: bool
    rate_per_s: float
    workers: int
    port: int
    admin_port: int
    keep: Path | None
    keep_running_s: float


def launch(wish: Wish) -> int:
    """Run the demo; returns the exit status."""
    try:
        return asyncio.run(_until_signalled(wish))
    except DemoError as error:
        if wish.as_json:
            write_line(msgspec.json.encode({"event": "error", "message": str(error)}).decode())
        sys.stderr.write(f"gateway demo: {error}\n")
        return 1


async def _until_signalled(wish: Wish) -> int:
    """Run to the end, or until a signal; returns the exit status."""
    running = asyncio.current_task()
    heard: list[int] = []
    demo: Demo | None = None

    def hear(number: int) -> None:
        heard.append(number)
        if len(heard) == 1:
            assert running is not None
            running.cancel()
        elif demo is not None:
            demo.hurry() if len(heard) == 2 else demo.kill()

    for number in _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, hear, number)
    try:
        with _directory(wish.keep) as directory, _narrator(as_json=wish.as_json) as narrator:
            demo = Demo(_settings(wish, directory), narrator)
            summary = await demo.run()
        narrator.end(summary)
    except asyncio.CancelledError:
        if not heard:
            raise
        sys.stderr.write(f"gateway demo: stopped by {signal.Signals(heard[0]).name}\n")
        return 128 + heard[0]
    return 0


def _settings(wish: Wish, directory: Path) -> Settings:
    return Settings(
        scenario=wish.scenario,
        seed=wish.seed,
        directory=directory,
        port=wish.port,
        admin_port=wish.admin_port,
        workers=wish.workers,
        rate_per_s=wish.rate_per_s,
        keep_running_s=wish.keep_running_s,
    )


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


def _narrator(*, as_json: bool) -> Narrator:
    if as_json:
        return JsonLines()
    if not sys.stdout.isatty():
        return PlainLines()
    from gateway.demo.live import LiveView  # noqa: PLC0415  # rich takes a moment that logs and pipes should not pay

    return LiveView()

"""Logging to a pipe that nobody reads: lines are lost, time is not; and what a line looks like."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import threading
from typing import Any

import pytest

from gateway.runtime import logs
from gateway.runtime.logs import LogLines


@pytest.fixture(name="log")
def _log() -> logging.Logger:
    """A logger of its own, without handlers."""
    log = logging.getLogger("tests.runtime.logs")
    log.propagate = False
    log.handlers.clear()
    return log


def test_a_reader_who_sleeps_costs_lines_and_nothing_else(log: logging.Logger) -> None:
    read_end, write_end = os.pipe()
    lines = LogLines(logging.Formatter("%(message)s"), write_end, bytes_max=10_000)
    log.addHandler(lines)
    with os.fdopen(read_end, "rb") as reader:
        for number in range(5000):
            log.warning("%d %s", number, "x" * 100)  # would block for ever if it were written here
        assert lines.dropped > 0
        found: list[bytes] = []
        pump = threading.Thread(target=lambda: found.extend(iter(reader.readline, b"")), daemon=True)
        pump.start()
        lines.flush_for(10.0)
        log.warning("awake")
        lines.flush_for(10.0)
        os.close(write_end)
        pump.join(10.0)
    lost = [line for line in found if b"lines were dropped" in line]
    assert found[-1] == b"awake\n"
    assert sum(int(line.split(b": ")[-1]) for line in lost) == lines.dropped
    assert len(found) == 5001 - lines.dropped + len(lost)


def test_a_pipe_that_somebody_made_non_blocking_loses_nothing(log: logging.Logger) -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    lines = LogLines(logging.Formatter("%(message)s"), write_end)
    log.addHandler(lines)
    for number in range(2000):
        log.warning("%d %s", number, "x" * 100)
    found: list[bytes] = []
    with os.fdopen(read_end, "rb") as reader:
        pump = threading.Thread(target=lambda: found.extend(iter(reader.readline, b"")), daemon=True)
        pump.start()
        lines.flush_for(10.0)
        os.close(write_end)
        pump.join(10.0)
    assert lines.dropped == 0
    assert [int(line.split()[0]) for line in found] == list(range(2000))


def test_a_pipe_whose_reader_is_gone_counts_what_is_lost(log: logging.Logger) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    lines = LogLines(logging.Formatter("%(message)s"), write_end)
    log.addHandler(lines)
    log.warning("nobody")
    lines.flush_for(10.0)
    os.close(write_end)
    assert lines.dropped == 1


def logged(program: str, **environ: str) -> str:
    """What a process writes to standard error that logs with this program."""
    done = subprocess.run(
        [sys.executable, "-c", "import logging\nfrom gateway.runtime import logs\n" + program],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stderr


FAULT = """
logs.log_to_stderr("control")
try:
    raise ValueError("a fault")
except ValueError:
    logging.getLogger("gateway").exception("it failed:\\n%s", "\u2028so \\ud800")
"""


def test_the_last_words_of_a_process_are_written() -> None:
    said = logged(FAULT)
    assert "control ERROR it failed:\n" in said
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z control ", said)
    assert said.count("ValueError: a fault") == 1


def test_as_json_each_line_is_one_object() -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    said = logged(
        FAULT + f'logs.trace_id.set("{trace}")\nlogging.getLogger("gateway.admin").warning("asked")',
        **{logs.FORMAT_VARIABLE: "json"},
    )
    first, second = (json.loads(line) for line in said.splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("ts"))
    assert first.pop("exception").endswith("ValueError: a fault")
    message = "it failed:\n\u2028so \ud800"
    assert first == {"level": "ERROR", "process": "control", "logger": "gateway", "message": message}
    del second["ts"]
    expected: dict[str, Any] = {"level": "WARNING", "process": "control", "logger": "gateway.admin", "message": "asked"}
    assert second == {**expected, "trace_id": trace}

"""Logging to a pipe that nobody reads: lines are lost, time is not."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading

from gateway.runtime.logs import Lines


def test_a_reader_who_sleeps_costs_lines_and_nothing_else() -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as reader, os.fdopen(write_end, "w") as stream:
        lines = Lines("control", stream, lines_max=100)
        log = logging.getLogger("tests.runtime.logs")
        log.propagate = False
        log.addHandler(lines)
        for number in range(5000):
            log.warning("%d %s", number, "x" * 100)  # would block for ever if it were written here
        assert lines.dropped > 0
        found: list[bytes] = []
        pump = threading.Thread(target=lambda: found.extend(iter(reader.readline, b"")), daemon=True)
        pump.start()
        lines.flush_for(10.0)
        log.warning("awake")
        lines.flush_for(10.0)
        stream.flush()
        stream.close()
        pump.join(10.0)
    assert found[-1].endswith(b"awake\n")
    assert b"lines were dropped" in b"".join(found)
    assert len(found) == 5001 - lines.dropped


def test_the_last_words_of_a_process_are_written() -> None:
    program = """
import logging
from gateway.runtime.logs import log_to_stderr
log_to_stderr("control")
try:
    raise ValueError("a fault")
except ValueError:
    logging.getLogger("gateway").exception("it failed: %s", "so")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert "control ERROR it failed: so" in done.stderr
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z control ", done.stderr)
    assert done.stderr.count("ValueError: a fault") == 1

"""The two clients, each a program of its own on the client's core.

``flood`` is closed-loop: wrk keeps a fixed number of requests under way and asks as fast as it is answered. It says
what a request costs the proxy and how many fit on a core. Its latencies only restate the throughput (Little's law), so
they are not reported.

``pace`` is open-loop: requests leave at fixed moments whatever has become of the earlier ones, and the time of each
counts from its moment (pace.py). It says how long a request takes at a load that is the same for every proxy.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from loadtests.compare.processes import pinned
from loadtests.compare.workloads import Workload

_HERE = Path(__file__).parent
_GRACE_S = 15.0


class Flooded(msgspec.Struct, frozen=True):
    """What wrk saw."""

    answered: int
    duration_us: int
    errors: int
    p50_us: int
    p99_us: int


class Paced(msgspec.Struct, frozen=True):
    """What the open-loop client saw; without a percentile when nothing was answered."""

    asked: int
    answered: int
    errors: int
    p50_us: float | None
    p99_us: float | None


class ClientError(Exception):
    """A client failed to run or said something that it never should."""


def flood(workload: Workload, port: int, request: Path, seconds: int, core: int) -> Flooded:
    """Ask as fast as answers come, for whole seconds. Raises ClientError."""
    command = ["wrk", "--threads", "1", "--connections", str(workload.connections), "--duration", f"{seconds}s"]
    command += ["--timeout", "5s", "--script", str(_HERE / "load.lua"), f"http://127.0.0.1:{port}", "--", str(request)]
    return read_flood(_run(command, seconds, core))


def read_flood(output: str) -> Flooded:
    """What load.lua wrote at the end of wrk's output. Raises ClientError."""
    try:
        return msgspec.json.decode(output.rstrip().rpartition("\n")[2], type=Flooded)
    except msgspec.DecodeError as error:
        raise ClientError(f"wrk's output does not end in the line that load.lua writes ({error}): {output!r}") from None


def pace(workload: Workload, port: int, request: Path, rate: float, seconds: float, core: int) -> Paced:
    """Ask at a fixed rate (requests/s). Raises ClientError."""
    command = [sys.executable, "-P", str(_HERE / "pace.py"), str(port), str(request), str(rate), str(seconds)]
    command += ["--close"] * workload.close + ["--events"] * workload.events
    output = _run(command, seconds, core)
    try:
        return msgspec.convert(json.loads(output), Paced)
    except (ValueError, msgspec.ValidationError) as error:
        raise ClientError(f"pace.py said {output!r}: {error}") from None


def _run(command: Sequence[str], seconds: float, core: int) -> str:
    try:
        done = subprocess.run(
            pinned(command, core), capture_output=True, text=True, timeout=seconds + _GRACE_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise ClientError(f"{command[0]} did not end within {_GRACE_S:g} s of its time") from None
    if done.returncode:
        raise ClientError(f"{command[0]} ended with status {done.returncode}: {done.stderr.strip() or done.stdout}")
    return done.stdout

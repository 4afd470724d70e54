"""What a run leaves: lines of JSON, appended, so that every figure ever published can be found again.

A run is one line of kind ``run`` (what was compared, on what, with which versions) and then one line of kind
``measured`` for each round, workload and proxy. Lines of a run share its ``run``, the time of its start.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import msgspec

_ROOT = Path(__file__).parents[2]
_LIBRARIES = ("uvloop", "httptools", "uvicorn", "starlette", "httpx", "msgspec")
_NUMBER = re.compile(r"\d+\.\d+(\.\d+)?")


class Run(msgspec.Struct, frozen=True, tag="run", tag_field="kind"):
    """The circumstances of a run."""

    run: str
    rounds: int
    seconds: int
    proxies: tuple[str, ...]
    rates: dict[str, float]
    """Requests/s of the open-loop client, by workload."""
    commit: str
    kernel: str
    processor: str
    cpus: int
    shared_core: bool
    """Whether proxy, client and backend had to share one core."""
    versions: dict[str, str]


class Measured(msgspec.Struct, frozen=True, tag="measured", tag_field="kind", omit_defaults=True):
    """One proxy under one workload in one round."""

    run: str
    round: int
    workload: str
    proxy: str
    answered: int
    """Requests that the closed-loop client had answered."""
    per_s: float
    errors: int
    """Of both clients: refused, broken, unanswered, not 200."""
    cpu_us: float | None = None
    """CPU of the processes that carry requests, per request."""
    busy: float | None = None
    """Their share of the core meanwhile."""
    others: float | None = None
    """The share of the proxy's core that went to what is no part of the comparison: how quiet the machine was."""
    busiest: float | None = None
    """Of several processes that carry requests: the share of their CPU that the busiest took."""
    rss_idle_kib: int | None = None
    rss_peak_kib: int | None = None
    aside_cpu_ms_per_s: float | None = None
    """CPU of the gateway's supervisor and control under the closed-loop load."""
    aside_rss_kib: int | None = None
    p50_us: float | None = None
    """Of the open-loop client; None when the rate is beyond the proxy's capacity."""
    p99_us: float | None = None


def append(path: Path, entry: Run | Measured) -> None:
    """Add a line."""
    with path.open("ab") as out:
        out.write(msgspec.json.encode(entry) + b"\n")


def newest(path: Path) -> tuple[Run, list[Measured]]:
    """The last run of a file and its measurements. Raises ValueError when there is none or a line is not ours."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    try:
        entries = [msgspec.json.decode(line, type=Run | Measured) for line in lines]
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}: not a file of results: {error}") from error
    runs = [entry for entry in entries if isinstance(entry, Run)]
    if not runs:
        raise ValueError(f"{path} holds no run yet: make one with python loadtests/compare/run.py")
    return runs[-1], [entry for entry in entries if isinstance(entry, Measured) and entry.run == runs[-1].run]


def circumstances(
    proxies: Sequence[str],
    rounds: int,
    seconds: int,
    rates: Mapping[str, float],
    asked: Mapping[str, list[str]],
) -> Run:
    """The line that describes a run which begins now."""
    versions = {name: _said(command) for name, command in asked.items()}
    versions |= {name: metadata.version(name) for name in _LIBRARIES}
    return Run(
        run=datetime.now(UTC).isoformat(timespec="seconds"),
        rounds=rounds,
        seconds=seconds,
        proxies=tuple(proxies),
        rates=dict(rates),
        commit=_commit(),
        kernel=platform.release(),
        processor=_processor(Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()),
        cpus=os.cpu_count() or 1,
        shared_core=len(os.sched_getaffinity(0)) < 2,
        versions=versions | {"python": platform.python_version()},
    )


def _said(command: list[str]) -> str:
    """The version number that a program says, wherever it says it and whatever its exit status."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    found = _NUMBER.search(re.sub(r"[0-9a-f]{40}", "", done.stdout + done.stderr))
    return found[0] if found else "unknown"


def _commit() -> str:
    """The commit that is checked out, with a plus when the gateway's files differ from it; empty outside of git."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    return commit + "+" if commit and _git("status", "--porcelain", "--", "gateway") else commit


def _git(*words: str) -> str:
    git = shutil.which("git")
    if git is None:
        return ""
    done = subprocess.run([git, *words], cwd=_ROOT, capture_output=True, text=True, timeout=10, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor(lines: Iterable[str]) -> str:
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()

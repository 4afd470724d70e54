"""The processes of a comparison: each held to one core, measured by the kernel's own clocks, and ended for certain.

Rules:

1. A process starts under ``taskset`` (its children inherit the core) and ``setpriv --pdeathsig``: should the harness
   itself be killed, the kernel ends what it started.
2. CPU time is the process CPU clock (clock_getcpuclockid(3)): user and system time of all threads, also of those that
   ended, in nanoseconds. ``/proc/PID/stat`` has the same time in hundredths of a second, too coarse for short rounds.
3. Peak memory is ``VmHWM``, resident ``VmRSS``, both of ``/proc/PID/status``. Pages that processes share count in each.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_STOP_TIMEOUT_S = 5.0
_CPU_CLOCK = 2  # CPUCLOCK_SCHED: the sum over all threads as the scheduler counts it


@dataclass(frozen=True)
class Usage:
    """What some processes have used until now, added up."""

    cpu_ns: int
    rss_kib: int
    rss_peak_kib: int


def cores() -> tuple[int, int]:
    """The core for the proxy and the core for client and backend; one and the same where there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[-1], usable[0]


@contextmanager
def running(command: Sequence[str], core: int | None, log: Path) -> Iterator[int]:
    """Run a command on a core (None: on all) until the block is left; yields its process id. It writes to ``log``.

    It runs in the root of the repository, so that ``python -m gateway`` is the one that stands beside this file.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            pinned(command, core), cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield process.pid
    finally:
        _stop(process)


def pinned(command: Sequence[str], core: int | None) -> list[str]:
    """The command, held to one core, and ended when its parent ends."""
    held = [] if core is None else ["taskset", "--cpu-list", str(core)]
    return ["setpriv", "--pdeathsig", "TERM", *held, *command]


def tree(pid: int) -> list[int]:
    """A process and all its descendants, parents first."""
    parents = _parents()
    found = [pid]
    for parent in found:  # grows while it is read
        found += sorted(child for child, its_parent in parents.items() if its_parent == parent)
    return found


def command_line(pid: int) -> str:
    """A process's command line, its words joined by blanks; empty when it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def usage(pids: Sequence[int]) -> Usage:
    """What these processes have used so far. Raises ProcessLookupError when one of them has died."""
    sizes = [_status(pid) for pid in pids]
    return Usage(
        cpu_ns=sum(cpu_ns(pid) for pid in pids),
        rss_kib=sum(size["VmRSS"] for size in sizes),
        rss_peak_kib=sum(size["VmHWM"] for size in sizes),
    )


def cpu_ns(pid: int) -> int:
    """User and system time of one process until now, in nanoseconds. Raises OSError when there is none."""
    return time.clock_gettime_ns(~pid << 3 | _CPU_CLOCK)


def core_busy_s(core: int) -> float:
    """For how long a core has not been idle since the machine started, in steps of 10 ms, by whatever process."""
    for line in Path("/proc/stat").read_text(encoding="utf-8").splitlines():
        name, *ticks = line.split()
        if name == f"cpu{core}":
            # user, nice, system, idle, iowait, irq, softirq, steal; guests are counted in user already.
            return sum(int(tick) for index, tick in enumerate(ticks[:8]) if index not in {3, 4}) / os.sysconf(
                "SC_CLK_TCK"
            )
    raise ValueError(f"there is no core {core}")


def _status(pid: int) -> Mapping[str, int]:
    status = Path(f"/proc/{pid}/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    sizes = {line.partition(":")[0]: int(line.split()[1]) for line in lines if line.endswith(" kB")}
    if "VmHWM" not in sizes:  # gone, or dead and not yet waited for
        raise ProcessLookupError(errno.ESRCH, f"process {pid} has died", command_line(pid))
    return sizes


def _parents() -> dict[int, int]:
    """The parent of each process that there is."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # After the name, which may hold anything: state, parent, ...
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
                )
    return parents


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and its descendants: asked first, then forced."""
    below = tree(process.pid)[1:]
    born = {pid: _born(pid) for pid in below}
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_TIMEOUT_S)
    process.kill()
    process.wait()
    for pid in below:
        # Unless the number belongs to somebody else by now.
        while born[pid] and _born(pid) == born[pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.001)


def _born(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty when it is gone or dead."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return "" if words[0] in {"Z", "X"} else words[19]
    return ""

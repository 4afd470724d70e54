"""What each phase of a request costs in a worker: instructions by function, counted by callgrind.

    python loadtests/compare/phases.py [--requests 500] [--workload connect]

Counts, unlike times, are nearly the same on a busy machine, so two versions of the code compare to a percent. (What
runs by the clock has a line of its own: the longer requests take, the more of it falls on each.) They are of user space
alone: the kernel's part (four system calls, half of the time) is not in them. The worker is the compiled one
(shipped.py), serves small POSTs one after another, and has a canary with a tenth of them; under `connect` each comes
over a connection of its own. Needs valgrind.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

if __name__ == "__main__":  # as a program it sees its own folder; its parts are named from the root
    sys.path[0] = str(Path(__file__).parents[2])

from gateway.core.traffic.table import Backend, Endpoint, Route, RoutingTable
from gateway.runtime.settings import WorkerSettings
from loadtests.compare import peers, processes
from loadtests.compare.shipped import unpacked
from loadtests.compare.workloads import WORKLOADS, Workload

_WARMUP = 30
_ANNOTATE = ("callgrind_annotate", "--inclusive=yes", "--tree=none", "--threshold=100")
_LINE = re.compile(r"\s*([\d,]+) .*?:(\w+)(?:'\d+)?(?: \[.*)?$")
PHASES = (
    ("request head read (fast)", "CPyDef_fast_heads___FastHeadReader___request", ()),
    ("admit: fields checked, lines made", "CPyDef_exchange___Exchange___admit", ()),
    (
        "start, choose: route, variant",
        "CPyDef_exchange___Exchange___start",
        ("CPyDef_delivery___Delivery___attempt_next",),
    ),
    (
        "attempt: endpoint, connection",
        "CPyDef_delivery___Delivery___attempt_next",
        ("CPyDef_delivery___Delivery___attempt_connected",),
    ),
    ("send: head and body written", "CPyDef_delivery___Delivery___attempt_connected", ()),
    ("answer's head read (fast)", "CPyDef_fast_heads___FastHeadReader___response", ()),
    ("answer's fields checked", "CPyDef_response_head___read_response", ()),
    ("relay: answer's head made", "CPyDef_delivery___Delivery___answer_head", ()),
    ("relay: answer written", "CPyDef_delivery___Delivery____flush", ()),
    ("connection given back", "CPyDef_delivery___Delivery___release", ()),
    ("settle: counted, next turn", "CPyDef_delivery___Delivery____completed", ()),
)
"""A name, the function whose inclusive count it is, and those whose counts are other phases'."""
CONNECTION = (
    ("connection accepted, transport begun", "CPyDef_acceptor___Acceptor____readable", ()),
    ("transport made known to its protocol", "__pyx_f_6uvloop_4loop_12TCPTransport__call_connection_made", ()),
    ("connection closed", "__pyx_f_6uvloop_4loop_15UVBaseTransport__call_connection_lost", ()),
)
"""The same of what only a new connection costs."""
BY_THE_CLOCK = ("timers: sweeps, reports", "uv__run_timers", ())


def counted(requests: int, workload: Workload) -> dict[str, float]:
    """Instructions per request, inclusive, by function; the sum under ``PROGRAM``. Raises OSError."""
    _, client_core = processes.cores()
    with tempfile.TemporaryDirectory(prefix="phases-") as name, socket.create_server(("127.0.0.1", 0)) as listener:
        directory, port = Path(name), listener.getsockname()[1]
        site = unpacked(directory)
        with peers.backend("nginx", directory, client_core) as upstream:
            command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={directory}/out"]
            with subprocess.Popen(
                [*command, sys.executable, "-m", "gateway.proxy.worker"],
                cwd=site,
                stdin=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
            ) as worker:
                assert worker.stdin is not None
                worker.stdin.write(msgspec.json.encode(_settings(listener.fileno(), upstream, directory)))
                worker.stdin.close()
                try:
                    _load(port, worker.pid, requests, workload)
                finally:
                    worker.terminate()
        said = subprocess.run(
            [*_ANNOTATE, f"{directory}/out.1"],
            capture_output=True,
            text=True,
            check=True,
        )
    found: dict[str, float] = {}
    for line in said.stdout.splitlines():
        total = re.match(r"\s*([\d,]+) .*PROGRAM TOTALS", line)
        count, function = (total[1], "PROGRAM") if total else ("0", "")
        if not total and (match := _LINE.match(line)):
            count, function = match[1], match[2]
        found[function] = max(found.get(function, 0), int(count.replace(",", "")) / requests)
    return found


def _settings(listen_fd: int, upstream: int, directory: Path) -> WorkerSettings:
    backends = {name: Backend(name, (Endpoint("127.0.0.1", upstream),)) for name in ("a", "b")}
    route = Route(name="models", path_prefix="/", stable="a", canary="b", weight_bp=1000)
    table = RoutingTable(1, (route,), backends)
    return WorkerSettings(index=0, listen_fd=listen_fd, control_path=str(directory / "none.sock"), table=table)


def _load(port: int, pid: int, requests: int, workload: Workload) -> None:
    request = workload.request()
    with contextlib.ExitStack() as kept:
        client = kept.enter_context(socket.create_connection(("127.0.0.1", port), 120))
        for number in range(_WARMUP + requests):
            if number == _WARMUP:
                _control("-i", "on", pid)
            client.sendall(request)
            answer = client.recv(65536)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise OSError(f"the worker answered {answer[:100]!r}")
            if workload.close:
                while client.recv(65536):
                    pass
                kept.close()
                client = kept.enter_context(socket.create_connection(("127.0.0.1", port), 120))
    _control("-i", "off", pid)
    _control("-d", "", pid)


def _control(option: str, value: str, pid: int) -> None:
    words = [word for word in ("callgrind_control", option, value, str(pid)) if word]
    subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def table(found: dict[str, float], *, connection: bool = False) -> str:
    """The phases as Markdown, in thousands of instructions."""
    total = found["PROGRAM"] / 1000
    lines = ["| phase | 1,000 instructions | share |", "| --- | ---: | ---: |"]
    rest = total
    for title, function, others in (*PHASES, *(CONNECTION if connection else ()), BY_THE_CLOCK):
        cost = (found.get(function, 0) - sum(found.get(other, 0) for other in others)) / 1000
        rest -= cost
        lines.append(f"| {title} | {cost:.1f} | {cost / total:.0%} |")
    lines.append(f"| the rest: event loop, sockets, turns of the connection | {rest:.1f} | {rest / total:.0%} |")
    lines.append(f"| **all of user space** | **{total:.1f}** | |")
    return "\n".join(lines)


def main() -> int:
    """Run what the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(description="Instructions of a worker per small POST, by phase.")
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--workload", choices=("small", "connect"), default="small")
    asked = parser.parse_args()
    try:
        workload = WORKLOADS[asked.workload]
        print(table(counted(asked.requests, workload), connection=workload.close))
    except (OSError, peers.Missing, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

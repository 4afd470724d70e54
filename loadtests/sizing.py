"""What to give a gateway: requests a core, memory of each process, and of each connection. The table of docs/deploy.md.

    python loadtests/sizing.py [--seconds 5] [--connections 1000]

Worker and client have a core each (compare/processes.py); what a request costs is the worker's CPU time by the kernel's
clock, so that other work on the machine shows little. ``compiled`` is the wheel, built first (COMPARE_GATEWAY may name
a folder where one is unpacked); ``interpreted`` is the checkout. Memory is PSS: pages that processes share are counted
once among them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

import uvloop

if __name__ == "__main__":  # as a program it sees its own folder; its parts are named from the root
    sys.path[0] = str(Path(__file__).parents[1])

from loadtests.compare import peers, processes
from loadtests.compare.shipped import unpacked
from loadtests.compare.workloads import WORKLOADS

TITLES = {"small": "JSON POST, 400 B in, 1 KiB out", "upload": "64 KiB in, 1 KiB out", "sse": "stream of 100 events"}
BUILDS = {"compiled": "gateway", "interpreted": "source"}
_WARMUP_S = 1


class Memory(NamedTuple):
    """PSS in MiB of the processes by kind, and what a connection adds to its worker, in KiB."""

    by_kind: dict[str, float]
    connection_kib: float


class Client(asyncio.Protocol):
    """One connection that asks again as soon as it has been answered."""

    answered = 0

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first time."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own, which shares no class with asyncio's
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count a whole answer, and ask for the next."""
        self._received += data
        head, mark, body = self._received.partition(b"\r\n\r\n")
        if not mark:
            return
        if not head.startswith(b"HTTP/1.1 200 "):
            raise OSError(f"answered with {head[:100]!r}")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
        if len(body) == int(length) if length else body.endswith(b"0\r\n\r\n"):
            Client.answered += 1
            self._received = b""
            self._transport.write(self._request)


async def ask(name: str, port: int, seconds: float) -> int:
    """Ask for so long over as many connections as the workload has; returns how many answers there were."""
    workload, loop = WORKLOADS[name], asyncio.get_running_loop()
    for _ in range(workload.connections):
        await loop.create_connection(lambda: Client(workload.request()), "127.0.0.1", port)
    await asyncio.sleep(seconds)
    return Client.answered


def cost_us(name: str, running: peers.Running, core: int, seconds: float) -> float:
    """CPU of the worker for one request, in microseconds. Raises OSError."""
    _client(name, running.port, core, _WARMUP_S)
    before = processes.usage(running.carrying).cpu_ns
    answered = _client(name, running.port, core, seconds)
    return (processes.usage(running.carrying).cpu_ns - before) / answered / 1e3


def _client(name: str, port: int, core: int, seconds: float) -> int:
    command = [sys.executable, __file__, "--client", name, "--port", str(port), "--seconds", str(seconds)]
    limit_s = seconds + 60
    done = subprocess.run(processes.pinned(command, core), capture_output=True, text=True, timeout=limit_s, check=False)
    if done.returncode or not int(done.stdout):
        raise OSError(f"the client of {name} was not answered: {done.stderr[-1000:]}")
    return int(done.stdout)


def memory(running: peers.Running, connections: int) -> Memory:
    """What the processes hold, idle, and what so many idle connections add."""
    kinds = {"worker": "gateway.proxy.worker", "control": "gateway.app.control", "inspector": "gateway.inspector"}
    by_kind = {}
    for pid in (*running.carrying, *running.aside):
        line = processes.command_line(pid)
        by_kind[next((kind for kind, module in kinds.items() if module in line), "supervisor")] = _pss_kib(pid) / 1024
    (worker,) = running.carrying
    before = _pss_kib(worker)
    with _kept(running.port, connections):
        held = _pss_kib(worker)
    return Memory(by_kind, (held - before) / connections)


@contextlib.contextmanager
def _kept(port: int, connections: int) -> Iterator[None]:
    """So many connections, each of which has had one answer."""
    with contextlib.ExitStack() as stack:
        for _ in range(connections):
            made = stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))
            made.sendall(WORKLOADS["small"].request())
            if not made.recv(65536).startswith(b"HTTP/1.1 200 "):
                raise OSError("a connection was refused")
        yield


def _pss_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


@contextlib.contextmanager
def _started(build: str, directory: Path, upstream: int, core: int, shipped: Path) -> Iterator[peers.Running]:
    place = directory / build
    place.mkdir()
    with peers.running(peers.PROXIES[BUILDS[build]], place, upstream, core, shipped) as running:
        time.sleep(3)  # control has imported by then what it needs only later
        yield running


def measured(seconds: float, connections: int) -> str:
    """Both tables. Raises OSError and Missing."""
    proxy_core, client_core = processes.cores()
    costs: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="sizing-") as name:
        directory = Path(name)
        shipped = unpacked(directory)
        with peers.backend("responder", directory, client_core) as upstream:
            for build in BUILDS:
                with _started(build, directory, upstream, proxy_core, shipped) as running:
                    held = memory(running, connections)
                    costs[build] = {load: cost_us(load, running, client_core, seconds) for load in TITLES}
                if build == "compiled":
                    sizes = held
    lines = ["| a worker | " + " | ".join(f"{build}, a second on a core" for build in BUILDS) + " |", "|---|---|---|"]
    for load, title in TITLES.items():
        cells = [f"{1e6 / costs[build][load]:,.0f} ({costs[build][load]:,.0f} µs each)" for build in BUILDS]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    lines += ["", "| memory | |", "|---|---|"]
    lines += [f"| {kind} | {mib:.0f} MiB |" for kind, mib in sizes.by_kind.items()]
    lines.append(f"| each idle client connection | {sizes.connection_kib:.1f} KiB |")
    return "\n".join(lines)


def main() -> int:
    """Run what the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(description="Requests a core and memory of a gateway.")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--connections", type=int, default=1_000)
    parser.add_argument("--client", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    try:
        if asked.client:
            print(uvloop.run(ask(asked.client, asked.port, asked.seconds)))
        else:
            print(measured(asked.seconds, asked.connections))
    except (OSError, peers.Missing) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

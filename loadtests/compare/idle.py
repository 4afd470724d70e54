"""What idle clients cost: the worker's memory before, with, and after many kept connections that ask for nothing.

    python loadtests/compare/idle.py [--connections 10000] [--out idle.jsonl]

Each connection has one request answered first, so that all that a connection ever allocates is there. The gateway is
the one that is shipped (shipped.py). Needs that many descriptors in each of two processes (ulimit -n).
"""

from __future__ import annotations

import argparse
import json
import resource
import socket
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

if __name__ == "__main__":  # as a program it sees its own folder; its parts are named from the root
    sys.path[0] = str(Path(__file__).parents[2])

from loadtests.compare import peers, processes
from loadtests.compare.shipped import unpacked
from loadtests.compare.workloads import WORKLOADS

_SPARE = 500
_SOCKETS_PER_ADDRESS = 20_000


def measure(connections: int) -> dict[str, float | str]:
    """RSS of the worker in MiB: idle, with the connections, and after they have gone. Raises OSError."""
    _raise_limit(connections + _SPARE)
    proxy_core, client_core = processes.cores()
    with tempfile.TemporaryDirectory(prefix="idle-") as name:
        directory = Path(name)
        with (
            peers.backend("nginx", directory, client_core) as upstream,
            peers.running(peers.PROXIES["gateway"], directory, upstream, proxy_core, unpacked(directory)) as running,
        ):
            before = processes.usage(running.carrying)
            request = WORKLOADS["small"].request()
            clients = [_asked(running.port, number, request) for number in range(connections)]
            held = processes.usage(running.carrying)
            for each in clients:
                each.close()
            return {
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
                "connections": connections,
                "idle_mib": round(before.rss_kib / 1024, 1),
                "held_mib": round(held.rss_kib / 1024, 1),
                "kib_each": round((held.rss_kib - before.rss_kib) / connections, 2),
            }


def _asked(port: int, number: int, request: bytes) -> socket.socket:
    """A connection that has had one answer. Raises OSError, also for a refusal."""
    made = socket.create_connection(("127.0.0.1", port), 20, (f"127.0.0.{2 + number // _SOCKETS_PER_ADDRESS}", 0))
    made.sendall(request)
    answer = made.recv(4096)
    if not answer.startswith(b"HTTP/1.1 200"):
        raise OSError(f"connection {number + 1} was refused: {answer[:100]!r}")
    return made


def _raise_limit(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise OSError(f"{wanted} descriptors are needed, {hard} are allowed: raise the limit (ulimit -Hn)")
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main() -> int:
    """Run what the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(description="Memory of a worker with many idle connections.")
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--out", type=Path, help="a file of JSON lines to append to")
    asked = parser.parse_args()
    try:
        found = json.dumps(measure(asked.connections))
    except (OSError, peers.Missing) as error:
        print(error, file=sys.stderr)
        return 1
    print(found)
    if asked.out:
        with asked.out.open("a", encoding="utf-8") as out:
            out.write(found + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

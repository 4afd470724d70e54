"""Where proxies are compared: two cores, the backends, requests as files, and the clients that load a proxy."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.compare import client, peers, processes
from loadtests.compare.shipped import unpacked
from loadtests.compare.workloads import WORKLOADS, Workload


@dataclass(frozen=True)
class Bench:
    """Where things run: a directory, two cores, the backends' ports by kind, and how long each load lasts."""

    directory: Path
    proxy_core: int
    client_core: int
    backends: dict[str, int]
    seconds: int
    shipped: Path
    paced: bool


@contextlib.contextmanager
def prepared(seconds: int, proxies: Sequence[str], paced: bool) -> Iterator[Bench]:
    """Backends that run, and the gateway as it is shipped when one of the proxies needs it."""
    proxy_core, client_core = processes.cores()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compare-")))
        kinds = ("nginx", "responder")
        backends = {kind: stack.enter_context(peers.backend(kind, directory, client_core)) for kind in kinds}
        for workload in WORKLOADS.values():
            (directory / workload.name).write_bytes(workload.request())
        shipped = unpacked(directory) if {"gateway", "two"} & set(proxies) else directory
        yield Bench(directory, proxy_core, client_core, backends, seconds, shipped, paced)


@contextlib.contextmanager
def started(bench: Bench, name: str, workload: Workload) -> Iterator[peers.Running]:
    """One proxy, freshly started, in front of the workload's backend."""
    with tempfile.TemporaryDirectory(dir=bench.directory) as directory:
        upstream = bench.backends[workload.backend]
        with peers.running(peers.PROXIES[name], Path(directory), upstream, bench.proxy_core, bench.shipped) as running:
            yield running


def flood(bench: Bench, workload: Workload, port: int, seconds: int) -> client.Flooded:
    """A closed-loop load for so many seconds: as fast as it answers."""
    return client.flood(workload, port, bench.directory / workload.name, seconds, bench.client_core)


def pace(bench: Bench, workload: Workload, port: int, rate: float) -> client.Paced:
    """An open-loop load at this rate."""
    return client.pace(workload, port, bench.directory / workload.name, rate, bench.seconds, bench.client_core)

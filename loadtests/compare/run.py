"""Compare this gateway with other proxies, side by side, on this machine and in one run.

    python loadtests/compare/run.py [--rounds 5] [--seconds 4] [--workloads small,sse] [--proxies nginx,gateway]
    python loadtests/compare/run.py --table

``gateway`` is what the wheel has, compiled; ``source`` the same, interpreted from the checkout; ``two`` is ``gateway``
with two workers. The proxy has one core to itself (but ``two``), client and backend share another. Rounds are
interleaved: in each, every workload is put to every proxy in turn, each freshly started, so that a slow minute of the
machine falls on all of them. What is measured, and why so, is in docs/performance.md. Results are appended to
results.jsonl; --table prints the newest run.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

if __name__ == "__main__":  # as a program it sees its own folder; its parts are named from the root
    sys.path[0] = str(Path(__file__).parents[2])

from loadtests.compare import benches, client, peers, processes, record
from loadtests.compare.benches import Bench
from loadtests.compare.table import document
from loadtests.compare.workloads import WORKLOADS, Workload

RESULTS = Path(__file__).with_name("results.jsonl")
_WARMUP_S = 1
_START_S = 2
_SHARE_OF_CAPACITY = 0.25
_CAPACITY_MARGIN = 0.8
"""A proxy that could hardly keep up with the fixed rate has a backlog, not a latency."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; returns the exit status."""
    asked = _options().parse_args(arguments)
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    try:
        if not asked.table:
            compare(asked.proxies, asked.workloads, asked.rounds, asked.seconds, asked.out, paced=not asked.cpu)
        print(document(*record.newest(asked.out)))
    except (peers.Missing, client.ClientError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def compare(
    proxies: Sequence[str], workloads: Sequence[str], rounds: int, seconds: int, out: Path, *, paced: bool = True
) -> None:
    """One run: all rounds of all workloads for all proxies, appended to ``out`` as they come.

    Raises Missing and ClientError.
    """
    peers.check_installed(list(proxies))
    loads = sum(1 + len(_taking_part(proxies, WORKLOADS[name])) for name in workloads)
    minutes = rounds * loads * (2 * seconds + _WARMUP_S + _START_S) / 60
    print(f"this takes about {max(1, minutes):.0f} min", file=sys.stderr, flush=True)
    with benches.prepared(seconds, proxies, paced) as bench:
        rates = {name: _rate(bench, proxies, WORKLOADS[name]) for name in workloads}
        run = record.circumstances(proxies, rounds, seconds, rates, peers.version_commands(list(proxies)))
        record.append(out, run)
        for number in range(1, rounds + 1):
            for name in workloads:
                for proxy in (peers.DIRECT, *_taking_part(proxies, WORKLOADS[name])):
                    measured = _measure(bench, run, number, WORKLOADS[name], proxy)
                    record.append(out, measured)
                    print(_line(measured), file=sys.stderr, flush=True)


def _taking_part(proxies: Sequence[str], workload: Workload) -> list[str]:
    """Who of them is measured under the workload."""
    mine = [name for name in proxies if workload.name in (peers.PROXIES[name].workloads or (workload.name,))]
    return [name for name in mine if name in (workload.proxies or (name,))]


def _rate(bench: Bench, proxies: Sequence[str], workload: Workload) -> float:
    """A quarter of what a core full of the gateway (else of the last proxy that takes part) can do, in requests/s."""
    judge = "gateway" if "gateway" in proxies else proxies[-1]
    with benches.started(bench, judge, workload) as running:
        benches.flood(bench, workload, running.port, _WARMUP_S)
        before = processes.usage(running.carrying)
        flooded = benches.flood(bench, workload, running.port, _WARMUP_S)
        cpu_s = (processes.usage(running.carrying).cpu_ns - before.cpu_ns) / 1e9
    if not flooded.answered:
        raise client.ClientError(f"{workload.name}: {judge} answered nothing within {_WARMUP_S} s: {flooded}")
    return max(1.0, round(_SHARE_OF_CAPACITY * flooded.answered / cpu_s, 1))


def _measure(bench: Bench, run: record.Run, number: int, workload: Workload, name: str) -> record.Measured:
    """Put one workload to one freshly started proxy, first as fast as it answers, then at the fixed rate."""
    rate = run.rates[workload.name]
    if name == peers.DIRECT:
        flooded = benches.flood(bench, workload, bench.backends[workload.backend], bench.seconds)
        direct = benches.pace(bench, workload, bench.backends[workload.backend], rate) if bench.paced else None
        return _measured(run, number, workload, name, flooded, direct)
    with benches.started(bench, name, workload) as running:
        idle = processes.usage(running.carrying)
        single = {pid: processes.cpu_ns(pid) for pid in running.carrying}
        benches.flood(bench, workload, running.port, _WARMUP_S)
        before, before_aside = _usages(running)
        began_s, busy_s = time.monotonic(), processes.core_busy_s(bench.proxy_core)
        flooded = benches.flood(bench, workload, running.port, bench.seconds)
        if not flooded.answered:  # on a machine this busy one row must not cost all that come after it
            return _measured(run, number, workload, name, flooded, None)
        took_s, busy_s = time.monotonic() - began_s, processes.core_busy_s(bench.proxy_core) - busy_s
        after, after_aside = _usages(running)
        ours_s = (after.cpu_ns - before.cpu_ns + after_aside.cpu_ns - before_aside.cpu_ns) / 1e9
        cpu_s = (after.cpu_ns - before.cpu_ns) / 1e9
        capacity = flooded.answered / cpu_s
        steady = bench.paced and capacity * _CAPACITY_MARGIN > rate
        paced = benches.pace(bench, workload, running.port, rate) if steady else None
        figures = {
            "cpu_us": round(1e6 / capacity, 2),
            "busy": round(cpu_s / took_s, 3),
            "others": round(max(0.0, busy_s - ours_s) / took_s, 3),
            "rss_idle_kib": idle.rss_kib,
            "rss_peak_kib": processes.usage(running.carrying).rss_peak_kib,
        }
        if len(single) > 1:
            shares = [processes.cpu_ns(pid) - before_ns for pid, before_ns in single.items()]
            figures["busiest"] = round(max(shares) / max(1, sum(shares)), 3)
        if running.aside:
            figures["aside_cpu_ms_per_s"] = round((after_aside.cpu_ns - before_aside.cpu_ns) / 1e6 / took_s, 2)
            figures["aside_rss_kib"] = after_aside.rss_kib
    return _measured(run, number, workload, name, flooded, paced, **figures)


def _usages(running: peers.Running) -> tuple[processes.Usage, processes.Usage]:
    return processes.usage(running.carrying), processes.usage(running.aside)


def _measured(
    run: record.Run,
    number: int,
    workload: Workload,
    name: str,
    flooded: client.Flooded,
    paced: client.Paced | None,
    **figures: float,
) -> record.Measured:
    return record.Measured(
        run=run.run,
        round=number,
        workload=workload.name,
        proxy=name,
        answered=flooded.answered,
        per_s=round(flooded.answered * 1e6 / flooded.duration_us, 1),
        errors=flooded.errors + (paced.errors if paced else 0) + (not flooded.answered),
        p50_us=paced.p50_us if paced else None,
        p99_us=paced.p99_us if paced else None,
        **figures,  # type: ignore[arg-type]  # the whole numbers among them are ints
    )


def _line(measured: record.Measured) -> str:
    cost = "" if measured.cpu_us is None else f"{measured.cpu_us:10.1f} µs CPU  {measured.busy:4.0%} busy"
    waits = "" if measured.p50_us is None else f"  p50 {measured.p50_us:.0f} p99 {measured.p99_us:.0f} µs"
    errors = f"  {measured.errors} errors" if measured.errors else ""
    where = f"{measured.round} {measured.workload:9}{measured.proxy:10}"
    return f"{where}{measured.per_s:10.0f}/s{cost}{waits}{errors}"


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="CPU, throughput, latency and memory of proxies, side by side.")
    parser.add_argument("--rounds", type=_count, default=5, help="of all workloads and proxies (default: 5)")
    parser.add_argument("--seconds", type=_count, default=4, help="of each of the two loads (default: 4)")
    parser.add_argument(
        "--workloads", type=_names(WORKLOADS), default=list(WORKLOADS), help=f"of {', '.join(WORKLOADS)}"
    )
    parser.add_argument(
        "--proxies", type=_names(peers.PROXIES), default=list(peers.PROXIES), help=f"of {', '.join(peers.PROXIES)}"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="where results are appended and read")
    parser.add_argument("--cpu", action="store_true", help="only what requests cost: no load at a fixed rate")
    parser.add_argument("--table", action="store_true", help="only print the newest run as Markdown")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _names(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Reads a list of known names with commas between them."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        if wrong := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(wrong)}: choose from {', '.join(known)}")
        return names

    return read


def _leave(number: int, _: object) -> NoReturn:
    """A signal ends the run as an exception does: everything that was started is ended on the way out."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())

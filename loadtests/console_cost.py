"""What open consoles cost the control process, in CPU time: beside a rollout under way, with 0, 1 and 50 of them.

    python -m loadtests.console_cost [--rounds 8] [--seconds 3] [--consoles 1,50]

A console is what the page does: it follows the events of the rollout, and asks for the route and both versions'
latencies every few seconds. In each round there is a slice with none, and one with each number of them, in an order
that is drawn anew; the consoles of a slice are connected before it begins. So a change of the machine's speed falls on
all of them alike. Printed is the control process's CPU time as a share of a core: with none, and what the
consoles of a round added to that of the same round, as the median of the rounds with the quartiles. Printed too is how
much of what consoles would ask for they got: a machine that is too busy to serve them makes them look cheap. The aim:
one costs at most 1 % of a core, 50 at most 10 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

# As LOOK_MS of gateway/console/static/rollout.js.
_EVERY_S = 4.0
_SETTLE_S = 1.0


def main() -> None:
    """Run the demo, open consoles, and print a line for each number of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--consoles", default="1,50")
    parser.add_argument("--every", type=float, default=_EVERY_S, help="seconds between two looks of a console")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    random.seed(asked.seed)
    command = [sys.executable, "-m", "gateway", "demo", "--scenario", "good", "--json", "--keep-running-s", "3600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo:
        try:
            asyncio.run(_measure(demo, asked))
        finally:
            demo.terminate()


async def _measure(demo: subprocess.Popen[str], asked: argparse.Namespace) -> None:
    assert demo.stdout is not None
    began: dict[str, Any] = next(event for event in map(json.loads, demo.stdout) if event["event"] == "started")
    pid = _control_of(began["pids"]["the gateway"])
    counts = [0, *(int(number) for number in asked.consoles.split(","))]
    found: dict[int, list[float]] = {count: [] for count in counts}
    served: dict[int, list[float]] = {count: [] for count in counts}
    async with httpx.AsyncClient(base_url=began["admin_url"], timeout=20) as api:
        rollout = await _under_way(api)
        for number in range(asked.rounds + 1):
            shares: dict[int, float] = {}
            for count in random.sample(counts, len(counts)):
                shares[count], answered = await _slice(pid, began["admin_url"], rollout, count, asked)
                if number and count:
                    served[count].append(answered / (2 * count * asked.seconds / asked.every))
            if number:  # the first round warms up
                for count, share in shares.items():
                    found[count].append(share - (shares[0] if count else 0.0))
    print(f"load {os.getloadavg()[0]:.1f}, {asked.rounds} rounds, slices of {asked.seconds:g} s")
    for count, shares_found in found.items():
        what = "no console" if not count else f"{count} more"
        answered_share = f"; {100 * statistics.mean(served[count]):.0f} % of their requests" if count else ""
        print(f"{what:12} {_spread(shares_found)}{answered_share}", flush=True)


async def _slice(
    pid: int, url: str, rollout: dict[str, Any], count: int, asked: argparse.Namespace
) -> tuple[float, int]:
    """The control process's share of a core while so many consoles are open, and how many requests it answered them."""
    answered: list[float] = []
    consoles = [asyncio.create_task(_console(url, rollout, asked.every, answered)) for _ in range(count)]
    await asyncio.sleep(_SETTLE_S)
    before_ns, at_s = _cpu_ns(pid), time.monotonic()
    before = len(answered)
    await asyncio.sleep(asked.seconds)
    seen = len(answered) - before
    share = (_cpu_ns(pid) - before_ns) / 1e9 / (time.monotonic() - at_s)
    for console in consoles:
        console.cancel()
    results = await asyncio.gather(*consoles, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
    await asyncio.sleep(_SETTLE_S)
    return share, seen


async def _under_way(api: httpx.AsyncClient) -> dict[str, Any]:
    """A rollout that stays under way: held at its weight by hand, and judged all the same."""
    while not (found := (await api.get("/api/v1/rollouts")).json()["rollouts"]):
        await asyncio.sleep(0.2)
    await api.post(f"/api/v1/rollouts/{found[0]['id']}/pause")
    return dict(found[0])


async def _console(url: str, rollout: dict[str, Any], every_s: float, answered: list[float]) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:

        async def follow() -> None:
            async with client.stream("GET", f"/api/v1/events?rollout={rollout['id']}") as answer:
                async for _ in answer.aiter_raw():
                    pass

        async def ask() -> None:
            await asyncio.sleep(random.random() * every_s)
            while True:
                for path in (f"rollouts/{rollout['id']}/latencies", f"routes/{rollout['route']}"):
                    (await client.get(f"/api/v1/{path}")).raise_for_status()
                    answered.append(time.monotonic())
                await asyncio.sleep(every_s)

        await asyncio.gather(follow(), ask())


def _control_of(parent: int) -> int:
    """The control process below the supervisor."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                stat = (process / "stat").read_text().rpartition(") ")[2].split()
                command = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if int(stat[1]) == parent and b"gateway.app.control" in command:
                return int(process.name)
    raise SystemExit("the gateway has no control process")


def _cpu_ns(pid: int) -> int:
    """What all its threads have run so far."""
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def _spread(shares: list[float]) -> str:
    low, middle, high = statistics.quantiles(shares, n=4)
    return f"{100 * middle:6.2f} % of a core ({100 * low:.2f} to {100 * high:.2f})"


if __name__ == "__main__":
    main()

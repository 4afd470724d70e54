"""What open consoles cost the control process, in CPU time: beside a rollout under way, with 0, 1 and 50 of them.

    python -m loadtests.console_cost [--seconds 15] [--consoles 0,1,50]

A console is what the page does: it follows the events of the rollout, and asks for the route and both versions'
latencies every two seconds. The budget: one costs at most 1 % of a core, 50 at most 10 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

_TICKS = os.sysconf("SC_CLK_TCK")
_EVERY_S = 2.0


def main() -> None:
    """Run the demo, open consoles, and print a line for each number of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--consoles", default="0,1,50")
    asked = parser.parse_args()
    counts = [int(number) for number in asked.consoles.split(",")]
    command = [sys.executable, "-m", "gateway", "demo", "--scenario", "good", "--json", "--keep-running-s", "600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo:
        try:
            asyncio.run(_measure(demo, counts, asked.seconds))
        finally:
            demo.terminate()


async def _measure(demo: subprocess.Popen[str], counts: list[int], seconds: float) -> None:
    assert demo.stdout is not None
    began: dict[str, Any] = next(event for event in map(json.loads, demo.stdout) if event["event"] == "started")
    pid = _control_of(began["pids"]["the gateway"])
    async with httpx.AsyncClient(base_url=began["admin_url"], timeout=20) as api:
        rollout = await _under_way(api)
        for count in counts:
            consoles = [asyncio.create_task(_console(began["admin_url"], rollout)) for _ in range(count)]
            await asyncio.sleep(3.0)
            before_s, at_s = _cpu_s(pid), time.monotonic()
            await asyncio.sleep(seconds)
            share = (_cpu_s(pid) - before_s) / (time.monotonic() - at_s)
            for console in consoles:
                console.cancel()
            await asyncio.gather(*consoles, return_exceptions=True)
            print(f"{count:4} consoles: {100 * share:5.2f} % of a core", flush=True)


async def _under_way(api: httpx.AsyncClient) -> dict[str, Any]:
    """A rollout that stays under way: held at its weight by hand, and judged all the same."""
    while not (found := (await api.get("/api/v1/rollouts")).json()["rollouts"]):
        await asyncio.sleep(0.2)
    await api.post(f"/api/v1/rollouts/{found[0]['id']}/pause")
    return dict(found[0])


async def _console(url: str, rollout: dict[str, Any]) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:

        async def follow() -> None:
            async with client.stream("GET", f"/api/v1/events?rollout={rollout['id']}") as answer:
                async for _ in answer.aiter_raw():
                    pass

        async def ask() -> None:
            while True:
                for path in (f"rollouts/{rollout['id']}/latencies", f"routes/{rollout['route']}"):
                    (await client.get(f"/api/v1/{path}")).raise_for_status()
                await asyncio.sleep(_EVERY_S)

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


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


if __name__ == "__main__":
    main()

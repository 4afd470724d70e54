"""Chaos: a whole gateway under open-loop load, while faults of everything around it are injected at random and overlap.

    make chaos                                           an hour
    python -m loadtests.chaos --seconds 120 --seed 7
    python -m loadtests.chaos --faults hang_0,scrape     these alone
    python -m loadtests.chaos --each                     each fault alone, in a gateway of its own: a table

What is held:

1. Every request has exactly one outcome, its answer is its own, and the access log has the same of it, in one line.
2. Nothing is lost that a direct connection would not have lost: `loadtests/faults/books.py` says what that is. Clients
   that ask the endpoint which is never harmed run beside the others; what they lose is the machine's doing.
3. A version that was replaced never answers again, and no fault raises a weight.
4. Where an alarm is due it was there, and it is over when the fault is.
5. At the end nothing is left: no request, no connection, no descriptor; memory is where it was.

The schedule follows from the seed alone and is printed. Name servers that fail are not here: whom a process asks for
names cannot be changed from outside (tests/proxy/test_names.py). A disk that is read-only or full is in tests/e2e.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import random
import signal
import sys
from collections.abc import Coroutine, Sequence
from typing import Any

from loadtests.faults.books import WRONG
from loadtests.faults.catalogue import FAULTS, Fault
from loadtests.faults.run import LEAD_S, USERS, Happened, Run

_AT_ONCE = 4


def schedule(faults: Sequence[Fault], seconds: float, draw: random.Random) -> list[Happened]:
    """What happens when, from now on: all of them in random order, then again, until the time is up."""
    out: list[Happened] = []
    waiting: list[Fault] = []
    now_s = LEAD_S
    while True:
        if not waiting:
            waiting = draw.sample(faults, len(faults))
        standing = [one for one in out if one.due_s + one.fault.lasts_s + 1.0 > now_s]
        taken = {claim for one in standing for claim in one.fault.claims}
        free = [fault for fault in waiting if not fault.claims & taken]
        if free and len(standing) < _AT_ONCE:
            if now_s + free[0].lasts_s > seconds and out:
                return out
            out.append(Happened(now_s, free[0]))
            waiting.remove(free[0])
        now_s += draw.random()


def report(run: Run) -> dict[str, Any]:
    """The sums of all that happened."""
    calls = run.books.calls.values()
    excused = collections.Counter(filter(None, (run.books.excuse(call) for call in calls)))
    outcomes = collections.Counter(f"{call.flow}: {call.outcome} {call.status or ''}".strip() for call in calls)
    faults = collections.Counter(one.fault.name for one in run.happened)
    lost = collections.Counter(call.flow for call in run.books.lost(calls) if call.flow in USERS)
    return {
        "sent": len(calls),
        "outcomes": dict(sorted(outcomes.items())),
        "not the gateway's doing": dict(excused),
        "lost": dict(lost),
        "tries of endpoints": run.actions.tries,
        "faults": dict(faults),
        "stood still itself": f"{run.late_s:.2f} s",
        "wrong": run.wrongs,
    }


def row(run: Run) -> str:
    """A line of the table: the one fault, what it cost, and its alarms."""
    (one,) = run.happened
    calls = run.books.between(one.begin_s, one.end_s + 1.0, *USERS)
    lost = run.books.lost(calls)
    late = sum(call.ended_s - call.sent_s > 1.0 for call in calls if run.books.good(call) and call.flow != "streams")
    excused = collections.Counter(filter(None, (run.books.excuse(call) for call in calls)))
    wrong_version = sum(call.outcome == WRONG for call in calls)
    cells = [one.fault.what, f"{len(lost)} of {len(calls):,}", str(wrong_version), str(late)]
    cells.append("; ".join(f"{n} {why}" for why, n in excused.items()) or "-")
    cells.append(" / ".join(one.alarms) or "-")
    return f"| {' | '.join(cells)} |"


# The exit status of a run that proves nothing (EX_TEMPFAIL of sysexits.h): the machine was too busy for the clients.
VOID = 75


async def chaos(faults: Sequence[Fault], arguments: argparse.Namespace) -> int:
    """All of them at random; 0 when all was as promised, `VOID` when this program had no time to see it."""
    run = Run(arguments.python, arguments.rate, arguments.seed, arguments.log)
    await run.live(schedule(faults, arguments.seconds, run.draw))
    print(json.dumps({"seed": arguments.seed, "seconds": arguments.seconds} | report(run), indent=2))
    return VOID if run.void else int(bool(run.wrongs))


async def each(faults: Sequence[Fault], arguments: argparse.Namespace) -> int:
    """Each of them alone; prints the table."""
    print("| fault | lost | by the wrong version | over 1 s | not the gateway's doing | alarms |")
    print("|---|---|---|---|---|---|", flush=True)
    for fault in reversed({fault.what: fault for fault in reversed(faults)}.values()):
        run = Run(arguments.python, arguments.rate, arguments.seed, arguments.log)
        await run.live([Happened(LEAD_S, fault)], strict=False)
        print(row(run), flush=True)
        for wrong in run.wrongs:
            print(f"    {wrong[:300]}", file=sys.stderr)
    return 0


def main() -> int:
    """Entry."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    parser.add_argument("--rate", type=float, default=1.0, help="1 is about 100 requests per second")
    parser.add_argument("--faults", default="", help="their names, with commas; all without it")
    parser.add_argument("--each", action="store_true", help="each fault alone, in a gateway of its own")
    parser.add_argument("--log", default="", help="a file for what the gateway logs")
    parser.add_argument(
        "--python", default=sys.executable, help="of an environment with another gateway, such as an older one"
    )
    arguments = parser.parse_args()
    wanted = arguments.faults.split(",") if arguments.faults else [fault.name for fault in FAULTS]
    known = {fault.name: fault for fault in FAULTS}
    if unknown := [name for name in wanted if name not in known]:
        parser.error(f"no such fault: {', '.join(unknown)}; there are {', '.join(known)}")
    faults = [known[name] for name in wanted]
    return asyncio.run(_until_told_to_stop((each if arguments.each else chaos)(faults, arguments)))


async def _until_told_to_stop(work: Coroutine[Any, Any, int]) -> int:
    """A SIGTERM ends the gateway as well."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


if __name__ == "__main__":
    sys.exit(main())

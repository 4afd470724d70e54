"""One run: a gateway, its models and its clients, and a plan of faults that is carried out on them."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from loadtests.faults import clients, gateway
from loadtests.faults.books import Books, Call
from loadtests.faults.catalogue import Fault
from loadtests.faults.harm import Site
from loadtests.faults.models import Endpoint, ModelActions

# Requests per second of each flow at rate 1.
RATES = {"plain": 50.0, "both": 30.0, "promoted": 10.0, "uploads": 1.0, "streams": 0.5, "leavers": 2.0, "direct": 10.0}
# The flows whose users are promised that they lose nothing.
USERS = ("plain", "both", "promoted", "uploads", "streams")
LEAD_S = 2.0
_HEARD_S = 10.0
_LOOKS_MIN = 4
_LOOK_S, _LATE_S = 0.2, 2.0
_GAUGES = ("in_flight_requests", "downstream_connections", "upstream_connections")
# A worker that has carried traffic has a little more of both than one that has not.
_MORE_DESCRIPTORS, _MORE_KIB = 4, 64 * 1024


@dataclass
class Happened:
    """One fault of the plan: when it is due, when it was, and the alarms that stood meanwhile or soon after."""

    due_s: float
    fault: Fault
    begin_s: float = 0.0
    end_s: float = 0.0
    alarms: list[str] = field(default_factory=list)


class Run:
    """One gateway, its models and its clients."""

    def __init__(self, python: str, rate: float, seed: int, log: str = "") -> None:
        self.draw = random.Random(seed)
        self.actions = ModelActions()
        self.books = Books(self.actions)
        self.wrongs = self.books.wrongs
        names = ("stable0", "stable1", "stable2", "canary", "old", "new")
        self.models = {name: Endpoint(name, self.actions, self.draw) for name in names}
        self.happened: list[Happened] = []
        self._metrics = ""
        # How late this program's own loop was, at most.
        self.late_s = 0.0
        self._python = python
        self._log = Path(log or os.devnull)
        self._rate = rate
        self._stop = asyncio.Event()

    async def live(self, plan: list[Happened], *, strict: bool = True) -> None:
        """From the start to the end; ``strict`` also looks at what is left then."""
        self.happened = plan
        for model in self.models.values():
            await model.start()
        with tempfile.TemporaryDirectory(prefix="chaos-") as name:
            directory = Path(name)
            stable = [self.models[f"stable{n}"] for n in range(3)]
            canary, old, new = (self.models[role] for role in ("canary", "old", "new"))
            settings = gateway.settings(directory, stable, canary, old, new)
            async with gateway.Gateway(self._python, directory, settings) as self.gateway:
                await self.gateway.promote("promoted")
                self.flows = self._flows()
                site = Site(self.gateway, stable, canary, self.books, self.flows["slow"], self.draw)
                began = {kind: self.gateway.children(kind) for kind in ("control", "worker")}
                before = [gateway.resources(pid) for pid in began["worker"]]
                async with self._clients():
                    watching = asyncio.create_task(self._watch_itself())
                    await self._harm(site)
                    if strict:
                        await self._alarms_end()
                    watching.cancel()
                if strict:
                    await self._at_rest(site, max(fds for fds, _ in before), max(kib for _, kib in before))
                    if not self.books.kills and self.gateway.children("control") == began["control"]:
                        self._compare_sums()
                self.wrongs += await self.gateway.stop()
                self._log.write_bytes(self.gateway.log)
            self.books.check(directory / gateway.LOG)
        for model in self.models.values():
            await model.close()
            if model.busy:
                self.wrongs.append(f"{model.name} still answers {model.busy} requests")
        self._judge()

    async def _watch_itself(self) -> None:
        """Models and clients live on this loop: while it stands still nobody answers, and nobody is to blame."""
        while True:
            due_s = time.monotonic() + _LOOK_S
            await asyncio.sleep(_LOOK_S)
            self.late_s = max(self.late_s, time.monotonic() - due_s)

    def _flows(self) -> dict[str, clients.Flow]:
        def through() -> clients.Address:
            return self.gateway.address

        paths = {"plain": "/plain", "both": "/both", "promoted": "/promoted", "uploads": "/plain/upload"}
        paths |= {"streams": "/plain/stream", "leavers": "/both", "slow": "/plain/upload"}
        flows = {
            name: clients.Flow(name, RATES.get(name, 1.0) * self._rate, through, path, self.books)
            for name, path in paths.items()
        }
        flows["promoted"].check = lambda who: who == b"new"
        never_harmed = ("127.0.0.1", self.models["stable2"].port)
        flows["direct"] = clients.Flow(
            "direct", RATES["direct"] * self._rate, lambda: never_harmed, "/plain", self.books
        )
        return flows

    @asynccontextmanager
    async def _clients(self) -> AsyncIterator[None]:
        kinds: dict[str, Callable[[clients.Flow], Coroutine[Any, Any, None]]] = {
            "uploads": clients.upload,
            "leavers": partial(clients.leaver, draw=self.draw),
        }
        flows = [flow for name, flow in self.flows.items() if name != "slow"]
        tasks = [
            asyncio.create_task(clients.run(flow, kinds.get(flow.name, clients.small), self._stop)) for flow in flows
        ]
        try:
            yield
        finally:
            self._stop.set()
            await asyncio.gather(*tasks)

    async def _harm(self, site: Site) -> None:
        """Carry the schedule out. A fault whose claims are still taken waits: replacements take their time."""
        start_s = time.monotonic()
        locks: dict[str, asyncio.Lock] = collections.defaultdict(asyncio.Lock)

        async def one(happens: Happened) -> None:
            await asyncio.sleep(max(0.0, start_s + happens.due_s - time.monotonic()))
            async with contextlib.AsyncExitStack() as stack:
                for claim in sorted(happens.fault.claims):
                    await stack.enter_async_context(locks[claim])
                happens.begin_s = time.monotonic()
                print(f"{happens.begin_s - start_s:7.1f}  {happens.fault.name}", file=sys.stderr)
                async with happens.fault.act(site):
                    await asyncio.sleep(happens.fault.lasts_s)
                happens.end_s = time.monotonic()

        outcomes = await asyncio.gather(*(one(happens) for happens in self.happened), return_exceptions=True)
        for happens, outcome in zip(self.happened, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                happens.end_s = happens.end_s or time.monotonic()
                self.wrongs.append(f"{happens.fault.name} could not be done: {outcome!r}")
        await asyncio.sleep(LEAD_S)
        await self._hear()

    async def _at_rest(self, site: Site, fds_before: int, kib_before: int) -> None:
        quiet = [f"gateway_{gauge} 0.0" for gauge in _GAUGES]
        self._metrics = await self.gateway.until(lambda text: all(line in text for line in quiet), "all is quiet")
        for pid in self.gateway.children("worker"):
            fds, kib = gateway.resources(pid)
            if fds > fds_before + _MORE_DESCRIPTORS:
                self.wrongs.append(f"{fds} descriptors of a worker are open, {fds_before} were at the start")
            if kib > kib_before + _MORE_KIB:
                self.wrongs.append(f"{kib} KiB of a worker are resident, {kib_before} were at the start")
        weight = (await self.gateway.admin.get("/api/v1/routes/both")).json()["canary_percent"]
        if weight > site.weight_max:
            self.wrongs.append(f"the weight is {weight} %, nobody asked for more than {site.weight_max}")

    async def _alarms_end(self) -> None:
        """Under load still: what was ejected comes back by a request."""
        lingering = [part for one in self.happened if one.fault.lingers for part in one.fault.seen]
        deadline_s = time.monotonic() + gateway.QUIET_S
        left = ["control does not answer"]
        while left and time.monotonic() < deadline_s:
            await asyncio.sleep(_LOOK_S)
            standing = await self.gateway.standing()
            if standing is not None:
                reasons = [alarm["reason"] for alarm in standing]
                left = [reason for reason in reasons if not any(part in reason for part in lingering)]
        self.wrongs += [f"an alarm is never over: {reason}" for reason in left]

    def _compare_sums(self) -> None:
        """Where neither control nor a worker was killed, the gateway's sums are the clients'."""
        counted = gateway.samples(self._metrics, "gateway_requests_total", "code")
        seen, left = self.books.statuses()
        for code in counted.keys() | seen.keys():
            if not seen[code] <= counted[code] <= seen[code] + left:  # those who left may have been answered
                self.wrongs.append(f"clients saw {seen[code]} times {code}, {counted[code]} were counted ({left} left)")

    async def _hear(self) -> None:
        """Wait a little for the alarms that are due and have not come yet: control may only just be back."""
        deadline_s = time.monotonic() + _HEARD_S
        while time.monotonic() < deadline_s and self._unheard():
            await asyncio.sleep(_LOOK_S)

    def _unheard(self) -> list[str]:
        """Faults that no alarm has named while they stood or soon after, in none of their occurrences."""
        reported: dict[str, bool] = {}
        for one in self.happened:
            during = [reason for at_s, reason in self.gateway.alarms if one.begin_s <= at_s <= one.end_s + _HEARD_S]
            one.alarms = list(dict.fromkeys(during))
            if one.fault.seen and self._could_be_asked(one):
                said = any(part in reason for part in one.fault.seen for reason in one.alarms)
                reported[one.fault.name] = reported.get(one.fault.name, False) or said
        return [name for name, said in reported.items() if not said]

    def _could_be_asked(self, one: Happened) -> bool:
        """Whether control answered for long enough: while the fault stood, or after it where it is reported later."""
        begin_s, end_s = (one.end_s, one.end_s + _HEARD_S) if one.fault.lingers else (one.begin_s + 2.0, one.end_s)
        return sum(begin_s <= at_s <= end_s for at_s in self.gateway.looked_s) >= _LOOKS_MIN

    @property
    def void(self) -> bool:
        """Whether this program itself stood still for too long to say anything about the gateway."""
        return self.late_s > _LATE_S

    def _judge(self) -> None:
        """The losses, and alarms that were due and never came."""
        if self.void:
            self.wrongs.append(f"this program stood still for {self.late_s:.1f} s: the machine is too busy for it")
        alike: dict[str, list[Call]] = collections.defaultdict(list)
        for call in self.books.lost(self.books.calls.values()):
            if call.flow in USERS:
                alike[f"{call.flow}: {call.outcome} {call.status or ''} {call.reason}"].append(call)
        for what, calls in alike.items():
            first = calls[0]
            at_s = first.ended_s - self.happened[0].begin_s + self.happened[0].due_s
            example = f"{first.id} at {at_s:.1f} s, after {first.ended_s - first.sent_s:.2f} s"
            self.wrongs.append(f"lost: {len(calls)} of {what}; the first was {example}")
        self.wrongs += [f"no alarm for {name}" for name in self._unheard()]

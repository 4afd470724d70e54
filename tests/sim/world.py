"""The seeded world of the simulation: one control plane, its workers and operators, and everything that befalls them.

The controller, its decisions, recovery, journal, hub and the whole core are the real ones; disk, workers and time are
of `parts`. After every event, and whenever a table is published, the promises are checked:

1. Epochs strictly grow, over all lives that anybody remembers.
2. A canary gets more only by what the journal already has: a PASS after its floor, a command, a gate, a bake's end,
   or a policy that the plan states; and after a restart no more than the journal or a living worker says.
3. FAIL means weight 0 when the tick is over, whatever the disk does, or the ramp that the plan asks for. While stable
   answers nothing, nothing is decided but what time alone decides, and nothing goes up.
4. An end is left only by a start or an abort (or a restart that finds less than was journaled); a rollout's revision
   only grows.
5. What the journal replays is what lives; every line has a reason and somebody who did it; the promoted backend is
   stable in both.
6. Nothing grows without bound: journal lines are decisions, and what is remembered is bounded.
7. No command waits longer than its limit for the disk.
8. A worker that starts without control finds in the table memory the stable backends that are published, none older,
   and gives no canary anything.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from gateway.config.build import routing_table
from gateway.config.load import load
from gateway.config.schema import GatewayConfig
from gateway.control.controller import Controller
from gateway.control.decide.pipeline import JOURNAL_WAIT_S
from gateway.control.journal.sqlite_store import SqliteStore
from gateway.control.workers.table_keeper import TableKeeper
from gateway.core.analysis import Verdict
from gateway.core.errors import ConflictError, GatewayError, InvalidValueError, JournalError, TransitionError
from gateway.core.rollout import Phase, Rollout
from gateway.core.traffic.table import Route, RoutingTable
from gateway.runtime.table_memory import SharedTable, decode, encode, first_table
from tests.sim.parts import Disk, LoopClock, Worker

REFUSALS = (TransitionError, ConflictError, JournalError, InvalidValueError)
ROUTES = ("a", "b")
WISHES = ("Started", "ResumeRequested", "PromoteRequested", "ApproveRequested", "GateAnswered", "WeightRequested")
WORKERS = 2
FILE = "the text of the configuration file"


def configuration(dice: random.Random, canary: str = "v2", empty: str = "") -> str:
    """A configuration with random plans; on the route ``empty`` nothing is deployed yet."""

    def some(**options: Any) -> dict[str, Any]:
        return {name: value for name, value in options.items() if dice.random() < 0.3}

    def step(percent: int) -> dict[str, Any]:
        floor = {"min_time_s": dice.choice([0, 1, 3]), "min_requests": dice.choice([0, 50])}
        policy = dice.choice(["hold", "rollback", "promote", "proceed"])
        return (
            {"percent": percent} | floor | some(deadline_s=6, on_deadline=policy, gate=dice.choice(["manual", "hook"]))
        )

    def plan() -> dict[str, Any]:
        return {
            "steps": [step(percent) for percent in (20, 50)],
            "deadline_s": dice.choice([15, 60, 3600]),
            "on_deadline": dice.choice(["hold", "rollback", "promote"]),
            "on_new_canary": dice.choice(["refuse", "supersede"]),
        } | some(
            on_no_data="hold",
            promotion_gate="manual",
            warmup_s=2,
            bake_s=5,
            bake_holdout_percent=dice.choice([0, 5]),
            rollback_ramp_s=4,
            stable_endpoints_min=1,
            when_canary_down="refuse",
            pause_max_s=20,
            windows=[{"days": ["mon", "wed", "sat"]}],
        )

    probed = {"endpoints": ["http://127.0.0.1:9"]}
    return msgspec.yaml.encode(
        {
            "workers": WORKERS,
            "backends": {"v1": probed, "v2": probed, "v3": probed},
            "gates": [{"name": "hook", "url": "http://127.0.0.1:9/"}],
            "routes": [
                {
                    "name": name,
                    "match": {"path_prefix": f"/{name}"},
                    "stable": None if name == empty else "v1",
                    "canary": canary,
                    "analysis": {"latency": {"mode": "off"}},
                    "plan": plan(),
                }
                for name in ROUTES
            ],
        }
    ).decode()


class World:
    """One seed's life."""

    def __init__(self, directory: Path, seed: int, patch: Callable[[Callable[[], Disk]], None]) -> None:
        self.dice = random.Random(seed)
        self.path = directory / "state.sqlite3"
        self.file = directory / "gateway.yaml"
        self.clock = LoopClock()
        self.disk = Disk(self.dice)
        patch(lambda: self.disk)
        # In a third of all lives one of the routes has nothing deployed yet.
        self.empty = "b" if seed % 3 == 0 else ""
        self.config = self.configured()
        self.births = self.crashes = 0
        self.workers = [self.born(index) for index in range(WORKERS)]
        self.shared = SharedTable.create()
        # What a control process found in it when it began.
        self.found: RoutingTable | None = None
        # What the state directory has of it: it may have missed the newest.
        self.kept: bytes | None = None
        self.luck = random.Random(seed)
        self.failing = {"v1": 0.01, "v2": 0.01, "v3": 0.01}
        self.log: list[str] = []
        self.faults: list[BaseException] = []
        self.pressed: dict[asyncio.Task[None], float] = {}
        self.epochs = 0
        self.lives = 0
        self.recovering = False
        self.served: dict[str, Route] = {}
        self.events = self.published = self.decided = 0

    def configured(self, canary: str = "v2") -> GatewayConfig:
        """A configuration of new plans."""
        self.file.write_text(configuration(self.dice, canary, self.empty))
        return load(self.file, environ={})

    def born(self, index: int) -> Worker:
        """A worker's life begins."""
        self.births += 1
        return Worker(index, f"w{index}-{self.births}")

    # lives of the control plane

    async def begin(self) -> None:
        """Open the journal, take the workers' reports, publish."""
        self.lives += 1
        before = self.shared.read()
        # The state directory's may be older than the journal; then the journal alone speaks of promotions.
        self.found = None if before is None or before.from_file else before.table
        self.store = SqliteStore.open(self.path)
        self.journal = self.store.journal
        # Durability has tests with real kills; here order counts, and speed.
        self.store.file.connection.execute("PRAGMA synchronous = OFF")
        table, keeper = routing_table(self.config, epoch=0), TableKeeper(self.shared, config_sha256=FILE)
        self.control = Controller(self.config, table, self.store, self.clock, keeper=keeper)
        hub = self.control.hub
        send = hub.send_table

        def checked(table: RoutingTable) -> None:
            try:
                self.publishes(table)
            except AssertionError as broken:
                # It may be raised in a task of control's, which logs it.
                self.faults.append(broken)
                raise
            send(table)

        hub.send_table = checked  # type: ignore[method-assign]  # every table goes through it
        for worker in self.workers:
            worker.wake()
            await worker.connect(hub)
        self.recovering = True
        await self.control.recover()
        self.recovering = False

    async def kill(self) -> None:
        """The process dies: whatever it was about to do is not done."""
        self.crashes += 1
        for worker in self.workers:
            await worker.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        self.pressed.clear()
        self.store.close()
        self.disk = Disk(self.dice)

    async def restart(self) -> None:
        """Kill, some workers with it, and begin again."""
        await self.kill()
        for index in range(WORKERS):
            if self.dice.random() < 0.3:
                self.workers[index] = self.born(index)
        if self.luck.random() < 0.3:
            self.all_ends()
        self.log.append(f"restart, workers remember {[worker.epoch for worker in self.workers]}")
        await self.begin()

    def all_ends(self) -> None:
        """Not control alone: all workers end, too, and the memory that they share."""
        self.workers = [self.born(index) for index in range(WORKERS)]
        self.shared.close()
        self.shared = SharedTable.create()
        remembered = None if self.kept is None else decode(self.kept)
        if remembered is not None:
            self.shared.write(encode(msgspec.structs.replace(remembered, from_file=True)))

    # what is checked when a table is published

    def publishes(self, table: RoutingTable) -> None:
        """Promises 1 and 2."""
        self.published += 1
        newest = max(worker.epoch for worker in self.workers) if self.recovering else self.epochs
        assert table.epoch > newest, f"epoch {table.epoch} after {newest}"
        self.epochs = table.epoch
        self.remembers(table)
        for route in table.routes:
            before, self.served[route.name] = self.served.get(route.name), route
            if self.recovering:
                self.recovers(route)
            elif before is not None and self.more(before, route):
                self.rises(before, route)

    def remembers(self, table: RoutingTable) -> None:
        """Promise 8."""
        remembered = self.shared.read()
        assert remembered is not None and remembered.table == table, "what is published is remembered first"
        own = routing_table(self.config, epoch=0).stable_only()
        found = first_table(own, FILE, remembered)
        assert [route.stable for route in found.routes] == [route.stable for route in table.routes]
        assert all(route.weight_bp == 0 for route in found.routes) and found.epoch == 0
        if self.luck.random() < 0.7:
            self.kept = encode(remembered)

    def recovers(self, route: Route) -> None:
        """The first table: not more than the journal says, nor than a living worker gives."""
        live = [worker.table.route(route.name) for worker in self.workers if worker.table is not None]
        if route.stable != self.named(route.name):
            roles = self.journal.roles()[route.name]
            assert roles.stable == route.stable, f"{route.name}: {route.stable} is not what was promoted"
            # A worker that hung, or that died before it took the promotion, does not undo one that was in force: the
            # newest table counts, the memory's among them.
            known = [table for table in (self.found, *(w.table for w in self.workers)) if table is not None]
            newest = max(known, key=lambda t: t.epoch, default=None)
            live = [newest.route(route.name)] if newest is not None else []
        assert not any(self.more(one, route) for one in live), (
            f"{route.name} begins with {_brief(route)}, live is {[_brief(one) for one in live]}"
        )
        if route.canary is not None and route.stable:
            said, by_hand = self.journal.latest(route.name), self.journal.weights().get(route.name)
            journaled = 0 if said is None or said.canary != route.canary else said.weight_bp
            allowed = max(journaled, 0 if by_hand is None else by_hand.weight_bp)
            assert route.weight_bp <= allowed, f"{route.name} begins with {_brief(route)}, the journal says {allowed}"

    def rises(self, before: Route, route: Route) -> None:
        """More for a canary: the journal has it already, and it is one of the reasons there are."""
        state = self.control._routes[route.name].rollout
        if before.stable == state.canary and route.stable == state.stable:
            return  # a promotion is taken back: the one before it serves again
        by_hand = self.journal.weights().get(route.name)
        if not state.phase.active and state.phase is not Phase.PROMOTED:
            assert by_hand is not None and by_hand.weight_bp == route.weight_bp, f"{route.name} rose without a journal"
            return
        if by_hand is not None and by_hand.weight_bp == route.weight_bp:
            return
        entry = self.journal.events(state.rollout_id)[-1]
        assert entry.state == state, f"{route.name} rose before the journal had it: {state.reason}"
        if entry.kind in WISHES:
            return
        assert entry.kind == "Analysed", f"{route.name} rose to {_brief(route)} by {entry.kind}"
        proven = entry.analysis is not None and entry.analysis.verdict is Verdict.PASS
        stated = any(word in state.reason for word in ("policy", "the bake", "warmed up", "healthy endpoint"))
        assert proven or stated, f"{route.name} rose by itself: {state.reason}"

    def named(self, route: str) -> str:
        """Whom the file names as stable."""
        return "" if route == self.empty else "v1"

    def more(self, before: Route, after: Route) -> bool:
        """Whether somebody who is or was a canary gets more by the later table than by the earlier one."""

        def share(backend: str) -> int:
            return 10_000 if before.stable == backend else before.weight_bp if before.canary == backend else 0

        tried = after.canary is not None and after.weight_bp > share(after.canary)
        return tried or (after.stable != self.named(after.name) and share(after.stable) < 10_000)

    # events

    async def tick(self) -> None:
        """Traffic, reports, and the controller looks (promise 3)."""
        await asyncio.sleep(self.dice.choice([0.1, 0.5, 0.5, 2.0]))
        for worker in self.workers:
            worker.traffic(self.dice, self.dice.choice([0, 150, 400]), self.failing)
            worker.send_report()
        for _ in range(4):
            await asyncio.sleep(0)
        states = self.control._routes
        before = {name: state.rollout for name, state in states.items()}
        received = {name: state.last_analysis for name, state in states.items()}
        self.control.tick()
        for name, state in states.items():
            was, analysis = before[name], state.last_analysis
            if state.frozen and was.phase.active and state.rollout is not was:
                by_time = was.phase in (Phase.PAUSED, Phase.RETURNING) and state.rollout.weight_bp <= was.weight_bp
                assert by_time, f"{name}: decided while stable is dead: {state.rollout.reason}"
            judged = was.phase.active and was.phase is not Phase.RETURNING and analysis is not received[name]
            if judged and analysis is not None and analysis.verdict is Verdict.FAIL:
                weight_bp = self.control._publisher.weight_bp(name)
                ramps = state.rollout.phase is Phase.RETURNING and weight_bp < was.weight_bp
                assert ramps or (weight_bp == 0 and not state.rollout.phase.active), f"{name}: FAIL, and {weight_bp} bp"

    def press(self) -> None:
        """An operator, a pipeline or a gate sends a command and does not wait."""
        dice, control = self.dice, self.control
        name = dice.choice(ROUTES)
        rollout = control._routes[name].rollout.rollout_id
        why = dice.choice(["", "because"])
        buttons: dict[str, Callable[[], Awaitable[object]]] = {
            "start": lambda: control.commands.start(name, "alice", retry=dice.random() < 0.8, reason=why),
            "resume": lambda: control.commands.resume(rollout, "alice", why),
            "promote": lambda: control.commands.promote(rollout, "alice", why),
            "promote-next": lambda: control.commands.promote(rollout, "alice", why, next_step=True),
            "approve": lambda: control.commands.approve(rollout, "alice", why),
            "gate": lambda: control.commands.answer_gate(rollout, "hook", dice.random() < 0.7, "asked", "the hook"),
            "weight": lambda: control.commands.set_weight(name, dice.choice([0, 100, 3000, 10_000]), "alice"),
            "pause": lambda: control.commands.pause(rollout, "alice", why),
            "abort": lambda: control.commands.abort(rollout, "alice", why),
        }
        names = list(buttons)
        chosen = dice.choices(names, [8, 3, 1, 2, 4, 3, 2, 2, 1])[0]
        self.log.append(f"{chosen} {name}")

        async def held() -> None:
            try:
                await buttons[chosen]()
            except REFUSALS as refusal:
                self.log.append(f"  {chosen} {name}: {type(refusal).__name__}: {refusal}")
            except GatewayError as error:
                assert not rollout, error  # there was nothing to press it for

        loop = asyncio.get_running_loop()
        task = loop.create_task(held())
        self.pressed[task] = loop.time()
        task.add_done_callback(self.answered)

    def answered(self, task: asyncio.Task[None]) -> None:
        """A command was accepted or refused; anything else is an error of ours."""
        self.pressed.pop(task, None)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self.faults.append(fault)

    async def reconfigure(self) -> None:
        """Another configuration at run time; perhaps other canaries."""
        config = self.configured(self.dice.choice(["v2", "v3"]))
        try:
            await self.control.reconfigure(config, routing_table(config, epoch=0))
        except ConflictError as refusal:
            self.log.append(f"reconfigure: {refusal}")
        else:
            self.config = config
            self.log.append(f"reconfigure, canary {config.routes[0].canary}")

    async def something(self) -> None:
        """One thing happens."""
        happenings: dict[Callable[[], Awaitable[None] | None], float] = {
            self.tick: 50,
            self.press: 25,
            self.disk_turns: 7,
            self.disk_breaks: 0.3,
            self.worker_turns: 3,
            self.worker_dies: 3,
            self.restart: 3,
            self.crash_at_a_commit: 2,
            self.conditions_change: 10,
            self.reconfigure: 2,
        }
        happened = self.dice.choices(list(happenings), list(happenings.values()))[0]()
        if happened is not None:
            await happened
        for _ in range(self.dice.choice([0, 1, 5])):
            await asyncio.sleep(0)

    def disk_turns(self) -> None:
        """The disk hangs, or answers again."""
        self.log.append("the disk answers" if self.disk.holds else "the disk hangs")
        self.disk.release() if self.disk.holds else self.disk.hold()

    def disk_breaks(self) -> None:
        """No write reaches it any more."""
        self.log.append("the disk breaks")
        self.disk.broken = True

    def worker_turns(self) -> None:
        """A worker hangs, or wakes."""
        worker = self.dice.choice(self.workers)
        worker.wake() if worker.hangs else worker.hang()

    async def worker_dies(self) -> None:
        """A worker dies, and another takes its place."""
        index = self.dice.randrange(WORKERS)
        await self.workers[index].close()
        self.workers[index] = self.born(index)
        await self.workers[index].connect(self.control.hub)

    def conditions_change(self) -> None:
        """An endpoint turns, a version becomes worse or better, or the wall clock jumps."""
        dice = self.dice
        match dice.randrange(5):
            case 0:
                self.clock.wall_offset_s += dice.choice([-3600.0, 3600.0])
            case 1 | 2:
                one = dice.choice(self.control.prober.endpoints)
                one.up, one.settled = dice.random() < 0.6, True
            case _:
                self.failing = {"v1": dice.choice([0.01] * 7 + [1.0])} | {
                    name: dice.choice([0.01, 0.01, 0.01, 0.6]) for name in ("v2", "v3")
                }

    async def crash_at_a_commit(self) -> None:
        """The next write reaches the disk, and the process dies before it knows."""
        self.disk.dies_after_commit = True
        self.press()
        await self.tick()
        self.log.append("crash at a commit")
        await self.restart()

    async def live(self, moments: int) -> None:
        """So many events, each followed by every check; ends at rest."""
        await self.begin()
        for _ in range(moments):
            before, lives = self.in_force(), self.lives
            await self.something()
            await asyncio.sleep(0)
            self.events += 1
            self.check(before if lives == self.lives else {})
        await self.settle()
        await self.kill()

    # what is checked after every event

    def in_force(self) -> dict[str, Rollout]:
        """The rollouts in force."""
        return {name: state.rollout for name, state in self.control._routes.items()}

    def check(self, before: dict[str, Rollout]) -> None:
        """Promises 4, 6 and 7."""
        if self.faults:
            raise self.faults[0]
        now_s = asyncio.get_running_loop().time()
        for name, was in before.items():
            state = self.control._routes[name].rollout
            if state.rollout_id != was.rollout_id or state == was:
                continue
            assert state.revision > was.revision, f"{name}: revision {state.revision} after {was.revision}"
            if was.phase.terminal and state.phase is not was.phase:
                taken_back = was.phase is Phase.PROMOTED and state.phase in (Phase.ROLLED_BACK, Phase.RETURNING)
                # A promotion that a restart left below 100 % was to be finished, and the disk did not take it.
                unfinished = was.phase is Phase.PROMOTED and not was.swapped and state.phase is Phase.PAUSED
                assert taken_back or unfinished, f"{name} left {was.phase} for {state.phase}: {state.reason}"
        waits = [now_s - since_s for since_s in self.pressed.values()]
        # The limit, a tick to notice it, and the second in which the workers may be waited for.
        assert max(waits, default=0.0) <= JOURNAL_WAIT_S + 5.0, f"a command has waited for {max(waits):.1f} s"
        aggregator = self.control._aggregator
        assert len(aggregator._last_seen_s) <= 40 * (self.events + 1)
        assert len(self.control._pipeline._tasks) <= 2 * len(ROUTES) + len(self.pressed) + 2

    async def settle(self) -> None:
        """Let everything answer, and compare what the disk has with what lives (promise 5)."""
        broken = self.disk.broken
        self.disk.release()
        for worker in self.workers:
            worker.wake()
        for _ in range(200):
            await asyncio.sleep(0.1)
            if self.control._journal_writer.idle and not self.control._pipeline._tasks and not self.pressed:
                break
        else:
            raise AssertionError("it never comes to rest")
        for name, state in self.control._routes.items():
            assert state.decided is state.rollout, f"{name}: something is decided and not in force"
            if not broken and state.rollout.phase is not Phase.IDLE:
                self.replays(name, state.rollout)
            if not broken:
                roles = self.journal.roles().get(name)
                assert (None if roles is None else roles.stable) == (
                    None if state.promoted is None else state.promoted.stable
                )
            assert self.control._publisher.table.route(name).stable == state.stable
        epoch = self.control._publisher.table.epoch
        for worker in self.workers:
            assert worker.epoch == epoch, f"worker {worker.boot} routes by {worker.epoch}, not {epoch}"

    def replays(self, name: str, live: Rollout) -> None:
        """The journal's rollout is the live one, and each of its lines says why and who."""
        latest = self.journal.latest(name)
        assert latest == live, f"{name}: the journal has {latest and _short(latest)}, live is {_short(live)}"
        assert self.journal.replay(live.rollout_id) == live
        entries = self.journal.events(live.rollout_id)
        assert all(entry.state.reason and entry.state.by for entry in entries)
        assert [entry.state.revision for entry in entries] == list(range(1, len(entries) + 1))
        self.decided += len(entries)


def _brief(route: Route) -> str:
    return f"{route.stable}/{route.canary} at {route.weight_bp} bp"


def _short(state: Rollout) -> str:
    return f"{state.rollout_id} {state.phase} {state.weight_bp} bp, revision {state.revision}: {state.reason}"

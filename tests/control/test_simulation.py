"""A seeded life of a control plane whose operators press every button while its disk, workers and itself fail.

Over real sockets and the real disk's thread; `tests/sim` lives thousands of lives on virtual time.

What must hold whatever happens: epochs only grow; a weight rises only by a PASS, by an operator's command, or to what
the journal said when no worker lives that knows better; FAIL means weight 0 within the same tick; an end is left only
by a start or an abort; and what the journal would replay is what lives.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gateway.core.analysis import Verdict
from gateway.core.errors import ConflictError, GatewayError, InvalidValueError, JournalError, TransitionError
from gateway.core.rollout import Phase, Rollout
from tests.support.control import Plane, text
from tests.support.worker import eventually

pytestmark = pytest.mark.anyio

REFUSALS = (TransitionError, ConflictError, JournalError, InvalidValueError)
STEPS = 120


class Conditions:
    """One plane, two routes, and everything that can happen to them."""

    def __init__(self, plane: Plane, seed: int) -> None:
        self.plane = plane
        self.dice = random.Random(seed)
        self.names = ("a", "b")
        self.requests: set[asyncio.Task[None]] = set()
        self.log: list[str] = []
        self.wished = {"a": 0, "b": 0}

    def weights(self) -> dict[str, int]:
        return {name: self.plane.weight_bp(name) for name in self.names}

    def states(self) -> dict[str, Rollout]:
        return {name: self.plane.state(name) for name in self.names}

    def request(self, name: str, *, raises: bool) -> None:
        """An operator presses a button and does not wait; ``raises`` says that the weight may then rise."""
        control = self.plane.controller
        rollout = self.plane.state(name).rollout_id
        buttons: dict[str, Callable[[], Awaitable[object]]] = {
            "start": lambda: control.commands.start(name, "alice"),
            "resume": lambda: control.commands.resume(rollout, "alice"),
            "promote": lambda: control.commands.promote(rollout, "alice"),
            "raise": lambda: control.commands.set_weight(name, self.dice.randrange(1, 10_001), "alice"),
            "pause": lambda: control.commands.pause(rollout, "alice"),
            "abort": lambda: control.commands.abort(rollout, "alice"),
            "lower": lambda: control.commands.set_weight(name, 0, "alice"),
        }
        button = self.dice.choice(list(buttons)[:4] if raises else list(buttons)[4:])
        self.log.append(f"{button} {name}")
        self.wished[name] += raises

        async def press() -> None:
            try:
                await buttons[button]()
            except REFUSALS as refusal:
                self.log.append(f"  {button} {name}: {type(refusal).__name__}")
            except GatewayError as error:
                assert not rollout, error  # there was nothing to press it for

        task = asyncio.get_running_loop().create_task(press())
        self.requests.add(task)
        task.add_done_callback(self.requests.discard)

    async def tick(self) -> None:
        """Traffic, reports, and the controller looks. FAIL means 0 when the tick is over, whatever the disk does."""
        for name in self.names:
            canary = 0 if not self.plane.weight_bp(name) else 400
            errors = self.dice.choice([0, 0, 0, canary // 2])
            for worker in self.plane.workers:
                if name in worker.tallies:
                    worker.serve(400, canary, errors, name)
        for worker in self.plane.workers:
            await worker.report()
        before = self.states()
        self.plane.tick(self.dice.choice([0.1, 1.0]))
        for name in self.names:
            analysis = self.plane.analysis(name)
            active = before[name].phase in (Phase.PROGRESSING, Phase.PAUSED)
            if active and analysis is not None and analysis.verdict is Verdict.FAIL:
                self.log.append(f"  FAIL {name}")
                assert self.plane.weight_bp(name) == 0
                assert self.plane.state(name).phase is Phase.ROLLED_BACK
            elif active and analysis is not None:
                assert analysis.verdict is not Verdict.ERROR, analysis.reason

    async def restart(self) -> None:
        """The process dies, and some workers with it. What waited for the disk is lost, a rollback's record too.

        So an end may be left for a pause at the live weight (rule 7 of the machine); but nothing may rise.
        """
        plane = self.plane
        for worker in plane.workers:
            worker.wake()
        for task in list(self.requests):
            task.cancel()
        await asyncio.gather(*self.requests, return_exceptions=True)
        await plane.kill()
        deaths = self.dice.choice([0, 0, 1, 2])
        for index in range(deaths):
            await plane.newborn(index)
        live = {name: min((w.weight_bp(name) for w in plane.workers if w.epoch), default=None) for name in self.names}
        await plane.begin()
        await plane.quiet()
        self.log.append(f"restart, {deaths} workers new, {live}")
        for name in self.names:
            at_most = live[name]
            assert at_most is None or plane.weight_bp(name) <= at_most, f"{name} rose over {at_most}"

    async def something(self) -> bool:
        """One thing happens; True when that was the end of one life and the beginning of the next."""
        plane, dice = self.plane, self.dice
        name = dice.choice(self.names)
        match dice.choices(
            ["tick", "request", "safe", "disk", "break", "hang", "die", "restart"], [40, 14, 8, 8, 1, 4, 3, 4]
        )[0]:
            case "tick":
                await self.tick()
            case "request":
                self.request(name, raises=True)
            case "safe":
                self.request(name, raises=False)
            case "disk" if plane.disk.holds:
                self.log.append("the disk answers")
                plane.disk.release()
            case "disk":
                self.log.append("the disk hangs")
                plane.disk.hold()
            case "break":
                self.log.append("the disk breaks")
                plane.disk.broken = True
            case "hang":
                worker = dice.choice(plane.workers)
                worker.wake() if worker.hangs else worker.hang()
            case "die":
                index = dice.randrange(len(plane.workers))
                self.log.append(f"worker {index} dies")
                await (await plane.newborn(index)).connect(plane.socket)
            case "restart":
                await self.restart()
                return True
        await asyncio.sleep(dice.choice([0, 0, 0.002]))
        return False

    def check(self, before: dict[str, Rollout], weights: dict[str, int], passes: int) -> None:
        """What must hold between any two moments."""
        for name, state in self.states().items():
            was = before[name]
            if was.phase.terminal and state != was and state.rollout_id == was.rollout_id:
                assert state.phase is Phase.ROLLED_BACK, f"{name} left {was.phase} for {state.phase}"
            if self.plane.weight_bp(name) > weights[name]:
                assert self.wished[name] or passes, f"{name} rose by itself: {state.reason}"

    async def settle(self) -> None:
        """Let the disk answer, and compare what it has with what lives."""
        plane = self.plane
        plane.disk.release()
        for worker in plane.workers:
            worker.wake()
        await plane.quiet()
        await asyncio.gather(*self.requests)
        await plane.quiet()
        for name, state in self.states().items():
            assert not plane.waits(name)
            if state.phase is not Phase.IDLE and not plane.disk.broken:
                assert plane.journaled(name) == state
        for worker in plane.workers:
            await eventually(lambda w=worker: w.epoch == plane.controller.route("a").epoch, "the workers know")
            epochs = [table.epoch for table in worker.tables]
            assert epochs == sorted(epochs)
            assert {name: worker.weight_bp(name) for name in self.names} == self.weights()


@pytest.mark.parametrize("seed", range(2))
async def test_whatever_happens(tmp_path: Path, seed: int) -> None:
    async with Plane(tmp_path, text("a", "b")) as plane:
        world = Conditions(plane, seed)
        passes = 0
        try:
            for moment in range(STEPS):
                before, weights = world.states(), world.weights()
                restarted = await world.something()
                passes = sum(n for (_, verdict), n in plane.controller.verdict_counts().items() if verdict == "PASS")
                if not restarted:
                    world.check(before, weights, passes)
                if moment % 30 == 29:
                    await world.settle()
            await world.settle()
        except Exception as error:
            error.add_note("\n".join([f"seed {seed}", *world.log]))
            raise

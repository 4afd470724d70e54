"""A scripted rollout that dies at every await: before each single step of each of its tasks, one life for each.

What comes back must be no more than what was in force, must have every decision that gave the canary more and was
answered, and must replay to what lives. The simulation's own checks (world.py) run on in every life.

SIM_CRASH_STRIDE=1 pytest -s tests/sim/test_crashes.py     every await (the test command takes every n-th)
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from gateway.config.load import load
from gateway.config.schema import GatewayConfig
from gateway.core.errors import GatewayError
from gateway.core.rollout import Phase
from tests.sim.world import World
from tests.support.virtual import VirtualLoop

# As many as the test command has time for.
STRIDE = int(os.environ.get("SIM_CRASH_STRIDE", "4"))
PLAN = """
workers: 2
backends: {v1: &probed {endpoints: ["http://127.0.0.1:9"], probe: null}, v2: *probed, v3: *probed}
routes:
  - &route
    name: a
    match: {path_prefix: /a}
    stable: v1
    canary: v2
    analysis: {latency: {mode: "off"}}
    plan: {steps: [&step {percent: 20, min_time_s: 0, min_requests: 0}, {<<: *step, percent: 50}]}
  - {<<: *route, name: b, match: {path_prefix: /b}, stable: null}
"""


class Crash(SystemExit):
    """kill -9, as far as a process can do that to itself and go on."""


class MortalLoop(VirtualLoop):
    """Counts the callbacks that it runs, and dies before the one with the number ``dies_at``."""

    dies_at: int | None = None
    turns = 0

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Any = None) -> asyncio.Handle:  # type: ignore[override]  # typeshed wants unpacked type variables
        """As asyncio's, and dies before the chosen callback."""

        def turn(*arguments: Any) -> None:
            self.turns += 1
            if self.turns == self.dies_at:
                super(MortalLoop, self).call_soon(callback, *arguments, context=context)
                raise Crash
            callback(*arguments)

        return super().call_soon(turn, *args, context=context)

    def die(self) -> None:
        """Whatever was about to run finds its task cancelled."""
        for task in asyncio.all_tasks(self):
            task.cancel()


class Script(World):
    """A rollout with every kind of decision in it; keeps what was answered."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.answered_states: dict[str, int] = {}
        super().__init__(directory, 1, lambda made: patch.setattr("gateway.control.journal.writer.DiskThread", made))
        self.empty = "b"

    def configured(self, canary: str = "v2") -> GatewayConfig:
        """The one above."""
        self.file.write_text(PLAN)
        return load(self.file, environ={})

    async def command(self, command: Callable[[], Awaitable[Any]], *, more: bool) -> str:
        """Grant it; a refusal is as good an answer as any."""
        try:
            view = await command()
        except GatewayError as refusal:
            self.log.append(str(refusal))
            return ""
        if more:
            self.answered_states[view.id] = view.revision
        rollout_id: str = view.id
        return rollout_id

    async def evidence(self, *, bad: bool = False) -> None:
        """Everybody serves, and the controller looks."""
        for worker in self.workers:
            for name in ("a", "b"):
                tally = worker.tallies[name]
                canary = 12_000 * worker.weight_bp(name) // 10_000
                worker.serve(12_000 - canary, canary, canary if bad else 0, name)
                tally.arms[0].assigned += 12_000 - canary
                tally.arms[1].assigned += canary
            worker.send_report()
        await asyncio.sleep(0.5)
        self.control.tick()
        await asyncio.sleep(0.2)

    async def play(self) -> None:
        """All of it."""
        await self.begin()
        control, command = self.control, self.command
        rollout = await command(lambda: control.commands.start("a", "alice"), more=True)
        await self.evidence()
        await command(lambda: control.commands.pause(rollout, "bob"), more=False)
        await command(lambda: control.commands.resume(rollout, "bob"), more=False)
        await control.commands.set_weight("a", 1000, "bob")
        await command(lambda: control.commands.resume(rollout, "bob"), more=True)
        await asyncio.gather(
            command(lambda: control.commands.promote(rollout, "carol"), more=False),
            command(lambda: control.commands.abort(rollout, "dave"), more=False),
        )
        again = await command(lambda: control.commands.start("a", "alice", retry=True), more=True)
        await command(lambda: control.commands.promote(again, "carol"), more=True)
        await command(lambda: control.commands.abort(again, "dave"), more=False)
        await command(lambda: control.commands.start("b", "alice"), more=True)
        await command(lambda: control.commands.start("a", "alice", retry=True), more=True)
        for _ in range(8):
            await self.evidence(bad=True)
        await control.commands.set_weight("a", 700, "erin")
        await control.commands.set_weight("a", 0, "erin")
        await self.settle()


def lived(main: Coroutine[Any, Any, None], loop: MortalLoop) -> bool:
    """Whether it came to its end."""
    try:
        loop.run_until_complete(main)
    except Crash:
        loop.die()
        return False
    return True


def life(directory: Path, patch: pytest.MonkeyPatch, dies_at: int | None) -> int:
    """Play the script and die at that callback; come back and compare. Returns how many callbacks there were."""
    loop = MortalLoop()
    world = Script(directory, patch)
    try:
        loop.dies_at = dies_at
        ended = lived(world.play(), loop)
        turns, loop.dies_at = loop.turns, None
        assert ended is (dies_at is None), "the script is the same in every life"
        if not ended:
            loop.run_until_complete(back(world, dies_at or 0))
        loop.run_until_complete(world.kill())
    except BaseException as error:
        error.add_note("\n".join([*world.log[-20:], f"died at callback {dies_at}"]))
        raise
    finally:
        loop.close()
    return turns


async def back(world: Script, dies_at: int) -> None:
    """Another control plane takes over: all workers live, or one, or none."""
    in_force = {name: route.weight_bp for name, route in world.served.items()}
    # A death in the middle of the recovery has served nothing yet.
    live = [worker.weight_bp("a") for worker in world.workers if worker.table is not None]
    recovering = world.recovering or not in_force
    if hasattr(world, "control"):
        await world.kill()
    for index in range(dies_at % 3):
        world.workers[index] = world.born(index)
    world.epochs = max((worker.epoch for worker in world.workers), default=0)
    await world.begin()
    for rollout_id, revision in world.answered_states.items():
        journaled = world.journal.events(rollout_id)
        assert len(journaled) >= revision, f"{rollout_id}: an answered decision is lost"
    if dies_at % 3 == 0 and not recovering:
        weight_bp = world.control._publisher.weight_bp("a")
        assert weight_bp <= max([in_force["a"], *live]), "a restart gives no more"
    aborted = [r for r in world.journal.rollouts("a") if r.phase is Phase.ROLLED_BACK]
    assert all(rollout.weight_bp == 0 for rollout in aborted)
    await world.settle()


def test_whatever_await_it_dies_at_nothing_is_lost_and_nothing_rises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("gateway.control"), "disabled", True)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as directory:
        whole = Path(directory) / "whole"
        whole.mkdir()
        turns = life(whole, monkeypatch, None)
        assert turns > 200, "it is a long script"
        points = range(1, turns, STRIDE)
        for number in points:
            place = Path(directory) / str(number)
            place.mkdir()
            life(place, monkeypatch, number)
    print(f"{len(points)} crash points of {turns}")

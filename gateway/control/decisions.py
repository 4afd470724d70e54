"""The way of one event: through the rollout machine, into the journal, out to the workers, in the order that is safe.

Rules:

1. Less exposure for the canary (or as much): applied at once, journaled after, and nobody waits for the disk.
2. More exposure: journaled first, then applied. One at a time per route; what wants more too waits for its turn.
3. An event meets the state that was decided last, also one that still waits for the journal. So the journal's order is
   the order of decisions, and folding it through `step` gives the same states.
4. What is decided meanwhile overtakes what waits: when the journal answers at last, the greater exposure is not applied
   if a rollback (or anything else) has taken its place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from gateway.control.events import EventLog
from gateway.control.executor import Executor
from gateway.control.records import Records
from gateway.control.routes import RouteState
from gateway.control.scribe import Scribe
from gateway.core.analysis import Analysis, Verdict
from gateway.core.errors import ConflictError, GatewayError
from gateway.core.rollout import (
    AUTOMATION,
    AbortWished,
    Analysed,
    Command,
    Event,
    Notify,
    Phase,
    Rollout,
    SetWeight,
    Started,
    step,
)
from gateway.core.rollout.machine import raises_exposure
from gateway.runtime.clock import Clock

_log = logging.getLogger("gateway.control")


class Decisions:
    """Carries out events. Only `wish` and `weigh` wait: for the journal where they must, and for the workers."""

    def __init__(self, clock: Clock, scribe: Scribe, executor: Executor, records: Records, events: EventLog) -> None:
        self._clock = clock
        self._scribe = scribe
        self._executor = executor
        self._records = records
        self._events = events
        self._tasks: set[asyncio.Task[None]] = set()

    def hear(self, route: RouteState, event: Analysed, analysis: Analysis) -> None:
        """The evidence was judged. Never waits."""
        heard: Event = event
        if event.verdict is Verdict.FAIL and route.decided.phase is Phase.PROMOTED:
            # A promotion waits for the disk while the canary fails. The machine's way back from there is an abort.
            heard = AbortWished(event.at_s, AUTOMATION, event.reason)
        if self._at_once(route, heard, analysis) or route.turn.locked() or self._scribe.refusal is not None:
            return
        self._spawn(self._in_turn(route, lambda: heard, analysis))

    async def wish(self, route: RouteState, make: Callable[[], Event]) -> None:
        """Grant a wish, made when its turn has come; returns when the workers know.

        Raises TransitionError, JournalError (nothing was done), ConflictError (something else was decided meanwhile).
        """
        event = make()
        analysis = None if isinstance(event, Started) else route.analysis
        if not self._at_once(route, event, analysis):
            # Shielded: when whoever asked has gone, the journal and the table must agree all the same.
            await asyncio.shield(self._spawn(self._in_turn(route, make, analysis)))
        await self._executor.settled()

    async def weigh(self, route: RouteState, weight_bp: int, by: str) -> None:
        """Set the weight of a route without a rollout; returns when the workers know. Raises as `wish` does."""
        if weight_bp <= self._executor.weight_bp(route.name):
            route.lowered_by_hand += 1
            self._executor.set_weight(route.name, weight_bp)
            self.keep_weight(route, weight_bp, by)
        else:
            await asyncio.shield(self._spawn(self._weigh_in_turn(route, weight_bp, by, route.lowered_by_hand)))
        await self._executor.settled()

    def restart(self, route: RouteState, event: Event) -> str | None:
        """Tell the machine that the control plane came back; the first table publishes what follows.

        Returns what to announce then, None when nothing changed.
        """
        new, commands = step(route.rollout, event)
        if new is route.rollout:
            return None
        route.rollout = route.decided = new
        self._journal(event, new, None)
        return next((c.kind for c in commands if isinstance(c, Notify)), None)

    def keep_weight(self, route: RouteState, weight_bp: int, by: str) -> asyncio.Future[Any]:
        """Journal a weight set by hand."""
        stable, canary, wall_s = route.config.stable, route.config.canary or "", self._clock.wall_s()
        return self._scribe.write(lambda journal: journal.set_weight(route.name, stable, canary, weight_bp, by, wall_s))

    def retire(self, rollout: Rollout, event: Event) -> None:
        """Journal the end of a rollout whose route is not served any more."""
        new, _ = step(rollout, event)
        self._journal(event, new, None)

    # less

    def _at_once(self, route: RouteState, event: Event, analysis: Analysis | None) -> bool:
        """Apply the event, unless it wants more exposure: then nothing is done and the answer is False."""
        new, commands = step(route.decided, event)
        if new is route.decided:
            return True
        if raises_exposure(route.rollout, new):
            return False
        self._apply(route, new, commands)
        self._journal(event, new, analysis)
        self._tell(route, commands)
        return True

    def _journal(self, event: Event, new: Rollout, analysis: Analysis | None) -> None:
        self._records.put(new, analysis, self._clock.wall_s())
        self._append(event, new, analysis)

    # more

    async def _in_turn(self, route: RouteState, make: Callable[[], Event], analysis: Analysis | None) -> None:
        async with route.turn:
            event = make()
            if self._at_once(route, event, analysis):
                return
            new, commands = step(route.decided, event)
            route.decided = new
            try:
                await self._append(event, new, analysis)
            except BaseException:
                if route.decided is new:
                    route.decided = route.rollout
                raise
            if route.decided is not new:
                raise ConflictError(f"overtaken while it was being journaled: {route.decided.reason}")
            self._records.put(new, analysis, self._clock.wall_s())
            self._apply(route, new, commands)
            self._tell(route, commands)

    async def _weigh_in_turn(self, route: RouteState, weight_bp: int, by: str, lowered: int) -> None:
        async with route.turn:
            if route.deciding:
                raise ConflictError(f"a rollout was started on route {route.name} meanwhile: {route.decided.reason}")
            await self.keep_weight(route, weight_bp, by)
            if route.lowered_by_hand != lowered:
                raise ConflictError(f"the weight of route {route.name} was lowered meanwhile")
            self._executor.set_weight(route.name, weight_bp)

    def _append(self, event: Event, new: Rollout, analysis: Analysis | None) -> asyncio.Future[Any]:
        wall_s = self._clock.wall_s()
        return self._scribe.write(lambda journal: journal.append(new.rollout_id, event, new, analysis, wall_s))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        # A wish's errors are told to whoever wished, a failing journal is an alarm of the scribe's.
        if not isinstance(error, GatewayError):
            _log.error("a decision failed", exc_info=error)

    # both

    def _apply(self, route: RouteState, new: Rollout, commands: tuple[Command, ...]) -> None:
        if new.rollout_id != route.rollout.rollout_id:
            route.begin(self._executor.table.epoch + 1)
        route.rollout = route.decided = new
        for command in commands:
            if isinstance(command, SetWeight):
                self._executor.set_weight(command.route, command.weight_bp)

    def _tell(self, route: RouteState, commands: tuple[Command, ...]) -> None:
        for command in commands:
            if isinstance(command, Notify):
                self.announce(route, command.kind)

    def announce(self, route: RouteState, kind: str) -> None:
        """Tell the world about the route's rollout."""
        view = route.view(self._records.get(route.rollout.rollout_id))
        if kind != "analysis":
            _log.warning("rollout %s %s: %s", view.id, kind, view.reason)
        self._events.publish(kind, msgspec.to_builtins(view), route=route.name, rollout_id=view.id)

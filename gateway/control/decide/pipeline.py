"""The pipeline of one decision: through the rollout machine, into the journal, out to the workers, in a safe order.

Rules:

1. Less exposure for the canary (or as much): applied at once, journaled after, and nothing waits for the disk.
2. More exposure: journaled first, then applied. One at a time per route; what wants more too waits for its turn.
3. An event meets the state that was decided last, also one that still waits for the journal. So the journal's order is
   the order of decisions, and folding it through `step` gives the same states.
4. More exposure that the journal has not taken in `JOURNAL_WAIT_S` is given up: the weight stays, and whatever becomes
   of the write, a `JournalTimedOut` follows it. A command gets an error, and the rollout is paused; a step of
   automation (or of a gate's answer) is taken back, and tried again when the disk answers and the floor has passed once
   more.
5. What is decided meanwhile overtakes what waits: when the journal answers at last, the greater exposure is not applied
   if a rollback (or anything else) has taken its place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from gateway.control.decide import rollout_records
from gateway.control.decide.evidence_series import SeriesLog
from gateway.control.decide.rollout_records import RolloutRecords
from gateway.control.decide.routes import PendingIncrease, RouteState
from gateway.control.events import EventLog
from gateway.control.journal.rows import Roles
from gateway.control.journal.writer import JournalWriter
from gateway.control.workers.table_publisher import RouteAssignment, TablePublisher
from gateway.core.analysis import Analysis, Look, Verdict
from gateway.core.errors import ConflictError, GatewayError, JournalError
from gateway.core.rollout import (
    AUTOMATION,
    AbortRequested,
    Analysed,
    Command,
    Event,
    GateAnswered,
    JournalTimedOut,
    Notify,
    PauseRequested,
    Phase,
    Rollout,
    SetWeight,
    Started,
    SwapRoles,
    Ticked,
    Withdrawn,
    raises_exposure,
    step,
)
from gateway.runtime.clock import Clock

_log = logging.getLogger("gateway.control")
# Several times as long as a busy disk takes.
JOURNAL_WAIT_S = 5.0


_HANGING = f"the journal's disk did not answer in {JOURNAL_WAIT_S:g} s, and more exposure must be journaled first:"
# The middle of a rollout that has come to twice as many decisions goes; hooks are owed no more than these
# (hooks/outbox.py).
DECISIONS_KEPT = 1000


class _GivenUpError(JournalError):
    """The journal did not answer in time."""


class DecisionPipeline:
    """Carries out events. Only `execute` and `set_weight` wait: for workers, and for the journal where they must."""

    def __init__(
        self,
        clock: Clock,
        journal_writer: JournalWriter,
        publisher: TablePublisher,
        records: RolloutRecords,
        events: EventLog,
    ) -> None:
        self._clock = clock
        self._journal_writer = journal_writer
        self._publisher = publisher
        self._records = records
        self._events = events
        self.series = SeriesLog()
        self._tasks: set[asyncio.Task[None]] = set()

    def on_analysis(self, route: RouteState, analysed: Analysed, look: Look) -> None:
        """The evidence was judged. Never waits."""
        event: Event = analysed
        if analysed.verdict is Verdict.FAIL and route.decided.phase is Phase.PROMOTED:
            # A promotion waits for the disk while the canary fails. The machine's way back from there is an abort.
            event = AbortRequested(analysed.at_s, AUTOMATION, analysed.reason)
        if self._at_once(route, event, look) or route.turn.locked():
            return
        if self._journal_writer.takes_more:
            self._spawn(self._in_turn(route, lambda: event, look, self._pending(route)))

    def on_time_passed(self, route: RouteState, now_s: float) -> None:
        """Time has passed in which nothing could be judged. Never waits."""
        self._at_once(route, Ticked(now_s), None)

    def on_no_verdict(self, route: RouteState, analysed: Analysed) -> None:
        """There is no verdict for now; deadlines go on, and nothing gives the canary more. Never waits."""
        self._at_once(route, analysed, route.look)

    def give_up(self, route: RouteState, now_s: float) -> None:
        """Give up what waits too long for the journal. Called with every tick; never waits."""
        for pending in route.pending:
            if now_s - pending.since_s >= JOURNAL_WAIT_S and not pending.given_up.done():
                pending.given_up.set_result(None)

    async def execute(self, route: RouteState, make: Callable[[], Event]) -> None:
        """Carry out a command, whose event is made when its turn has come; returns when the workers know.

        Raises TransitionError, JournalError (nothing was done), ConflictError (something else was decided meanwhile).
        """
        event = make()
        look = None if isinstance(event, Started) else route.look
        if not self._at_once(route, event, look):
            # Shielded: if the caller is cancelled, the journal and the table must agree all the same.
            self._check_disk_responds()
            await asyncio.shield(self._spawn(self._in_turn(route, make, look, self._pending(route))))
        await self._publisher.settled()

    async def set_weight(self, route: RouteState, weight_bp: int, by: str) -> None:
        """Set the weight of a route without a rollout; returns when the workers know. Raises as `execute` does."""
        if weight_bp <= self._publisher.weight_bp(route.name):
            route.lowered_by_hand += 1
            self._publisher.set_weight(route.name, weight_bp)
            self.keep_weight(route, weight_bp, by)
        else:
            self._check_disk_responds()
            lowered, pending = route.lowered_by_hand, self._pending(route)
            await asyncio.shield(self._spawn(self._set_weight_in_turn(route, weight_bp, by, lowered, pending)))
        await self._publisher.settled()

    def restart(self, route: RouteState, event: Event) -> str | None:
        """Apply the restart of the control plane to the rollout; the first table publishes what follows.

        Returns what to announce then, None when nothing changed.
        """
        new, commands = step(route.rollout, event)
        if new is route.rollout:
            return None
        route.rollout = route.decided = new
        if any(isinstance(command, SwapRoles) for command in commands):
            route.promoted = _roles(route, new, self._clock.wall_s())
        self._journal(route.configured, event, new, None)
        return next((c.kind for c in commands if isinstance(c, Notify)), None)

    def keep_weight(self, route: RouteState, weight_bp: int, by: str, *, first: bool = False) -> asyncio.Future[Any]:
        """Journal a weight set by hand; ``first``: before it is in force."""
        stable, canary, wall_s = route.stable, route.canary or "", self._clock.wall_s()
        return self._journal_writer.write(
            lambda journal: journal.set_weight(route.name, stable, canary, weight_bp, by, wall_s), first=first
        )

    def withdraw(self, route: RouteState, by: str, reason: str) -> None:
        """End the route's rollout, whose object is gone. Never waits."""
        if route.deciding:
            self._at_once(route, Withdrawn(self._clock.monotonic_s(), by, reason), None)

    def retire(self, rollout: Rollout, event: Event) -> None:
        """Journal the end of a rollout whose route is not served any more."""
        new, _ = step(rollout, event)
        self._journal(None, event, new, None)

    # less

    def _at_once(self, route: RouteState, event: Event, look: Look | None) -> bool:
        """Apply the event, unless it wants more exposure: then nothing is done and the answer is False."""
        new, commands = step(route.decided, event)
        if new is route.decided:
            return True
        waits = route.decided is not route.rollout
        if waits and new.phase is Phase.RETURNING and new.weight_bp >= route.rollout.weight_bp:
            # What it returns from never came into force, so that the way back begins at what did.
            self._take_back(route, "it was rolled back before it was journaled")
            new, commands = step(route.decided, event)
            if new is route.decided:
                return True
        if raises_exposure(route.rollout, new):
            if not isinstance(event, PauseRequested) or not waits or new.revision <= 2:
                return False
            # What is to be held is what is in force, not what was about to be.
            self._take_back(route, new.reason)
            return True
        self._apply(route, new, commands)
        self._journal(route.configured, event, new, None if look is None else look.analysis)
        self._announce_all(route, commands)
        return True

    def _journal(self, configured: str | None, event: Event, new: Rollout, analysis: Analysis | None) -> None:
        self._records.put(new, analysis, self._clock.wall_s())
        self._note_place(event, new, self._append(configured, event, new, analysis))

    # more

    async def _in_turn(
        self,
        route: RouteState,
        make: Callable[[], Event],
        look: Look | None,
        pending: PendingIncrease,
    ) -> None:
        async with self._turn(route, pending):
            event = make()
            if self._at_once(route, event, look):
                return
            new, commands = step(route.decided, event)
            analysis = None if look is None else look.analysis
            before, route.decided = route.rollout, new
            try:
                written = self._append(route.configured, event, new, analysis, first=True)
                await _until(written, pending)
            except _GivenUpError:
                if route.decided is new:
                    why = f"the journal's disk did not answer in {JOURNAL_WAIT_S:g} s"
                    self._take_back(route, why, before if isinstance(event, Analysed | GateAnswered) else None)
                raise
            except BaseException:
                if route.decided is new:
                    route.decided = route.rollout
                raise
            if route.decided is not new:
                raise ConflictError(f"superseded while it was being journaled: {route.decided.reason}")
            self._records.put(new, analysis, self._clock.wall_s())
            self._note_place(event, new, written)
            self._apply(route, new, commands)
            self._announce_all(route, commands)
            if isinstance(event, Started):
                self._journal_writer.write(lambda journal: journal.prune(rollout_records.ROLLOUTS_KEPT))

    def _pending(self, route: RouteState) -> PendingIncrease:
        return PendingIncrease(self._clock.monotonic_s(), asyncio.get_running_loop().create_future())

    @asynccontextmanager
    async def _turn(self, route: RouteState, pending: PendingIncrease) -> AsyncIterator[None]:
        """The route's turn; it is waited for only as long as for the journal. Raises _GivenUpError."""
        route.pending.add(pending)
        turn = asyncio.ensure_future(route.turn.acquire())
        try:
            await _until(turn, pending)
            yield
        finally:
            route.pending.discard(pending)
            if not turn.cancel() and not turn.cancelled():
                route.turn.release()

    def _take_back(self, route: RouteState, why: str, before: Rollout | None = None) -> None:
        """The journal may yet take in what was decided; what follows it there says that it never came into force."""
        live_bp = min(self._publisher.weight_bp(route.name), route.decided.weight_bp)
        timed_out = JournalTimedOut(self._clock.monotonic_s(), live_bp, why, before, route.canary_requests)
        self._at_once(route, timed_out, None)

    def _check_disk_responds(self) -> None:
        if self._journal_writer.hangs:
            raise JournalError(f"{_HANGING} nothing was changed")

    async def _set_weight_in_turn(
        self, route: RouteState, weight_bp: int, by: str, lowered: int, pending: PendingIncrease
    ) -> None:
        meant_for = (route.stable, route.canary)
        async with self._turn(route, pending):
            if route.deciding:
                raise ConflictError(f"a rollout was started on route {route.name} meanwhile: {route.decided.reason}")
            try:
                await _until(self.keep_weight(route, weight_bp, by, first=True), pending)
            except _GivenUpError:
                self.keep_weight(route, self._publisher.weight_bp(route.name), AUTOMATION)
                raise
            if (route.stable, route.canary) != meant_for:
                raise ConflictError(f"the backends of route {route.name} were changed meanwhile")
            if route.lowered_by_hand != lowered:
                raise ConflictError(f"the weight of route {route.name} was lowered meanwhile")
            self._publisher.set_weight(route.name, weight_bp)

    def _append(
        self,
        configured: str | None,
        event: Event,
        new: Rollout,
        analysis: Analysis | None,
        *,
        first: bool = False,
    ) -> asyncio.Future[Any]:
        wall_s = self._clock.wall_s()
        written = self._journal_writer.write(
            lambda journal: journal.append(new.rollout_id, event, new, analysis, wall_s, configured), first=first
        )
        if new.revision % DECISIONS_KEPT == 0:
            self._journal_writer.write(lambda journal: journal.shorten(new.rollout_id, DECISIONS_KEPT))
        return written

    def _note_place(self, event: Event, new: Rollout, written: asyncio.Future[Any]) -> None:
        """Once its start is journaled, the place of a rollout in the journal is known."""

        def note(done: asyncio.Future[Any]) -> None:
            if not done.cancelled() and done.exception() is None:
                self._records.note_place(new.rollout_id, done.result())

        if isinstance(event, Started):
            written.add_done_callback(note)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        # The errors of a command go to its caller; a failing journal is an alarm of the journal writer's.
        if not isinstance(error, GatewayError):
            _log.error("a decision could not be carried out", exc_info=error)

    # both

    def _apply(self, route: RouteState, new: Rollout, commands: tuple[Command, ...]) -> None:
        old = route.rollout
        warming = (old.phase is Phase.WARMING) != (new.phase is Phase.WARMING)
        mirroring = (old.mirror is None) != (new.mirror is None) and new.phase.active
        if new.rollout_id != old.rollout_id or warming or mirroring:
            # What came before a rollout, or while its canary was mirrored or warmed up, is no evidence of the climb.
            route.begin(self._publisher.table.epoch + 1, new)
        if new.phase is Phase.BAKING:
            route.bake(new.plan.bake_s)
        route.rollout = route.decided = new
        for command in commands:
            match command:
                case SetWeight():
                    self._publisher.set_weight(command.route, command.weight_bp, route.mirror)
                case SwapRoles():
                    route.promoted = _roles(route, new, self._clock.wall_s())
                    assignment = RouteAssignment(command.stable, command.canary, command.weight_bp, route.mirror)
                    self._publisher.swap_roles(command.route, assignment)

    def _announce_all(self, route: RouteState, commands: tuple[Command, ...]) -> None:
        for command in commands:
            if isinstance(command, Notify):
                self.announce(route, command.kind)

    def save_series(self, rollout_id: str, *, at_once: bool = False) -> None:
        """Journal a rollout's evidence over time, where that is due."""
        points = None
        if self._journal_writer.refusal is None:
            points = self.series.to_save(rollout_id, self._clock.wall_s(), at_once=at_once)
        if points is not None:
            self._journal_writer.write(lambda journal: journal.save_series(rollout_id, points))

    @property
    def watched(self) -> bool:
        """Whether somebody looks on, so that every analysis is worth announcing."""
        return self._events.watched

    def announce(self, route: RouteState, kind: str) -> None:
        """Publish the event of the route's rollout, and log it."""
        view = route.view(self._records.get(route.rollout.rollout_id))
        self.series.take(view, self._clock.wall_s(), decided=kind != "analysis")
        if not route.active:
            self.save_series(view.id)
        if kind != "analysis":
            _log.warning("rollout %s %s: %s", view.id, kind, view.reason)
        self._events.publish(kind, msgspec.to_builtins(view), route=route.name, rollout_id=view.id)


async def _until(work: asyncio.Future[Any], pending: PendingIncrease) -> None:
    """Wait for a turn or for the journal, not for ever. Raises what the work raises, or _GivenUpError."""
    await asyncio.wait({work, pending.given_up}, return_when=asyncio.FIRST_COMPLETED)
    if not work.done():
        raise _GivenUpError(f"{_HANGING} nothing was changed")
    await work


def _roles(route: RouteState, state: Rollout, wall_s: float) -> Roles | None:
    """The route's stable backend by its promotions, as the journal stores it."""
    configured = route.configured
    if state.swapped:
        return Roles(route.name, configured, state.canary, state.rollout_id, wall_s)
    return None if state.stable == configured else Roles(route.name, configured, state.stable, "", wall_s)

"""Hooks and gates at work beside a control plane: its events go out, the answers of gates come back.

Rules:

1. Transitions come from the control plane's stream of events, at the moment at which they stand.
2. At the start, what the journal has and a hook has not received is sent first. A hook that the journal does not know
   begins with the present: nobody wants the history of a gateway in a chat.
3. What an event of the journal was called (its kind) is not stored; the machine says it again when it is asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator

import msgspec

from gateway.config.admin import public_url
from gateway.config.schema import GatewayConfig
from gateway.control.controller import Controller
from gateway.control.decide.rollout_records import RolloutRecord
from gateway.control.journal.rows import JournalEntry
from gateway.control.journal.store import Journal
from gateway.control.views import ControlEvent, RolloutView
from gateway.core.errors import GatewayError
from gateway.core.rollout import NOTIFY_KINDS, Notify, Rollout, step
from gateway.hooks.build import build_gates, build_outbox
from gateway.hooks.counters import HookCounters
from gateway.hooks.envelope import Transition
from gateway.hooks.gates import GateKeeper
from gateway.hooks.outbox import Outbox
from gateway.runtime.clock import Clock, iso

_log = logging.getLogger("gateway.hooks")
_LOOK_S = 1.0


async def serve_hooks(
    controller: Controller, config: Callable[[], GatewayConfig], clock: Clock, counters: HookCounters
) -> None:
    """Run the hooks and gates of the configuration in force, for ever; ``config`` is asked whether it has changed."""
    await controller.recovered.wait()
    while True:
        built = config()
        task = asyncio.create_task(_service(controller, built, clock, counters).run())
        try:
            while not task.done() and (built.hooks, built.gates) == (config().hooks, config().gates):
                await asyncio.wait({task}, timeout=_LOOK_S)
            if task.done():
                # What notifies must not end what decides; it begins again with what it has not delivered.
                _log.error("hooks: the service failed and is restarted", exc_info=task.exception())
                await asyncio.sleep(_LOOK_S)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _service(controller: Controller, config: GatewayConfig, clock: Clock, counters: HookCounters) -> Service:
    async def remember(hook: str, sent: Transition) -> None:
        revision = sent.view.revision
        await controller.note_in_journal(lambda journal: journal.remember_delivery(hook, sent.view.id, revision))

    async def answer(rollout_id: str, gate: str, passed: bool, reason: str) -> None:
        await controller.commands.answer_gate(rollout_id, gate, passed, reason, f"gate {gate}")

    outbox = build_outbox(config.hooks, clock, remember, counters, links=public_url(config.admin))
    return Service(controller, outbox, GateKeeper(build_gates(config.gates), clock, answer, counters))


class Service:
    """Carries transitions to the outbox and waiting rollouts to the gate keeper."""

    def __init__(self, controller: Controller, outbox: Outbox, keeper: GateKeeper) -> None:
        self._controller = controller
        self._outbox = outbox
        self._keeper = keeper

    async def run(self) -> None:
        """Work for ever; the control plane must have recovered."""
        events = self._controller.decision_events()
        # Subscribed to before the journal is read, so that nothing falls between the two.
        first = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        try:
            caught_up = await self._catch_up()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._outbox.run())
                self._take(await first, caught_up)
                async for event in events:
                    self._take(event, caught_up)
        finally:
            first.cancel()
            self._keeper.stop()

    async def _catch_up(self) -> set[str]:
        """Post what hooks have missed; returns the ids of all that was in the journal."""
        for view in self._controller.rollouts():
            self._keeper.waits(view, view.gate)
        try:
            missed, seen = await self._controller.read_journal(lambda journal: _missed(journal, self._outbox.names))
        except GatewayError as error:
            _log.error("hooks: transitions from before this start are not sent: %s", error)
            return set()
        for hook, transition in missed:
            self._outbox.post(transition, only=hook)
        return seen

    def _take(self, event: ControlEvent, caught_up: set[str]) -> None:
        if event.kind not in NOTIFY_KINDS:
            return
        view = msgspec.convert(event.data, RolloutView)
        self._keeper.waits(view, view.gate)
        transition = Transition(f"{view.id}.{view.revision}", event.kind, event.at, view)
        if transition.id not in caught_up:
            self._outbox.post(transition)


def _missed(journal: Journal, hooks: Iterable[str]) -> tuple[list[tuple[str, Transition]], set[str]]:
    """For each hook what it has not received, oldest first, and the ids of all that the journal has. Blocks."""
    known = journal.deliveries()
    for hook in hooks:
        if hook not in known:
            journal.move_delivery(hook, journal.last_seq)
            known[hook] = journal.last_seq
    entries = journal.entries_after(min((known[hook] for hook in hooks), default=journal.last_seq))
    found = dict(_transitions(journal, entries))
    missed = [(hook, found[seq]) for hook in hooks for seq in sorted(found) if seq > known[hook]]
    return missed, {transition.id for transition in found.values()}


def _transitions(journal: Journal, entries: Iterable[JournalEntry]) -> Iterator[tuple[int, Transition]]:
    wanted = {entry.seq for entry in entries}
    for rollout_id in dict.fromkeys(entry.rollout_id for entry in entries):
        before = Rollout()
        entries_of = journal.events(rollout_id)
        for entry in entries_of:
            kind = _kind(before, entry)
            before = entry.state
            if kind is not None and entry.seq in wanted:
                record = RolloutRecord(entry.state, entry.analysis, entries_of[0].wall_time_s, entry.wall_time_s)
                view = record.view(entry.state, entry.analysis, None)
                name = f"{rollout_id}.{entry.state.revision}"
                yield entry.seq, Transition(name, kind, iso(entry.wall_time_s), view)


def _kind(before: Rollout, entry: JournalEntry) -> str | None:
    """The machine's name of this change; None when it publishes none, or no longer knows it."""
    try:
        _, commands = step(before, entry.event)
    except GatewayError:
        return None
    return next((command.kind for command in commands if isinstance(command, Notify)), None)

"""Gates: asking a URL whether a rollout that waits may go on.

Rules:

1. A gate is asked while a rollout waits for it, at once and then every ``interval_s``, and by one question at a time.
2. An answer of 2xx opens it, unless its JSON says ``{"passed": false}``: that is a final no, and the rollout is paused
   for a person to look at; ``{"passed": null}`` means "not yet". ``reason`` is shown with the decision.
3. Whatever else comes back, or nothing, means "not yet": a gate that is down holds and never lets pass. The step's or
   plan's deadline ends a wait that is too long.

The question is a CloudEvent of type `GATE_TYPE` with the gate's name and the rollout.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from gateway.control.views import RolloutView
from gateway.core.errors import GatewayError
from gateway.hooks.counters import HookCounters
from gateway.hooks.delivery import NotDeliveredError
from gateway.hooks.envelope import Message, Transition, gate_question
from gateway.runtime.clock import Clock, iso

_log = logging.getLogger("gateway.hooks")
_REASON_CHARS_MAX = 200


class Questioned(Protocol):
    """Where a gate's question goes (webhook.py)."""

    async def ask(self, message: Message) -> bytes:
        """The body of the 2xx answer. Raises NotDeliveredError."""


@dataclass(frozen=True)
class Gate:
    """A gate: whom to ask, and how often."""

    name: str
    webhook: Questioned
    interval_s: float


class GateAnswer(msgspec.Struct, frozen=True):
    """What a gate may say in the body of a 2xx answer."""

    passed: bool | None = True
    reason: str = ""


# rollout id, gate, whether it passed, reason
ReportAnswer = Callable[[str, str, bool, str], Awaitable[object]]


class GateKeeper:
    """Asks for every rollout that waits. ``report`` brings an answer to the rollout."""

    def __init__(
        self, gates: Iterable[Gate], clock: Clock, report: ReportAnswer, counters: HookCounters | None = None
    ) -> None:
        self._gates = {gate.name: gate for gate in gates}
        self._counters = counters or HookCounters()
        for name in self._gates:
            self._counters.gate(name)
        self._clock = clock
        self._report = report
        self._asking: dict[str, tuple[str, asyncio.Task[None]]] = {}

    def waits(self, view: RolloutView, gate: str) -> None:
        """The rollout stands like this now and waits for ``gate`` ("" for none). Never waits, never raises."""
        asked = self._asking.get(view.id)
        if asked is not None and (asked[0] != gate or asked[1].done()):
            asked[1].cancel()
            del self._asking[view.id]
            asked = None
        if asked is None and gate in self._gates:
            self._asking[view.id] = gate, asyncio.create_task(self._ask(self._gates[gate], view))

    def stop(self) -> None:
        """Ask no more."""
        for _, task in self._asking.values():
            task.cancel()
        self._asking.clear()

    async def _ask(self, gate: Gate, view: RolloutView) -> None:
        question = Transition(f"{view.id}.{view.revision}.{gate.name}", "gate", iso(self._clock.wall_s()), view)
        while True:
            answer = await self._answer(gate, question)
            if answer.passed is not None:
                try:
                    await self._report(view.id, gate.name, answer.passed, answer.reason)
                except GatewayError as error:  # it went on without us, or the journal does not answer: ask again later
                    _log.warning("gate %s: its answer for rollout %s was not accepted: %s", gate.name, view.id, error)
                else:
                    return
            await asyncio.sleep(gate.interval_s)

    async def _answer(self, gate: Gate, question: Transition) -> GateAnswer:
        totals = self._counters.gate(gate.name)
        try:
            body = await gate.webhook.ask(gate_question(question, gate.name))
        except NotDeliveredError as error:
            totals.unreachable += 1
            _log.info("gate %s is closed for rollout %s: %s", gate.name, question.view.id, error)
            return GateAnswer(passed=None)
        answer = read_answer(body)
        totals.passed += answer.passed is True
        totals.refused += answer.passed is False
        totals.not_yet += answer.passed is None
        return answer


def read_answer(body: bytes) -> GateAnswer:
    """What the body of a 2xx answer says; one that is no JSON object with these keys says yes by its status alone."""
    try:
        answer = msgspec.json.decode(body, type=GateAnswer)
    except msgspec.ValidationError:
        # It is JSON and means to say something about passing that cannot be understood: that is not a yes.
        return GateAnswer(passed=None)
    except msgspec.DecodeError:
        return GateAnswer()
    return GateAnswer(answer.passed, "".join(c for c in answer.reason if c.isprintable())[:_REASON_CHARS_MAX])

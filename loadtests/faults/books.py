"""The books of a run: what became of each request, by its id, and which losses could not have been avoided.

An outcome is entered once; a second one is an error of the run. A request is *lost* when it did not get a whole answer
of its own, its client did not leave by itself, and none of these holds, which a direct connection would have met too:

1. The endpoint broke off its answer after it had begun, or rejected the request itself (the endpoint says so).
2. The worker that had the connection was killed: by the test, or by the supervisor because it stood still.
3. The client sent its body more slowly than is allowed (408).
4. A time-out, while clients that asked an endpoint directly waited for long as well: the machine is too busy.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from loadtests.faults.models import ModelActions

# What a client can see of a request.
ANSWERED, WRONG, CUT, RESET, NO_CONNECTION, LEFT, SILENCE = (
    *("answered", "wrong answer", "cut", "no answer", "no connection", "left", "silence"),
)
# A killed worker's clients learn of it when this process gets its turn; its log had lines in hand that went with it.
_LEARN_S = 2.0
# What is long for a direct client, whose answer takes milliseconds.
_WAITED_S = 1.0


@dataclass
class Call:
    """One request of a client."""

    id: str
    flow: str
    sent_s: float
    connected_s: float = 0.0
    ended_s: float = 0.0
    outcome: str = ""
    status: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Kill:
    """A worker that was killed at ``at_s``; it had stood still since ``since_s``."""

    since_s: float
    at_s: float


class Books:
    """Every request that was sent."""

    def __init__(self, actions: ModelActions) -> None:
        self.calls: dict[str, Call] = {}
        self.kills: list[Kill] = []
        self.wrongs: list[str] = []
        self._actions = actions

    def open(self, flow: str, now_s: float) -> Call:
        """A request is about to be sent."""
        call = Call(f"{flow}-{len(self.calls)}", flow, now_s)
        self.calls[call.id] = call
        return call

    def close(self, call: Call, outcome: str, now_s: float, *, status: int = 0, reason: str = "") -> None:
        """What became of it."""
        if call.outcome:
            self.wrongs.append(f"{call.id} had two outcomes: {call.outcome}, {outcome}")
        call.outcome, call.ended_s, call.status, call.reason = outcome, now_s, status, reason

    def good(self, call: Call) -> bool:
        """A whole answer of its own, by a version that ought to have given it."""
        return call.outcome == ANSWERED and call.status == 200

    def excuse(self, call: Call) -> str:
        """Why the outcome is not the gateway's doing; empty when it is good or lost."""
        if call.outcome == LEFT:
            return "its client left"
        if call.outcome == ANSWERED:
            if call.status == 413 and call.id in self._actions.rejected:
                return "rejected by the endpoint itself"
            if call.status == 504 and self._all_waited(call):
                return "direct clients waited as well"
            return "its client was too slow" if call.status == 408 and call.flow == "slow" else ""
        if call.outcome == CUT and call.id in self._actions.cut:
            return "the endpoint broke off its answer"
        if call.outcome in (CUT, RESET) and self._killed(call):
            return "its worker was killed"
        return ""

    def _killed(self, call: Call) -> bool:
        # When a connection was made is known a moment late; it was not made before its request was sent.
        begun_s = min(call.sent_s, call.connected_s)
        return any(begun_s <= kill.at_s and call.ended_s >= kill.since_s - 0.01 for kill in self.kills)

    def _all_waited(self, call: Call) -> bool:
        return any(
            other.ended_s - other.sent_s > _WAITED_S
            for other in self.between(call.sent_s, call.ended_s, "direct")
            if other.outcome
        )

    def lost(self, calls: Iterable[Call]) -> list[Call]:
        """Those that were lost without need."""
        return [call for call in calls if not self.good(call) and not self.excuse(call)]

    def between(self, begin_s: float, end_s: float, *flows: str) -> list[Call]:
        """The requests that were under way in this time."""
        return [
            call
            for call in self.calls.values()
            if call.flow in flows and call.sent_s <= end_s and (call.ended_s >= begin_s or not call.outcome)
        ]

    def statuses(self) -> tuple[collections.Counter[str], int]:
        """The answers that came through the gateway by status, and how many clients left."""
        through = [call for call in self.calls.values() if call.flow != "direct"]
        answered = collections.Counter(str(call.status) for call in through if call.outcome == ANSWERED)
        return answered, sum(call.outcome in (LEFT, CUT) for call in through)

    def check(self, log: Path) -> None:
        """Every request has its one outcome, and the access log the same of it, in one line."""
        for call in self.calls.values():
            if not call.outcome:
                self.wrongs.append(f"{call.id} has no outcome")
            elif call.outcome == WRONG:
                self.wrongs.append(f"{call.id} got an answer that is not its own: {call.reason}")
        lines: dict[str, list[int]] = collections.defaultdict(list)
        for row in log.read_bytes().splitlines():
            line = json.loads(row)
            lines[line["request_id"]].append(line["status"])
            # Of a client that had reset its connection before it was accepted nobody knows the address any more. So it
            # is not trusted with the id of its request either.
            if line["request_id"] not in self.calls and line["client"]:
                self.wrongs.append(f"the access log has a request that nobody sent: {row.decode()}")
        for call in self.calls.values():
            if call.flow != "direct" and not self._log_was_lost(call):
                self._check_line(call, lines[call.id])

    def _check_line(self, call: Call, found: list[int]) -> None:
        wanted = [[call.status]] if call.outcome == ANSWERED else []
        if call.outcome == LEFT:  # who resets a connection cannot know how far the request has come
            wanted = [[], *([status] for status in found)]
        elif call.outcome in (CUT, RESET, SILENCE, NO_CONNECTION):
            wanted = [[], [200], [499], [502], [503], [504]]
        if wanted and found not in wanted:
            self.wrongs.append(f"{call.id} ended as {call.outcome} {call.status}, the access log says {found}")

    def _log_was_lost(self, call: Call) -> bool:
        return any(kill.since_s - _LEARN_S <= call.ended_s <= kill.at_s + _LEARN_S for kill in self.kills)

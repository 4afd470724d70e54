"""The gateway's own policy on recorded traffic: its judge and its rollout machine, under the recorded time.

Rules:

1. Nothing is imitated: every interval is one tick of the judge on cumulative counts, and its verdict one event of the
   rollout machine, as the control plane does it.
2. A weight that differs from the one before begins a new epoch, as in the gateway. Epochs long gone leave the evidence,
   so that a recording whose weights change all the time takes no more memory than another.
3. The machine advances by its verdicts while the recorded weights stand: "advanced" is what the gateway would
   have done, on the traffic that there was.
4. A metric that was not recorded does not decide (`spec_for`): missing counts prove nothing.
5. A plan with a bake keeps a part of alpha_rollback for it, and the bake is watched by its own tests. What is served
   while a canary warms up is no evidence. A rollback is decided when it begins, however slowly the weight falls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import msgspec

from gateway.core.analysis import AnalysisSpec, Evidence, Mode, Verdict, bake, budget, fresh_state, look
from gateway.core.analysis.spec import LATENCY_METRICS, RATE_METRICS
from gateway.core.rollout import Analysed, Notify, Phase, Plan, Rollout, Started, step
from gateway.core.rollout.steps import waiting_for
from gateway.core.stats.counts import Counts, EpochCounts, merge
from gateway.core.types import WEIGHT_BP_MAX, percent_from_weight_bp
from gateway.replay.intervals import DecisionKind, RecordedInterval, RuleDecision

METRICS = (*RATE_METRICS, "latency")
ROUTE = "recorded"
EPOCHS_KEPT = 64
# Looks at a time without traffic: so many, so far apart, see the end of a burst (`analysis.burst_s`).
QUIET_LOOKS, QUIET_S = 4, 0.25
_ROUNDING_S = 1e-6


class Policy(msgspec.Struct, frozen=True):
    """The settings of the gateway: its analysis and its plan."""

    spec: AnalysisSpec
    plan: Plan


class Entry(NamedTuple):
    """A line of the timeline: ``what`` is ``weight``, ``verdict`` or ``rollout``."""

    at_s: float
    what: str
    text: str


def spec_for(spec: AnalysisSpec, metrics: frozenset[str]) -> AnalysisSpec:
    """The spec, in which only recorded metrics decide; what recordings never hold is not looked at."""
    silent = {name: msgspec.structs.replace(getattr(spec, name), mode=Mode.ADVISE) for name in METRICS}
    unknown = [name for name in LATENCY_METRICS if name not in METRICS]
    absent = {name: msgspec.structs.replace(getattr(spec, name), mode=Mode.OFF) for name in unknown}
    return msgspec.structs.replace(
        spec,
        **{name: part for name, part in silent.items() if name not in metrics},
        **absent,
        events=(),
        guardrails=tuple(one for one in spec.guardrails if one.metric in metrics),
    )


def decide(
    intervals: Iterable[RecordedInterval], policy: Policy, note: Callable[[Entry], None] = lambda entry: None
) -> RuleDecision:
    """What the gateway decides, and when. ``note`` is called with every change; reads no further than the decision."""
    evidence = CumulativeEvidence()
    spec = budget.for_bake(policy.spec, policy.plan.bake_s)
    state, rollout = fresh_state(spec), Rollout()
    verdict: Verdict | None = None
    weight_bp: int | None = None
    stable = canary = 0
    for interval in looks(intervals):
        stable, canary = stable + interval.stable.requests, canary + interval.canary.requests
        if rollout.phase is Phase.IDLE:
            rollout, _ = step(
                rollout, Started("replay", ROUTE, "stable", "canary", policy.plan, interval.since_s, "replay")
            )
        if interval.weight_bp != weight_bp:
            weight_bp = interval.weight_bp
            note(Entry(interval.since_s, "weight", f"{percent_from_weight_bp(weight_bp):g} %"))
        evidence.add(interval)
        state, seen = look(spec, state, evidence.at(interval.at_s))
        if seen.verdict is not verdict:
            verdict = seen.verdict
            note(Entry(interval.at_s, "verdict", f"{verdict}: {seen.reason}"))
        event = Analysed(interval.at_s, verdict, seen.reason, seen.causes, seen.canary_requests)
        warming = rollout.phase is Phase.WARMING
        rollout, commands = step(rollout, event)
        for command in commands:
            if isinstance(command, Notify):
                note(Entry(interval.at_s, "rollout", command.reason))
        if warming and rollout.phase is not Phase.WARMING:
            evidence, state = CumulativeEvidence(), fresh_state(spec)
        if rollout.phase is Phase.BAKING and not state.baking:
            state = bake(state, policy.plan.bake_s)
        if rollout.phase.terminal or rollout.phase is Phase.RETURNING:
            kind = DecisionKind.PROMOTE if rollout.phase is Phase.PROMOTED else DecisionKind.ROLLBACK
            return RuleDecision(kind, interval.at_s, rollout.reason)
    if verdict is None:
        return RuleDecision(DecisionKind.UNDECIDED, None, "nothing was recorded")
    place = f"step {rollout.step_index + 1} of {len(policy.plan.steps)} when the recording ended"
    if canary and not stable:
        place = "stable has no requests in the recording"
    return _unfinished(rollout, event, place)


def _unfinished(rollout: Rollout, event: Analysed, place: str) -> RuleDecision:
    """Where a rollout stands that has not ended with the recording."""
    if rollout.phase is Phase.PAUSED:
        return RuleDecision(DecisionKind.HOLD, None, rollout.reason)
    if rollout.phase is Phase.WAITING:
        return RuleDecision(DecisionKind.HOLD, None, f"{waiting_for(rollout, event)}; {event.reason}")
    return RuleDecision(DecisionKind.UNDECIDED, None, f"{place}: {event.reason}")


def looks(intervals: Iterable[RecordedInterval]) -> Iterator[RecordedInterval]:
    """The intervals with empty ones in the gaps between them: the gateway looks while nothing comes, too.

    Without these the burst guard would take a quiet second for one without an analysis.
    """
    last: RecordedInterval | None = None
    for interval in intervals:
        if last is not None:
            since_s, gap_s = last.at_s, interval.since_s - last.at_s
            ends = [since_s + QUIET_S * n for n in range(1, QUIET_LOOKS + 1) if QUIET_S * n < gap_s]
            for at_s in [*ends, interval.since_s] if gap_s > _ROUNDING_S else []:
                yield RecordedInterval(since_s, at_s, last.weight_bp, Counts(), Counts())
                since_s = at_s
        yield interval
        last = interval


class CumulativeEvidence:
    """Intervals as the gateway counts them: cumulative, one entry for each weight that was in force."""

    def __init__(self) -> None:
        self._epochs: list[EpochCounts] = []
        self._epoch = 0
        self._weight_bp = -1
        self._outside = 0

    def add(self, interval: RecordedInterval) -> None:
        """Count one interval under its weight."""
        if interval.weight_bp != self._weight_bp:
            self._epoch += 1
            self._weight_bp = interval.weight_bp
            if 0 < interval.weight_bp < WEIGHT_BP_MAX:
                self._epochs = self._epochs[1 - EPOCHS_KEPT :]
                self._epochs.append(EpochCounts(ROUTE, self._epoch, interval.weight_bp))
        if 0 < interval.weight_bp < WEIGHT_BP_MAX:
            entry = self._epochs[-1]
            entry.stable = merge((entry.stable, interval.stable))
            entry.canary = merge((entry.canary, interval.canary))
        else:
            self._outside += interval.canary.requests

    def at(self, at_s: float) -> Evidence:
        """The evidence of this moment: only weights under which a coin was flipped."""
        return Evidence(at_s, tuple(self._epochs), outside=self._outside)

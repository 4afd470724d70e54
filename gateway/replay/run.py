"""One recording by every rule: who decided what, when, and what users were exposed to until then."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import msgspec

from gateway.core.analysis.bursts.guard import COARSE
from gateway.replay import policy as own
from gateway.replay.intervals import Meter, RuleDecision
from gateway.replay.policy import Entry, Policy
from gateway.replay.recording import Recording
from gateway.replay.rules import RULES

# A verdict that swings to and fro would fill any memory; its beginning and its total say enough.
ENTRIES_MAX = 200


class RuleResult(msgspec.Struct, frozen=True):
    """A rule's decision; ``after_s`` and the counts are from the recording's beginning to it (or to the end)."""

    rule: str
    decision: RuleDecision
    after_s: float
    requests: int
    canary_requests: int
    canary_errors: int
    canary_failures: int


class Totals(msgspec.Struct, frozen=True):
    """What the whole recording holds."""

    intervals: int
    since_s: float
    at_s: float
    stable_requests: int
    stable_errors: int
    canary_requests: int
    canary_errors: int


class ReplayResult(msgspec.Struct, frozen=True):
    """Everything that a replay says.

    ``title`` names the versions where the recording does; ``notes`` is what was skipped or adjusted in reading it.
    ``bursts_hidden``: the intervals are too long to see whether failures came together within ``burst_s``.
    """

    file: str
    title: str
    notes: tuple[str, ...]
    totals: Totals
    weighted: bool
    judged: tuple[str, ...]
    not_recorded: tuple[str, ...]
    bursts_hidden: bool
    policy: Policy
    timeline: tuple[Entry, ...]
    timeline_omitted: int
    outcomes: tuple[RuleResult, ...]


def run(file: str, recording: Recording, policy: Policy, beside: Mapping[str, msgspec.Struct]) -> ReplayResult:
    """Replay the recording by the gateway's policy and by the rules ``beside`` with their parameters.

    ``file`` is the recording's name for people, and printable.
    The recording is read to its end once, so that every error in it is found, and once more for each rule until it
    decides. Raises RecordingError.
    """
    unseen = tuple(event.name for event in policy.spec.events if event.decides)
    policy = Policy(own.spec_for(policy.spec, recording.metrics), policy.plan)
    entries: list[Entry] = []
    omitted = 0

    def note(entry: Entry) -> None:
        nonlocal omitted
        if len(entries) < ENTRIES_MAX or entry.what == "rollout":
            entries.append(entry)
        else:
            omitted += 1

    meter = Meter(recording.intervals())
    outcomes = [_outcome("gateway", own.decide(meter, policy, note), meter)]
    deque(meter, maxlen=0)
    totals = Totals(
        meter.intervals,
        meter.since_s,
        meter.at_s,
        meter.stable_requests,
        meter.stable_errors,
        meter.canary_requests,
        meter.canary_errors,
    )
    covered_s, notes = meter.covered_s, recording.notes
    for name, params in beside.items():
        meter = Meter(recording.intervals())
        outcomes.append(_outcome(name, RULES[name].decide(meter, params), meter))
    deciding = [name for name in own.METRICS if getattr(policy.spec, name).decides]
    return ReplayResult(
        file=file,
        title=recording.title,
        notes=notes,
        totals=totals,
        weighted=recording.weighted,
        judged=tuple(deciding),
        not_recorded=(*(name for name in own.METRICS if name not in recording.metrics), *unseen),
        bursts_hidden=0.0 < COARSE * policy.spec.burst_s < covered_s / totals.intervals,
        policy=policy,
        timeline=tuple(entries),
        timeline_omitted=omitted,
        outcomes=tuple(outcomes),
    )


def _outcome(rule: str, decision: RuleDecision, meter: Meter) -> RuleResult:
    requests = meter.stable_requests + meter.canary_requests
    after_s = meter.at_s - meter.since_s
    return RuleResult(
        rule, decision, after_s, requests, meter.canary_requests, meter.canary_errors, meter.canary_failures
    )

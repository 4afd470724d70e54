"""A replay as text for people and as JSON for machines."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

import msgspec

from gateway.config.errors import one_line
from gateway.core.analysis.bursts.guard import COARSE
from gateway.core.analysis.show.sentences import some
from gateway.core.numbers import percent
from gateway.core.types import percent_from_weight_bp
from gateway.replay.intervals import RuleDecision
from gateway.replay.run import ReplayResult, RuleResult

_HEADINGS = ("rule", "decision", "after", "requests", "canary", "bad let through")


def text(replays: Sequence[ReplayResult], width: int | None = None) -> str:
    """Each version's replay, one after the other, with what was split before them."""
    said = []
    if len(replays) > 1:
        titles = "; ".join(replay.title or "lines without a version" for replay in replays)
        split = f"{replays[0].file} holds {len(replays)} trials, each is judged by itself: {titles}"
        said.append("\n".join(_folded([split], width, 2)))
    return "\n\n".join([*said, *(_replay_text(replay, width) for replay in replays)])


def _replay_text(replay: ReplayResult, width: int | None) -> str:
    """The recording in a line or two, the timeline, the table of rules, and each rule's reason.

    Sentences are folded between words to ``width`` columns; None leaves them on one line each.
    """
    head, timeline, reasons = _head(replay), _timeline(replay), _reasons(replay)
    parts = (*_folded(head, width, 2), "", *_folded(timeline, width, 23), "", *_table(replay.outcomes), "")
    return "\n".join([*parts, *_folded(reasons, width, 2)])


def _folded(lines: Iterable[str], width: int | None, indent: int) -> Iterable[str]:
    for line in lines:
        if width is None:
            yield line
        else:
            # The narrowest that a sentence can be read in.
            columns = max(width, indent + 40)
            yield from textwrap.wrap(
                line, columns, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
            )


def json(replays: Sequence[ReplayResult]) -> str:
    """The same with all its numbers, as one JSON object; of several, each is one of its ``versions``."""
    bodies = [_body(replay) for replay in replays]
    body = bodies[0] if len(bodies) == 1 else {"file": replays[0].file, "split": bodies}
    return msgspec.json.format(msgspec.json.encode(body), indent=2).decode()


def _body(replay: ReplayResult) -> dict[str, object]:
    totals = msgspec.to_builtins(replay.totals)
    return {
        "file": replay.file,
        "versions": replay.title,
        "notes": replay.notes,
        "recording": totals | {"weights_recorded": replay.weighted},
        "judged": replay.judged,
        "not_recorded": replay.not_recorded,
        "bursts_hidden": replay.bursts_hidden,
        "alpha_rollback": replay.policy.spec.alpha_rollback,
        "alpha_promote": replay.policy.spec.alpha_promote,
        "plan": msgspec.to_builtins(replay.policy.plan),
        "timeline": [entry._asdict() for entry in replay.timeline],
        "timeline_omitted": replay.timeline_omitted,
        "outcomes": [msgspec.to_builtins(outcome) for outcome in replay.outcomes],
    }


def _head(replay: ReplayResult) -> Iterable[str]:
    totals, spec, plan = replay.totals, replay.policy.spec, replay.policy.plan
    titled = f"{replay.file}, {replay.title}" if replay.title else replay.file
    yield (
        f"{titled}: {totals.intervals} intervals over {totals.at_s - totals.since_s:g} s;"
        f" stable {_share(totals.stable_errors, totals.stable_requests)},"
        f" canary {_share(totals.canary_errors, totals.canary_requests)}"
    )
    judged = ", ".join(replay.judged) or "nothing"
    yield f"judged: {judged} (alpha_rollback {spec.alpha_rollback:g}, alpha_promote {spec.alpha_promote:g})" + (
        f"; not recorded: {some(replay.not_recorded)}" if replay.not_recorded else ""
    )
    steps = ", ".join(f"{percent_from_weight_bp(step.weight_bp):g}" for step in plan.steps)
    weights = "as recorded" if replay.weighted else "not recorded, inferred from each version's share of requests"
    yield f"plan: {steps} %, then 100 %; weights: {weights}"
    if replay.bursts_hidden:
        yield (
            f"bursts: not seen, the intervals are longer than {COARSE * spec.burst_s:g} s; failures that came together"
            " count one by one"
        )
    for note in replay.notes:
        yield f"read: {note}"


def _timeline(replay: ReplayResult) -> Iterable[str]:
    yield "timeline, in seconds of the recording"
    for entry in replay.timeline:
        yield f"{_time(entry.at_s):>12}  {entry.what:<7}  {one_line(entry.text)}"
    if replay.timeline_omitted:
        yield f"{'':>12}  and {replay.timeline_omitted} more changes"


def _table(outcomes: Sequence[RuleResult]) -> Iterable[str]:
    rows = [_HEADINGS, *(_row(outcome) for outcome in outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    for row in rows:
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _row(outcome: RuleResult) -> tuple[str, ...]:
    return (
        outcome.rule,
        outcome.decision.kind.value,
        "-" if outcome.decision.at_s is None else f"{outcome.after_s:g} s",
        f"{outcome.requests:,}",
        f"{outcome.canary_requests:,}",
        f"{outcome.canary_failures:,}",
    )


def _reasons(replay: ReplayResult) -> Iterable[str]:
    for outcome in replay.outcomes:
        decision = outcome.decision
        yield f"{outcome.rule}: {_decided_at(decision)}{one_line(decision.reason)}{_unread(replay, outcome)}"


def _unread(replay: ReplayResult, outcome: RuleResult) -> str:
    """What came after the decision, and so was no part of it."""
    totals = replay.totals
    after = totals.stable_requests + totals.canary_requests - outcome.requests
    if outcome.decision.at_s is None or after <= 0:
        return ""
    rest_s = totals.at_s - outcome.decision.at_s
    return f"; the {after:,} requests of the {_time(rest_s)} s after that were not analysed"


def _decided_at(decision: RuleDecision) -> str:
    return "" if decision.at_s is None else f"at {_time(decision.at_s)} s, "


def _time(at_s: float) -> str:
    return f"{at_s:.3f}".rstrip("0").rstrip(".")


def _share(events: int, trials: int) -> str:
    return f"{events:,} errors of {trials:,}" + (f" ({percent(events / trials)})" if trials else "")

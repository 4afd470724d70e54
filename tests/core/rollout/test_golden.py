"""Rollouts that a person can read: each script in tests/golden/rollout is played and compared, line by line.

A script is text. ``#`` lines are prose; ``plan``, ``deadline`` and ``option`` lines give the steps; each ``t=`` line
is one event, and the indented lines below it are what the machine answered: phase, step, weight, then the commands in
their order, then the reason. ``UPDATE_GOLDENS=1 pytest tests/core/rollout/test_golden.py`` writes the answers anew;
read the diff.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from gateway.core.analysis.types import Verdict
from gateway.core.errors import TransitionError
from gateway.core.rollout import (
    AbortRequested,
    Analysed,
    ApproveRequested,
    Command,
    Conditions,
    Event,
    GateAnswered,
    JournalTimedOut,
    LocalTime,
    Notify,
    OnDeadline,
    PauseRequested,
    Plan,
    PromoteRequested,
    Restarted,
    ResumeRequested,
    Rollout,
    SetWeight,
    Started,
    Step,
    SwapRoles,
    Ticked,
    WeightRequested,
    Withdrawn,
    step,
)
from gateway.core.types import percent_from_weight_bp, weight_bp_from_percent

GOLDENS = Path(__file__).parents[2] / "golden" / "rollout"
SCRIPTS = sorted(GOLDENS.glob("*.txt"))

PLAN_LINE = re.compile(
    r"plan +(?P<percent>[\d.]+)% for (?P<time>[\d.]+)s and (?P<requests>\d+) requests"
    r"(?:, (?P<policy>hold|rollback|promote|proceed) after (?P<deadline>[\d.]+)s)?(?:, gate (?P<gate>\S+))?"
)
DEADLINE_LINE = re.compile(r"deadline +(?P<time>[\d.]+)s (?P<policy>hold|rollback|promote)")
# ``option warmup_s 60``: any other field of the plan, as JSON.
OPTION_LINE = re.compile(r"option +(?P<name>\w+) +(?P<value>.+)")
EVENT_LINE = re.compile(r"t=(?P<at>[\d.]+) +(?P<what>.+)")


def _weight_bp(text: str) -> int:
    return weight_bp_from_percent(float(text))


def _live(text: str) -> int | None:
    return None if text == "unknown" else _weight_bp(text.removesuffix("%"))


# One row per verb: how it is written, and the event it means (given the match, the time and the plan).
VERBS: list[tuple[str, Callable[[re.Match[str], float, Plan], Event]]] = [
    (
        r"start by (\w+)(?: as (\w+))?( retry)?( without stable)?(?: canary-up=(\d+))?",
        lambda m, at, plan: Started(
            m[2] or "r1", "digits", "" if m[4] else "v1", "v2", plan, at, m[1], bool(m[3]), int(m[5]) if m[5] else None
        ),
    ),
    (
        r"analysed (\w+) n=(\d+)(?: because ([\w,]+))?(?: with ([^:]\S*(?: \S+=\S+)*))?(?:: (.+))?",
        lambda m, at, plan: Analysed(
            at_s=at,
            verdict=Verdict(m[1]),
            reason=m[5] or "",
            causes=tuple((m[3] or "").split(",")) if m[3] else (),
            canary_requests=int(m[2]),
            conditions=_world(m[4] or ""),
        ),
    ),
    (r"nothing", lambda m, at, plan: Ticked(at)),
    (r"pause by (\w+)(?:: (.+))?", lambda m, at, plan: PauseRequested(at, m[1], m[2] or "")),
    (r"resume by (\w+) n=(\d+)(?:: (.+))?", lambda m, at, plan: ResumeRequested(at, m[1], int(m[2]), m[3] or "")),
    (
        r"promote(-next)? by (\w+)(?: n=(\d+))?(?:: (.+))?",
        lambda m, at, plan: PromoteRequested(at, m[2], m[4] or "", bool(m[1]), int(m[3] or 0)),
    ),
    (r"approve by (\w+) n=(\d+)(?:: (.+))?", lambda m, at, plan: ApproveRequested(at, m[1], m[3] or "", int(m[2]))),
    (
        r"gate (\S+) says (yes|no) n=(\d+): (.+)",
        lambda m, at, plan: GateAnswered(at, m[1], m[2] == "yes", m[4], "the hook", int(m[3])),
    ),
    (r"abort by (\w+)(?:: (.+))?", lambda m, at, plan: AbortRequested(at, m[1], m[2] or "")),
    (
        r"set-weight ([\d.]+)% by (\w+)(?:: (.+))?",
        lambda m, at, plan: WeightRequested(at, m[2], _weight_bp(m[1]), m[3] or ""),
    ),
    (r"withdrawn: (.+)", lambda m, at, plan: Withdrawn(at, "the configuration", m[1])),
    (
        r"overdue live=(\S+)",
        lambda m, at, plan: JournalTimedOut(at, _live(m[1]) or 0, "the disk did not answer in 5 s"),
    ),
    (r"restart live=(\S+) n=(\d+)", lambda m, at, plan: Restarted(at, _live(m[1]), int(m[2]))),
]


def _world(text: str) -> Conditions:
    """``Sat-23:30 stable=0 canary=2``, each part optional; the date is always 2026-11-28."""
    known = dict(re.findall(r"(stable|canary)=(\d+)", text))
    stable_up, canary_up = (int(known[side]) if side in known else None for side in ("stable", "canary"))
    moment = re.search(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun)-(\d\d):(\d\d)", text)
    if moment is None:
        return Conditions(None, stable_up, canary_up)
    day = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun").index(moment[1])
    return Conditions(LocalTime("2026-11-28", day, int(moment[2]) * 60 + int(moment[3])), stable_up, canary_up)


def _step(match: re.Match[str]) -> Step:
    deadline_s = float(match["deadline"]) if match["deadline"] else None
    policy = OnDeadline(match["policy"] or "hold")
    weight_bp, time_s, requests = _weight_bp(match["percent"]), float(match["time"]), int(match["requests"])
    return Step(weight_bp, time_s, requests, deadline_s, policy, match["gate"] or "")


def _event(line: str, plan: Plan) -> Event:
    timed = EVENT_LINE.fullmatch(line)
    assert timed, f"not an event: {line!r}"
    for pattern, build in VERBS:
        if match := re.fullmatch(pattern, timed["what"]):
            return build(match, float(timed["at"]), plan)
    raise AssertionError(f"no verb fits {line!r}")


def _command(command: Command) -> str:
    match command:
        case SetWeight():
            return f"set-weight {percent_from_weight_bp(command.weight_bp):.2f}%"
        case Notify():
            return f"notify {command.kind}"
        case SwapRoles():
            weight = f" {percent_from_weight_bp(command.weight_bp):.2f}%" if command.weight_bp else ""
            return f"roles {command.stable}/{command.canary or '-'}{weight}"


def _answer(state: Rollout, event: Event) -> tuple[Rollout, list[str]]:
    try:
        new, commands = step(state, event)
    except TransitionError as error:
        return state, [f"-> REFUSED: {error}"]
    said = ", ".join(map(_command, commands))
    if new is state:
        return state, [f"-> unchanged | {said}" if said else "-> unchanged"]
    where = f"step {_rung(new)} weight {percent_from_weight_bp(new.weight_bp):.2f}%"
    because = f"   {new.reason}" + (f" [{', '.join(new.causes)}]" if new.causes else "")
    return new, [f"-> {new.phase} {where} | {said}", because]


def _rung(state: Rollout) -> str:
    count = len(state.plan.steps)
    names = {-3: "mirror", -2: "none", -1: "warm-up", count: "bake"}
    return names.get(state.step_index, f"{state.step_index + 1}/{count}")


def play(script: str) -> str:
    """Play a script and return it with the machine's answers in place of those it held."""
    steps: list[Step] = []
    plan, state, out = Plan(steps=()), Rollout(), []
    for line in script.splitlines():
        if line.startswith(" "):
            continue
        out.append(line)
        if match := PLAN_LINE.fullmatch(line):
            steps.append(_step(match))
            plan = replace(plan, steps=tuple(steps))
        elif match := DEADLINE_LINE.fullmatch(line):
            plan = replace(plan, deadline_s=float(match["time"]), on_deadline=OnDeadline(match["policy"]))
        elif match := OPTION_LINE.fullmatch(line):
            plan = msgspec.convert(msgspec.to_builtins(plan) | {match["name"]: json.loads(match["value"])}, Plan)
        elif line and not line.startswith("#"):
            state, answer = _answer(state, _event(line, plan))
            out += [f"        {text}" for text in answer]
    return "\n".join(out) + "\n"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_rollout_goes_as_its_golden_script_says(path: Path) -> None:
    played = play(path.read_text())
    if os.environ.get("UPDATE_GOLDENS"):
        path.write_text(played)
    assert played == path.read_text(), f"read the diff; if it is right: UPDATE_GOLDENS=1 pytest {__file__}"


def test_the_goldens_are_there() -> None:
    assert {path.stem for path in SCRIPTS} >= {
        "good",
        "errors",
        "hand_steered",
        "restart",
        "deadline_hold",
        "deadline_rollback",
        "deadline_promote",
        "abort_against_promote",
    }

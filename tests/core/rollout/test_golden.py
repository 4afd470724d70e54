"""Rollouts that a person can read: each script in tests/golden/rollout is played and compared, line by line.

A script is text. ``#`` lines are prose; ``plan`` and ``deadline`` lines give the ladder; each ``t=`` line is one event,
and the indented lines below it are what the machine answered: phase, rung, weight, then the commands in their order,
then the reason. ``UPDATE_GOLDENS=1 pytest tests/core/rollout/test_golden.py`` writes the answers anew; read the diff.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.core.analysis.types import Verdict
from gateway.core.errors import TransitionError
from gateway.core.rollout import (
    AbortWished,
    Analysed,
    Command,
    Event,
    Notify,
    OnDeadline,
    PauseWished,
    Plan,
    PromoteWished,
    Restarted,
    ResumeWished,
    Rollout,
    SetWeight,
    Started,
    Step,
    WeightWished,
    step,
)
from gateway.core.types import percent_from_weight_bp, weight_bp_from_percent

GOLDENS = Path(__file__).parents[2] / "golden" / "rollout"
SCRIPTS = sorted(GOLDENS.glob("*.txt"))

PLAN_LINE = re.compile(r"plan +(?P<percent>[\d.]+)% for (?P<time>[\d.]+)s and (?P<requests>\d+) requests")
DEADLINE_LINE = re.compile(r"deadline +(?P<time>[\d.]+)s (?P<policy>hold|rollback|promote)")
EVENT_LINE = re.compile(r"t=(?P<at>[\d.]+) +(?P<what>.+)")


def _weight_bp(text: str) -> int:
    return weight_bp_from_percent(float(text))


def _live(text: str) -> int | None:
    return None if text == "unknown" else _weight_bp(text.removesuffix("%"))


# One row per verb: how it is written, and the event it means (given the match, the time and the plan).
VERBS: list[tuple[str, Callable[[re.Match[str], float, Plan], Event]]] = [
    (
        r"start by (\w+)(?: as (\w+))?",
        lambda m, at, plan: Started(
            rollout_id=m[2] or "r1", route="digits", stable="v1", canary="v2", plan=plan, at_s=at, by=m[1]
        ),
    ),
    (
        r"analysed (\w+) n=(\d+)(?: because ([\w,]+))?(?:: (.+))?",
        lambda m, at, plan: Analysed(
            at_s=at,
            verdict=Verdict(m[1]),
            reason=m[4] or "",
            causes=tuple((m[3] or "").split(",")) if m[3] else (),
            canary_requests=int(m[2]),
        ),
    ),
    (r"pause by (\w+)(?:: (.+))?", lambda m, at, plan: PauseWished(at_s=at, by=m[1], reason=m[2] or "")),
    (r"resume by (\w+) n=(\d+)", lambda m, at, plan: ResumeWished(at_s=at, by=m[1], canary_requests=int(m[2]))),
    (r"promote by (\w+)(?:: (.+))?", lambda m, at, plan: PromoteWished(at_s=at, by=m[1], reason=m[2] or "")),
    (r"abort by (\w+)(?:: (.+))?", lambda m, at, plan: AbortWished(at_s=at, by=m[1], reason=m[2] or "")),
    (
        r"set-weight ([\d.]+)% by (\w+)",
        lambda m, at, plan: WeightWished(at_s=at, by=m[2], weight_bp=_weight_bp(m[1])),
    ),
    (
        r"restart live=(\S+) n=(\d+)",
        lambda m, at, plan: Restarted(at_s=at, live_weight_bp=_live(m[1]), canary_requests=int(m[2])),
    ),
]


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


def _answer(state: Rollout, event: Event) -> tuple[Rollout, list[str]]:
    try:
        new, commands = step(state, event)
    except TransitionError as error:
        return state, [f"-> REFUSED: {error}"]
    said = ", ".join(map(_command, commands))
    if new is state:
        return state, [f"-> unchanged | {said}" if said else "-> unchanged"]
    where = f"step {new.step_index + 1}/{len(new.plan.steps)} weight {percent_from_weight_bp(new.weight_bp):.2f}%"
    because = f"   {new.reason}" + (f" [{', '.join(new.causes)}]" if new.causes else "")
    return new, [f"-> {new.phase} {where} | {said}", because]


def play(script: str) -> str:
    """Play a script and return it with the machine's answers in place of those it held."""
    steps: list[Step] = []
    plan, state, out = Plan(steps=()), Rollout(), []
    for line in script.splitlines():
        if line.startswith(" "):
            continue
        out.append(line)
        if match := PLAN_LINE.fullmatch(line):
            steps.append(Step(_weight_bp(match["percent"]), float(match["time"]), int(match["requests"])))
            plan = Plan(tuple(steps))
        elif match := DEADLINE_LINE.fullmatch(line):
            plan = Plan(tuple(steps), float(match["time"]), OnDeadline(match["policy"]))
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

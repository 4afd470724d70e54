"""``gateway plan``: before a rollout, whether this traffic can decide the plan, how soon, and what to change if not.

Exit statuses: 0 the plan can be decided, 3 it cannot (the output says why and proposes plans that can), 2 the command
line or the configuration is wrong. The arithmetic and its assumptions are in core/analysis/planning.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from gateway.admin.schemas import encode
from gateway.cli.tables import console
from gateway.config import build
from gateway.config.errors import ConfigError
from gateway.config.load import load_elsewhere
from gateway.config.routes import MatchConfig, RouteConfig
from gateway.core.analysis import budget
from gateway.core.analysis.sizing.planning import (
    R_DETECT,
    R_PROVE,
    Forecast,
    Journey,
    Need,
    PlannedStep,
    Question,
    StepForecast,
    forecast,
)
from gateway.core.analysis.sizing.proposals import Proposal, proposals
from gateway.core.analysis.spec import RATE_METRICS
from gateway.core.analysis.types import AnalysisSpec, Mode
from gateway.core.errors import InvalidValueError
from gateway.core.rollout.types import Plan
from gateway.core.types import weight_bp_from_percent

UNDECIDABLE = 3
_COLUMNS_MAX = 100
_DEFAULT_ROUTE = RouteConfig(name="any", match=MatchConfig(path_prefix="/"), stable="any")
_DEFAULT_PLAN = build.plan(_DEFAULT_ROUTE)
_UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_SIZES = (
    (1.0, 100.0, "s"),
    (60.0, 100.0, "min"),
    (3600.0, 48.0, "h"),
    (86_400.0, 800.0, "d"),
    (31_557_600.0, 9999.0, "y"),
)
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]{1,2})?) ?(s|min|m|h|d|)")


class _Wrong(click.ClickException):
    """A question without an answer; one line, without the usage."""

    exit_code = 2


@click.command()
@click.option("--rate", required=True, metavar="NUMBER", help="Requests per second on the route, all together.")
@click.option("--base-rate", required=True, metavar="SHARE", help="Stable's share of requests with the event: 0.01.")
@click.option(
    "--regression", default="2x", show_default=True, metavar="WORSE", help="To be caught: 2x, +0.01, or a rate: 0.03."
)
@click.option("--config", type=click.Path(path_type=Path), help="Take plan, alphas and margins from this file ...")
@click.option("--route", metavar="NAME", help="... and this route of it (not needed when it has only one).")
@click.option("--metric", type=click.Choice(RATE_METRICS), default="errors", show_default=True, help="The event.")
@click.option("--steps", metavar="LIST", help="Weights in percent, rising, with minimum times if wanted: 1,5:10m,25.")
@click.option("--min-time", metavar="TIME", help="Minimum time of each step: 60s, 10m.")
@click.option("--min-requests", metavar="NUMBER", help="Minimum canary requests of each step.")
@click.option("--deadline", metavar="TIME", help="For the whole rollout: 90m, 1h, 2d.")
@click.option("--alpha", metavar="SHARE", help="Chance of rolling back a healthy canary (alpha_rollback).")
@click.option("--alpha-promote", metavar="SHARE", help="Chance of promoting a canary worse than the margin.")
@click.option("--margin-ratio", metavar="NUMBER", help="Good enough: below this many times stable's rate ...")
@click.option("--margin-delta", metavar="SHARE", help="... or below stable's rate plus this.")
@click.option("--latency/--no-latency", default=None, help="Whether latency has to be proven too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def plan(as_json: bool, **options: Any) -> int:
    """Tell whether this traffic can decide a rollout's plan, and how soon.

    \b
    gateway plan --rate 50 --base-rate 0.01 --regression 2x --steps 1,5,25,50 --deadline 1h
    gateway plan --rate 50 --base-rate 0.01 --config gateway.yaml --route digits

    What is not given is taken from the file, or is the default. Exits with 0 when the plan can be decided, with 3 when
    it cannot: then it proposes plans that can.
    """  # noqa: D301  # click keeps a paragraph's lines only after a real backspace character
    try:
        answer = forecast(_question(**options))
    except ConfigError as error:
        click.echo(str(error), err=True)
        return 2
    except InvalidValueError as error:
        raise _Wrong(str(error)) from None
    found = proposals(answer)
    if as_json:
        click.echo(encode(_body(answer, found)).decode())
    else:
        _show(console(), answer, found)
    return 0 if answer.decidable else UNDECIDABLE


# --- from options to the question ---


def _question(
    rate: str, base_rate: str, regression: str, metric: str, deadline: str | None, **options: Any
) -> Question:
    route = _route(options["config"], options["route"])
    ladder = _DEFAULT_PLAN if route is None else build.plan(route)
    spec = (
        build.analysis_spec(_DEFAULT_ROUTE)
        if route is None
        else budget.for_bake(build.analysis_spec(route), ladder.bake_s)
    )
    base = _number("--base-rate", base_rate)
    return Question(
        requests_per_s=_number("--rate", rate),
        base_rate=base,
        regression_rate=_regression(regression, base),
        steps=_steps(ladder, options["steps"], options["min_time"], options["min_requests"]),
        deadline_s=ladder.deadline_s if deadline is None else _seconds("--deadline", deadline),
        spec=_spec(spec, metric, options),
        metric=metric,
    )


def _route(config: Path | None, name: str | None) -> RouteConfig | None:
    if config is None:
        if name is not None:
            raise InvalidValueError("--route names a route of a configuration: give its file with --config")
        return None
    routes = {route.name: route for route in load_elsewhere(config).routes}
    if name is None and len(routes) == 1:
        return next(iter(routes.values()))
    if name not in routes:
        problem = f"{config} has several routes" if name is None else f"{config} has no route {name!r}"
        raise InvalidValueError(f"{problem}: give --route, one of {', '.join(routes)}")
    return routes[name]


def _spec(spec: AnalysisSpec, metric: str, options: dict[str, Any]) -> AnalysisSpec:
    margins = getattr(spec, metric)
    for name in ("margin_ratio", "margin_delta"):
        if options[name] is not None:
            margins = msgspec.structs.replace(margins, **{name: _number(_flag(name), options[name])})
    changes: dict[str, Any] = {metric: margins}
    for option, name in (("alpha", "alpha_rollback"), ("alpha_promote", "alpha_promote")):
        if options[option] is not None:
            changes[name] = _number(_flag(option), options[option])
    if options["latency"] is not None:
        changes["latency"] = msgspec.structs.replace(
            spec.latency, mode=Mode.DECIDE if options["latency"] else Mode.ADVISE
        )
    return msgspec.structs.replace(spec, **changes)


def _steps(ladder: Plan, text: str | None, min_time: str | None, min_requests: str | None) -> tuple[PlannedStep, ...]:
    changes: dict[str, Any] = {}
    if min_time is not None:
        changes["min_time_s"] = _seconds("--min-time", min_time)
    if min_requests is not None:
        changes["min_requests"] = _whole("--min-requests", min_requests)
    if text is not None:
        floor = msgspec.structs.replace(PlannedStep(1), **changes)
        return tuple(_rung(part, floor) for part in text.split(","))
    rungs = (PlannedStep(step.weight_bp, step.min_time_s, step.min_requests) for step in ladder.steps)
    return tuple(msgspec.structs.replace(rung, **changes) for rung in rungs)


def _rung(text: str, floor: PlannedStep) -> PlannedStep:
    """A step from ``PERCENT[:TIME[:REQUESTS]]``; what is not given is the floor's."""
    percent, time, requests, *rest = (*(part.strip() for part in text.split(":")), "", "")
    value = _number("--steps", percent.removesuffix("%"))
    if any(rest):
        raise InvalidValueError(
            f"--steps {text!r} has too many parts: give PERCENT, PERCENT:TIME or PERCENT:TIME:REQUESTS"
        )
    if not 0 < value < 100:
        raise InvalidValueError(
            f"--steps: a weight must lie between 0 and 100 %, not {value:g}: evidence needs requests of both variants,"
            " and 100 % follows the last step by itself"
        )
    return PlannedStep(
        weight_bp_from_percent(value),
        _seconds("--steps", time) if time else floor.min_time_s,
        _whole("--steps", requests) if requests else floor.min_requests,
    )


def _regression(text: str, base: float) -> float:
    """The rate to be caught, from ``2x``, ``+0.01`` or a rate."""
    if text.endswith(("x", "X")):
        return base * _number("--regression", text[:-1])
    return _number("--regression", text) + (base if text.startswith("+") else 0.0)


def _number(flag: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidValueError(f"{flag} {text!r} is not a number: give one such as {_EXAMPLES.get(flag, '0.01')}")
    return value


_EXAMPLES = {"--rate": "50", "--regression": "2x, +0.01 or 0.03", "--steps": "1,5,25,50", "--margin-ratio": "1.5"}


def _seconds(flag: str, text: str) -> float:
    matched = _DURATION.fullmatch(text.strip())
    if not matched:
        raise InvalidValueError(
            f"{flag} {text!r} is not a time: give seconds, or a number with s, m, h or d, as in 90m"
        )
    return float(matched[1]) * _UNITS_S[matched[2]]


def _whole(flag: str, text: str) -> int:
    if not re.fullmatch("[0-9]{1,12}", text):
        raise InvalidValueError(f"{flag} {text!r} is not a whole number of 0 or more: give one such as 100")
    return int(text)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


# --- for machines ---


def _body(answer: Forecast, found: tuple[Proposal, ...]) -> dict[str, Any]:
    ways = [msgspec.to_builtins(proposal) | {"options": _options(answer.question, proposal)} for proposal in found]
    factors = {"r_detect": R_DETECT, "r_prove": R_PROVE}
    body: dict[str, Any] = _in_percent(msgspec.to_builtins(answer) | {"proposals": ways})
    return {"decidable": answer.decidable, **factors, **body}


def _in_percent(tree: Any) -> Any:
    """The tree with weights as people write them."""
    if isinstance(tree, dict):
        return {
            "percent" if name == "weight_bp" else name: value / 100 if name == "weight_bp" else _in_percent(value)
            for name, value in tree.items()
        }
    return [_in_percent(value) for value in tree] if isinstance(tree, (list, tuple)) else tree


def _options(question: Question, proposal: Proposal) -> list[str]:
    """The options that change the question into the proposal."""
    options = []
    if "weights" in proposal.changes:
        steps = (f"{_plain(r.weight_bp / 100)}:{_plain(r.min_time_s)}s:{r.min_requests}" for r in proposal.steps)
        options.append(f"--steps={','.join(steps)}")
    if proposal.margin_ratio != question.rate_spec.margin_ratio:
        options.append(f"--margin-ratio={_plain(proposal.margin_ratio)}")
    if proposal.margin_delta != question.rate_spec.margin_delta:
        options.append(f"--margin-delta={_plain(proposal.margin_delta)}")
    if "deadline" in proposal.changes:
        options.append(f"--deadline={_plain(proposal.deadline_s)}s")
    return options


def _plain(number: float) -> str:
    return f"{number:.12g}"


# --- for people ---


def _show(out: Console, answer: Forecast, found: tuple[Proposal, ...]) -> None:
    out.width = min(out.width, _COLUMNS_MAX)
    out.print(*_asked(answer.question), sep="\n", markup=False)
    out.print()
    out.print(_table(answer))
    out.print()
    out.print(*_told(answer), *_decided(answer, found), sep="\n", markup=False)


def _asked(question: Question) -> Iterator[str]:
    margins, base = question.rate_spec, question.base_rate
    bound = max(margins.margin_ratio * base, base + margins.margin_delta)
    yield (
        f"{question.requests_per_s:g} requests/s, {_percent(base)} of stable's with {question.metric}."
        f" To be caught: {_percent(question.regression_rate)}. Good enough: proven below {_percent(bound)}"
        f" (margin_ratio {margins.margin_ratio:g}, margin_delta {margins.margin_delta:g})."
    )
    if question.spec.sticky:
        yield (
            "The route is sticky, its unit is the session: --rate has to be sessions per second, and rates the shares"
            " of sessions with a failure."
        )
    yield (
        'Canary requests and time of each step on its own: "at best" for any test that keeps the same promise'
        " (the information limit), and as expected of this engine, on average."
    )


def _table(answer: Forecast) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    headings = ("weight", "minimum", "catch:\nat best", "\nexpected", "prove:\nat best", "\nexpected")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("latency:\nexpected", no_wrap=True)
    table.add_column("within the\nminimum", no_wrap=True)
    for rung, step in zip(answer.question.steps, answer.steps, strict=True):
        table.add_row(
            f"{step.weight_bp / 100:g} %", f"{_count(rung.min_requests)}\n{_time(step.floor_s)}", *_cells(step)
        )
    return table


def _cells(step: StepForecast) -> Iterator[str]:
    yield from (_cell(need) for estimate in (step.detect, step.prove) for need in (estimate.limit, estimate.engine))
    if step.latency_convict is None or step.latency_prove is None:
        yield "reports\nonly"
    else:
        yield f"catch {_time(step.latency_convict.engine.time_s)}\nprove {_time(step.latency_prove.engine.time_s)}"
    yield f"catch {_yes(step.detects_within_floor)}\nprove {_yes(step.proves_within_floor)}"


def _told(answer: Forecast) -> Iterator[str]:
    question, limit, engine = answer.question, answer.limit, answer.engine
    yield f"A canary as good as stable {_healthy(question, engine.healthy)}; at best {_end(limit.healthy)}."
    yield f"A canary with the regression {_regressed(question, engine.regressed)}; at best {_end(limit.regressed)}."
    if answer.steps[0].latency_convict and answer.steps[0].latency_prove:
        convict, prove = answer.steps[0].latency_convict.engine, answer.steps[0].latency_prove.engine
        yield (
            f"Latency is judged in slices of {question.spec.latency.slice_s:g} s: about {_count(prove.slices)} to"
            f" prove a canary not slower, about {_count(convict.slices)} to convict a hopelessly slow one."
        )
    if events := [event.name for event in question.spec.events if event.decides]:
        more = f" and {len(events) - 3} more" if len(events) > 3 else ""
        yield f"Not planned: {', '.join(events[:3])}{more} must be proven too before a step is left."
    yield ""


def _decided(answer: Forecast, found: tuple[Proposal, ...]) -> Iterator[str]:
    question = answer.question
    if answer.decidable:
        yield f"OK: this traffic can decide the plan before its deadline of {_time(question.deadline_s)}."
        if max(answer.engine.healthy.at_s, answer.engine.regressed.at_s) * 1.5 > question.deadline_s:
            yield "It is tight: times are averages, and single rollouts can take half as long again."
        return
    yield "WARNING: this plan cannot be decided with this traffic."
    for problem in answer.problems:
        yield f"* {_problem(answer, problem)}"
    if found:
        yield "What can be decided instead:"
    else:
        yield "No plan with this traffic can: ask for a larger regression, or give margins (latency's too) above 0."
    for proposal in found:
        yield f"* {_proposal(proposal)}"
        yield f"  {' '.join(_options(question, proposal))}"


def _healthy(question: Question, journey: Journey) -> str:
    if journey.proven_in_step is None:
        return f"is never proven good enough: it stays in {_where(question, journey.step)}"
    return (
        f"is proven good enough after {_time(journey.proven_at_s)}, in {_where(question, journey.proven_in_step)},"
        f" and promoted after {_time(journey.at_s)}"
    )


def _regressed(question: Question, journey: Journey) -> str:
    if journey.outcome == "promoted":
        return f"is within the margin: it is promoted after {_time(journey.at_s)}, before it could be convicted"
    if journey.outcome == "undecided":
        return f"is neither convicted nor passed: it stays in {_where(question, journey.step)}"
    return f"is rolled back after {_time(journey.at_s)}, in {_where(question, journey.step)}"


def _end(journey: Journey) -> str:
    return "never" if journey.at_s == math.inf else f"{journey.outcome} after {_time(journey.at_s)}"


def _problem(answer: Forecast, problem: str) -> str:
    question, healthy, regressed = answer.question, answer.engine.healthy, answer.engine.regressed
    margins = f"margin_ratio {question.rate_spec.margin_ratio:g} and margin_delta {question.rate_spec.margin_delta:g}"
    deadline = _time(question.deadline_s)
    if problem == "promotion_never":
        return f"With {margins} a healthy canary can never be proven good enough."
    if problem == "promotion_too_late":
        return (
            f"With {margins} a healthy canary needs {_time(healthy.at_s)} starting at"
            f" {question.steps[0].weight_bp / 100:g} %, the deadline is {deadline}."
        )
    if problem == "regression_let_through":
        return f"{margins} call this regression good enough: it is promoted after {_time(regressed.at_s)}."
    return (
        f"The regression needs {_time(regressed.at_s)} to be caught ({_where(question, regressed.step)}),"
        f" the deadline is {deadline}."
    )


def _proposal(proposal: Proposal) -> str:
    weights = ", ".join(f"{rung.weight_bp / 100:g}" for rung in proposal.steps)
    said = {
        "weights": f"weights {weights} %",
        "margin": f"margin_ratio {proposal.margin_ratio:g}, margin_delta {proposal.margin_delta:g}",
        "deadline": f"a deadline of {_time(proposal.deadline_s)}",
    }
    changes = " and ".join(said[change] for change in proposal.changes)
    ladder = proposal.ladder
    return (
        f"With {changes}: promoted after {_time(ladder.healthy.at_s)},"
        f" the regression caught after {_time(ladder.regressed.at_s)}."
    )


def _where(question: Question, step: int) -> str:
    return f"step {step} of {len(question.steps)} ({question.steps[step - 1].weight_bp / 100:g} %)"


def _cell(need: Need) -> str:
    return f"{_count(need.canary_requests)}\n{_time(need.time_s)}"


def _count(number: float) -> str:
    if number == math.inf:
        return "-"
    return f"{math.ceil(number):,}" if number < 1e6 else f"{number / 1e6:,.3g} M" if number < 1e9 else f"{number:.1e}"


def _time(time_s: float) -> str:
    """A time for people, two digits or so: ``40 s``, ``12 min``, ``1.9 h``, ``3.2 d``, ``14 y``."""
    for size_s, most, unit in _SIZES:
        value = time_s / size_s
        if value < most:
            return f"{value:.2g} {unit}" if value < 9.95 else f"{value:.0f} {unit}"
    return "never" if time_s == math.inf else "> 9999 y"


def _percent(rate: float) -> str:
    return f"{100 * rate:.3g} %"


def _yes(answer: bool) -> str:
    return "yes" if answer else "no"

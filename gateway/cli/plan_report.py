"""``gateway plan``: the answer, as JSON for machines and as text for people."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from gateway.core.analysis.sizing.forecasts import Forecast, Journey, Need, StepForecast
from gateway.core.analysis.sizing.planning import R_DETECT, R_PROVE
from gateway.core.analysis.sizing.proposals import Proposal
from gateway.core.analysis.sizing.question import Question
from gateway.core.numbers import about, count, duration, percent

_COLUMNS_MAX = 100


def body(answer: Forecast, found: tuple[Proposal, ...]) -> dict[str, Any]:
    """The answer with all its numbers, and the options that ask for each proposal."""
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


def show(out: Console, answer: Forecast, found: tuple[Proposal, ...]) -> None:
    """Print what was asked, a table of the steps, and the answer in sentences."""
    out.width = min(out.width, _COLUMNS_MAX)
    out.print(*_asked(answer.question), sep="\n", markup=False)
    out.print()
    out.print(_table(answer))
    out.print()
    out.print(*_sentences(answer), *_decided(answer, found), sep="\n", markup=False)


def _asked(question: Question) -> Iterator[str]:
    margins, base = question.rate_spec, question.base_rate
    bound = max(margins.margin_ratio * base, base + margins.margin_delta)
    yield (
        f"{question.requests_per_s:g} requests/s, {percent(base)} of stable's with {question.metric}."
        f" To be caught: {percent(question.regression_rate)}. Good enough: proven below {percent(bound)}"
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
    for planned, step in zip(answer.question.steps, answer.steps, strict=True):
        table.add_row(
            f"{step.weight_bp / 100:g} %", f"{_count(planned.min_requests)}\n{duration(step.floor_s)}", *_cells(step)
        )
    return table


def _cells(step: StepForecast) -> Iterator[str]:
    yield from (_cell(need) for estimate in (step.detect, step.prove) for need in (estimate.limit, estimate.engine))
    if step.latency_convict is None or step.latency_prove is None:
        yield "reports\nonly"
    else:
        convict, prove = step.latency_convict.engine, step.latency_prove.engine
        yield f"catch {duration(convict.time_s)}\nprove {duration(prove.time_s)}"
    yield f"catch {_yes(step.detects_within_floor)}\nprove {_yes(step.proves_within_floor)}"


def _sentences(answer: Forecast) -> Iterator[str]:
    question, limit, engine = answer.question, answer.limit, answer.engine
    yield f"A canary as good as stable {_healthy(question, engine.healthy)}; at best {_end(limit.healthy)}."
    yield f"A canary with the regression {_regressed(question, engine.regressed)}; at best {_end(limit.regressed)}."
    if answer.steps[0].latency_convict and answer.steps[0].latency_prove:
        convict, prove = answer.steps[0].latency_convict.engine, answer.steps[0].latency_prove.engine
        yield (
            f"Latency is judged in slices of {question.spec.latency.slice_s:g} s: about {_count(prove.slices)} to"
            f" prove a canary not slower, about {_count(convict.slices)} to convict a hopelessly slow one."
        )
    yield from _reach(answer)
    yield from _bake(answer)
    yield from _moments(answer)
    if events := [event.name for event in question.spec.events if event.decides]:
        more = f" and {len(events) - 3} more" if len(events) > 3 else ""
        yield f"Not planned: {', '.join(events[:3])}{more} must be proven too before a step is left."
    yield ""


def _reach(answer: Forecast) -> Iterator[str]:
    """What a rollout in this traffic can prove, and what it cannot."""
    reach, deadline = answer.reach, duration(answer.question.deadline_s)
    if reach.caught_from is None:
        yield f"No regression of up to 100 times the base rate is caught within {deadline}."
    else:
        yield f"Caught within {deadline}: {answer.question.metric} of {percent(reach.caught_from)} or more."
    if reach.promoted_below is not None:
        yield f"Not caught, but promoted on average: up to {percent(reach.promoted_below)}, which the margin allows."


def _moments(answer: Forecast) -> Iterator[str]:
    """What a rollout in this weather can and cannot tell."""
    moments, burst_s = answer.moments, answer.question.spec.burst_s
    if moments is None:
        if answer.question.weather.known_s:
            yield "Nothing is known yet of bad moments of stable: it has been watched for less than a minute."
        return
    if moments.per_hour * moments.known_s < 0.5 * 3600.0:
        yield f"Stable had no bad moment in the {duration(moments.known_s)} that it has been watched."
        return
    yield (
        f"Stable has {about(moments.per_hour)} bad moments an hour, {duration(moments.mean_s)} long on average and at"
        f" most {duration(moments.longest_s)} (watched for {duration(moments.known_s)}). A canary that is as good has"
        f" about {about(moments.expected)} of them until it is promoted."
    )
    if moments.excused_s:
        found = "never" if moments.detect_s == math.inf else f"after {duration(moments.detect_s)}"
        yield (
            f"As often as stable has them, moments of up to {duration(moments.excused_s)} convict nobody; the"
            f" regression is found when it has outlasted one, {found}."
        )
        return
    if not moments.burst_s:
        yield f"Each of them counts as about one failure (burst_s {burst_s:g}), so they convict nobody."
        return
    yield (
        f"Within {duration(moments.longest_s)} a dead canary cannot be told from one that has a bad moment, and a"
        f" moment that lasts for longer than burst_s ({burst_s:g}) can roll back a healthy canary."
    )
    found = "never" if moments.detect_s == math.inf else f"after {duration(moments.detect_s)}"
    yield f"With analysis.burst_s {moments.burst_s:g} it does not, and the regression is found {found}."


def _bake(answer: Forecast) -> Iterator[str]:
    if not answer.bake:
        return
    own, *others = answer.bake
    bake = f"In the bake of {duration(answer.question.bake_s)}"
    if not own.holdout_percent:
        yield f"{bake} no request stays with stable (bake_holdout_percent 0), so a regression is not seen."
    elif own.detect_s > answer.question.bake_s:
        yield (
            f"{bake}, with {own.holdout_percent:g} % of requests left to stable, the regression takes"
            f" {duration(own.detect_s)} to be found: longer than the bake lasts."
        )
    else:
        yield (
            f"{bake}, with {own.holdout_percent:g} % of requests left to stable, a regression that begins then is"
            f" found after {duration(own.detect_s)}, when {_count(own.bad_answers)} requests have had the event."
        )
    table = ", ".join(f"{one.holdout_percent:g} %: {duration(one.detect_s)}" for one in others)
    yield f"With another bake_holdout_percent: {table}."


def _decided(answer: Forecast, found: tuple[Proposal, ...]) -> Iterator[str]:
    question = answer.question
    if answer.decidable:
        yield f"OK: this traffic can decide the plan before its deadline of {duration(question.deadline_s)}."
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
        f"is proven good enough after {duration(journey.proven_at_s)}, in {_where(question, journey.proven_in_step)},"
        f" and promoted after {duration(journey.at_s)}"
    )


def _regressed(question: Question, journey: Journey) -> str:
    if journey.outcome == "promoted":
        return f"is within the margin: it is promoted after {duration(journey.at_s)}, before it could be convicted"
    if journey.outcome == "undecided":
        return f"is neither convicted nor passed: it stays in {_where(question, journey.step)}"
    return f"is rolled back after {duration(journey.at_s)}, in {_where(question, journey.step)}"


def _end(journey: Journey) -> str:
    return "never" if journey.at_s == math.inf else f"{journey.outcome} after {duration(journey.at_s)}"


def _problem(answer: Forecast, problem: str) -> str:
    question, healthy, regressed = answer.question, answer.engine.healthy, answer.engine.regressed
    margins = f"margin_ratio {question.rate_spec.margin_ratio:g} and margin_delta {question.rate_spec.margin_delta:g}"
    deadline = duration(question.deadline_s)
    if problem == "promotion_never":
        return f"With {margins} a healthy canary can never be proven good enough."
    if problem == "promotion_too_late":
        return (
            f"With {margins} a healthy canary needs {duration(healthy.at_s)} starting at"
            f" {question.steps[0].weight_bp / 100:g} %, the deadline is {deadline}."
        )
    if problem == "regression_let_through":
        return f"{margins} call this regression good enough: it is promoted after {duration(regressed.at_s)}."
    return (
        f"The regression needs {duration(regressed.at_s)} to be caught ({_where(question, regressed.step)}),"
        f" the deadline is {deadline}."
    )


def _proposal(proposal: Proposal) -> str:
    weights = ", ".join(f"{step.weight_bp / 100:g}" for step in proposal.steps)
    said = {
        "weights": f"weights {weights} %",
        "margin": f"margin_ratio {proposal.margin_ratio:g}, margin_delta {proposal.margin_delta:g}",
        "deadline": f"a deadline of {duration(proposal.deadline_s)}",
    }
    changes = " and ".join(said[change] for change in proposal.changes)
    outlook = proposal.outlook
    return (
        f"With {changes}: promoted after {duration(outlook.healthy.at_s)},"
        f" the regression caught after {duration(outlook.regressed.at_s)}."
    )


def _where(question: Question, step: int) -> str:
    return f"step {step} of {len(question.steps)} ({question.steps[step - 1].weight_bp / 100:g} %)"


def _cell(need: Need) -> str:
    return f"{_count(need.canary_requests)}\n{duration(need.time_s)}"


def _count(number: float) -> str:
    return "-" if number == math.inf else count(number)


def _yes(answer: bool) -> str:
    return "yes" if answer else "no"

"""``gateway plan``: before a rollout, whether this traffic can decide the plan, how soon, and what to change if not.

Exit statuses: 0 the plan can be decided, 3 it cannot (the output says why and proposes plans that can), 2 the command
line or the configuration is wrong. The arithmetic and its assumptions are in core/analysis/planning.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gateway.admin.schemas import encode
from gateway.cli.names import name, routes
from gateway.cli.options import remote
from gateway.cli.plan_live import live_route
from gateway.cli.plan_question import question_of
from gateway.cli.plan_report import body, show
from gateway.cli.tables import console
from gateway.client import Client
from gateway.config.errors import ConfigError
from gateway.core.analysis.sizing.planning import forecast
from gateway.core.analysis.sizing.proposals import proposals
from gateway.core.analysis.spec import RATE_METRICS
from gateway.core.errors import InvalidValueError

UNDECIDABLE = 3


class _InvalidQuestion(click.ClickException):
    """A question that has no answer; one line, without the usage."""

    exit_code = 2


@click.command()
@click.argument("live", metavar="[ROUTE]", required=False, callback=name, shell_complete=routes)
@click.option("--rate", metavar="NUMBER", help="Requests per second on the route, both versions.")
@click.option("--base-rate", metavar="SHARE", help="Stable's share of such requests, for example 0.01.")
@click.option(
    "--regression",
    metavar="WORSE",
    help="The regression to catch: 2x, +0.01, or a rate.  [default: 2x; +0.01 of a base rate below 0.001]",
)
@click.option("--config", type=click.Path(path_type=Path), help="Take plan, alphas and margins from this file.")
@click.option("--route", metavar="NAME", help="The route in that file, if it has several.")
@click.option("--metric", type=click.Choice(RATE_METRICS), default="errors", show_default=True, help="The metric.")
@click.option("--steps", metavar="LIST", help="Weights in percent, optionally with minimum times: 1,5:10m,25.")
@click.option("--min-time", metavar="TIME", help="Minimum time of each step, for example 10m.")
@click.option("--min-requests", metavar="NUMBER", help="Minimum canary requests of each step.")
@click.option("--deadline", metavar="TIME", help="Of the whole rollout, for example 90m, 1h, 2d.")
@click.option("--alpha", metavar="SHARE", help="Probability of rolling back a healthy canary.")
@click.option("--alpha-promote", metavar="SHARE", help="Probability of promoting one beyond the margin.")
@click.option("--margin-ratio", metavar="NUMBER", help="Good enough: below this multiple of stable's rate.")
@click.option("--margin-delta", metavar="SHARE", help="Good enough: below stable's rate plus this.")
@click.option("--latency/--no-latency", default=None, help="Whether latency must be proven as well.")
@remote
def plan(client: Client, live: str | None, as_json: bool, **options: Any) -> int:
    """Estimate whether this traffic can decide a rollout's plan, and how soon.

    With ROUTE, a running gateway is asked for what is not given: the route's traffic now, how often its stable version
    fails, its bad moments, its plan and its settings.

    \b
    gateway plan digits
    gateway plan --rate 50 --base-rate 0.01 --regression 2x --steps 1,5,25,50 --deadline 1h
    gateway plan --rate 50 --base-rate 0.01 --config gateway.yaml --route digits

    Options that are not given come from the file, or are the defaults. Exit status: 0 the plan can be decided; 3 it
    cannot, and plans that can are proposed.
    """  # noqa: D301  # click keeps a paragraph's lines only after a real backspace character
    try:
        known = None if live is None else live_route(client, live, options["metric"])
        answer = forecast(question_of(live=known, **options))
    except ConfigError as error:
        click.echo(str(error), err=True)
        return 2
    except InvalidValueError as error:
        raise _InvalidQuestion(str(error)) from None
    found = proposals(answer)
    if as_json:
        click.echo(encode(body(answer, found)).decode())
    else:
        show(console(), answer, found)
    return 0 if answer.decidable else UNDECIDABLE

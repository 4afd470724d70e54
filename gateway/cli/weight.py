"""``gateway weight``: a route's canary weight, set by hand."""

from __future__ import annotations

import click

from gateway.cli.names import route_argument
from gateway.cli.options import percentage, print_json, reason_option, remote
from gateway.client import Client, one_line


@click.command(context_settings={"ignore_unknown_options": True})  # so that -5 is refused as a percentage
@route_argument()
@click.argument("percent", callback=percentage)
@reason_option
@remote
def weight(client: Client, route: str, percent: float, reason: str, as_json: bool) -> None:
    """Send PERCENT of ROUTE's requests to its canary.

    Takes effect with the next request. During a rollout this also pauses it; `gateway rollout resume` continues.
    """
    view = client.set_weight(route, percent, reason)
    if as_json:
        print_json(view)
        return
    canary = view.canary or "the canary"
    applied = f"{view.workers_applied} of {view.workers} workers use table {view.epoch}"
    click.echo(one_line(f"{view.name}: {view.canary_percent:g} % to {canary}; {applied}"))
    if view.warning:
        click.echo(one_line(f"warning: {view.warning}"), err=True)

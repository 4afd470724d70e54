"""``gateway check CONFIG``: all that serving would refuse, without starting anything and without binding a port.

Exit status 0 with a summary on standard output and a line for each warning (`cautions`) on standard error, or 2 with
one line for each error on standard error (``--json``: a list of objects on standard output).
"""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from gateway.config.errors import ConfigError
from gateway.config.load import load
from gateway.config.routes import RouteConfig
from gateway.config.schema import GatewayConfig
from gateway.config.shape import number
from gateway.config.warnings import warnings


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the errors as a JSON list on standard output.")
def check(config: Path, as_json: bool) -> None:
    """Validate the configuration file CONFIG: all that serving would refuse.

    Exits with 0 when it can be served, with 2 and one line for each error when it cannot.
    """
    try:
        loaded = load(config, for_serving=True)
    except ConfigError as error:
        if as_json:
            click.echo(msgspec.json.format(msgspec.json.encode(error.issues)))
        else:
            click.echo(str(error), err=True)
        raise click.exceptions.Exit(2) from None
    click.echo("[]" if as_json else summary(loaded))
    for warning in warnings(loaded):
        click.echo(f"warning: {warning}", err=True)


def summary(config: GatewayConfig) -> str:
    """What a person wants to see of a configuration at a glance, a line for each route."""
    counted = f"{_count(len(config.routes), 'route')}, {_count(len(config.backends), 'backend')}"
    listeners = f"listen {config.listen}, admin {config.admin.listen}, {_count(config.workers, 'worker')}"
    return "\n".join(
        [f"OK: {counted}", f"  {listeners}, state in {config.state_dir}", *map(_route_line, config.routes)]
    )


def _route_line(route: RouteConfig) -> str:
    serving = "nothing until its canary is promoted" if route.stable is None else route.stable
    where = f"  route {route.name}: {', '.join(route.match.hosts)}{route.match.path_prefix} -> {serving}"
    if route.canary is None:
        return where
    steps = ", ".join(number(step.percent) for step in route.plan.steps)
    return f"{where}, canary {route.canary} at {number(route.canary_percent)} %, steps {steps} %"


def _count(many: int, noun: str) -> str:
    return f"{many} {noun}" if many == 1 else f"{many} {noun}s"

"""``gateway replay FILE``: what the policy, and the rules of others, would have decided on recorded traffic.

Exit status 0 with the answer on standard output, 2 with one line on standard error when the recording, the
configuration or the command line cannot be used.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from gateway.config.routes import RouteConfig
    from gateway.replay.policy import Policy

_ALPHA = click.FloatRange(1e-12, 0.5)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--config", type=click.Path(path_type=Path), help="Judge by a route's analysis and plan in this file.")
@click.option("--route", metavar="NAME", help="Which route, if the file has several with a canary.")
@click.option("--alpha", type=_ALPHA, metavar="P", help="Probability of rolling back a canary that is no worse.")
@click.option("--alpha-promote", type=_ALPHA, metavar="P", help="Probability of promoting one worse than the margin.")
@click.option(
    "--beside",
    default="flagger,argo,kayenta",
    show_default=True,
    metavar="RULES",
    help="Rules to set beside the gateway's on the same traffic, or none.",
)
@click.option("--set", "settings", multiple=True, metavar="RULE.NAME=VALUE", help="Change a parameter of such a rule.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def replay(
    file: Path,
    config: Path | None,
    route: str | None,
    alpha: float | None,
    alpha_promote: float | None,
    beside: str,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show what would have been decided on the traffic recorded in FILE, and when.

    FILE is the gateway's access log (JSON lines), or counts per interval as CSV: at_s,variant,requests,errors
    [,weight_percent,latency_ms and other classes of outcomes such as not_found], one row of stable and one of canary
    for each interval.
    """
    from gateway.config.errors import one_line
    from gateway.core.errors import GatewayError
    from gateway.replay import report, rules
    from gateway.replay.log_reader import LogRecording
    from gateway.replay.readers import open_recording
    from gateway.replay.run import run

    try:
        chosen = rules.names(beside)
        params = rules.parameters(settings)
        recording = open_recording(file, route)
        policy = _policy(config, route, alpha, alpha_promote, route_of_log=isinstance(recording, LogRecording))
        beside_it = {name: params[name] for name in chosen}
        found = [run(one_line(str(file)), one, policy, beside_it) for one in recording.versions()]
    except GatewayError as error:
        click.echo(str(error), err=True)
        raise click.exceptions.Exit(2) from None
    # For a person folded to the terminal; in a file or a pipe a sentence is a line.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    click.echo(report.json(found) if as_json else report.text(found, width))


def _policy(
    config: Path | None, route: str | None, alpha: float | None, alpha_promote: float | None, *, route_of_log: bool
) -> Policy:
    """The policy of a configured route, or the defaults, with the alphas that were given.

    ``route_of_log``: the recording names its routes itself, so that ``route`` needs no configuration.
    """
    import msgspec

    from gateway.config.build import analysis_spec, plan
    from gateway.config.routes import MatchConfig, RouteConfig
    from gateway.core.errors import InvalidValueError
    from gateway.replay.policy import Policy

    if config is not None:
        chosen = _configured(config, route)
    elif route is not None and not route_of_log:
        raise InvalidValueError("--route names a route of a configuration; give the file with --config")
    else:
        chosen = RouteConfig(name="recorded", match=MatchConfig(path_prefix="/"), stable="stable", canary="canary")
    given = {"alpha_rollback": alpha, "alpha_promote": alpha_promote}
    changes = {name: value for name, value in given.items() if value is not None}
    return Policy(msgspec.structs.replace(analysis_spec(chosen), **changes), plan(chosen))


def _configured(path: Path, name: str | None) -> RouteConfig:
    """The named route, or the only one that has a canary."""
    from gateway.config.load import load_elsewhere
    from gateway.core.errors import InvalidValueError

    config = load_elsewhere(path)
    routes = [route for route in config.routes if route.canary is not None and name in (None, route.name)]
    if len(routes) == 1:
        if routes[0].sticky is not None:
            raise InvalidValueError(
                f"{path}: the route {routes[0].name!r} is sticky: its failures are counted by session, and a recording"
                " of requests does not identify sessions; replay it by a route that is not sticky"
            )
        return routes[0]
    names = ", ".join(route.name for route in config.routes if route.canary is not None) or "none"
    wanted = "say which route with --route" if name is None else f"{name!r} is not a route with a canary"
    raise InvalidValueError(f"{path}: {wanted}; routes with a canary: {names}")

"""``gateway status``: routes and rollouts of a running gateway, once or live."""

from __future__ import annotations

import time
from collections.abc import Iterator

import click
import msgspec
from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from gateway.cli import tables
from gateway.cli.glance import glance
from gateway.cli.names import route_argument
from gateway.cli.options import print_json, remote
from gateway.client import ApiError, Client, RolloutBody, RouteView

INTERVAL_S = 1.0
# From so many rollouts on they are read by the page, of so many at most.
_PAGE_MIN = 5
_PAGE_MAX = 200


class Status(msgspec.Struct, frozen=True):
    """Routes, the latest rollout of each that had one, and why the gateway is not ready (empty when it is)."""

    routes: tuple[RouteView, ...]
    rollouts: tuple[RolloutBody, ...]
    not_ready: tuple[str, ...] = ()


@click.command()
@route_argument(required=False)
@click.option("--watch", is_flag=True, help="Keep showing until interrupted.")
@remote
def status(client: Client, route: str | None, watch: bool, as_json: bool) -> None:
    """Show all routes, or ROUTE, with their rollouts and the evidence.

    With --json, an object with "routes", "rollouts" and "not_ready"; with --watch as well, one line whenever it
    changes.
    """
    now = _read(client, route)
    if not watch:
        _show(now, as_json)
    elif as_json or not tables.console().is_terminal:
        _follow(client, route, now, as_json)
    else:
        _live(client, route, now)


def _read(client: Client, name: str | None) -> Status:
    routes = client.routes() if name is None else (client.route(name),)
    wanted = [route.rollout_id for route in routes if route.rollout_id]
    # One page has the newest of all routes; only a gateway with more of them needs further requests.
    page = {} if len(wanted) < _PAGE_MIN else {one.id: one for one in client.rollouts(name, _PAGE_MAX).rollouts}
    rollouts = tuple(page.get(id_) or client.rollout(id_) for id_ in wanted)
    return Status(routes, rollouts, client.readiness().reasons)


def _show(now: Status, as_json: bool) -> None:
    if as_json:
        print_json(now)
    else:
        tables.console().print(_view(now))


def _follow(client: Client, route: str | None, now: Status, as_json: bool) -> None:
    """For a file or a program: the status whenever it has changed."""
    _show(now, as_json)
    for newer in _polled(client, route):
        if isinstance(newer, ApiError):
            click.echo(f"Error: {newer}", err=True)
        elif newer != now:
            now = newer
            _show(now, as_json)


def _live(client: Client, route: str | None, now: Status) -> None:
    """For a person: one view that is redrawn."""
    console = tables.console()
    live = Live(_glance(now, console.width), console=console, auto_refresh=False)
    try:  # not `with`: an interrupt while the view is first drawn must show the cursor again too
        live.start(refresh=True)
        for newer in _polled(client, route):
            if isinstance(newer, ApiError):
                live.update(Text(f"{newer}; trying again", "red"), refresh=True)
            else:
                live.update(_glance(newer, console.width), refresh=True)
    finally:
        live.stop()


def _view(now: Status) -> RenderableType:
    return tables.status_view(now.routes, now.rollouts, now.not_ready)


def _glance(now: Status, width: int) -> RenderableType:
    return glance(now.routes, now.rollouts, now.not_ready, width)


def _polled(client: Client, route: str | None) -> Iterator[Status | ApiError]:
    """The status each second, for ever; a gateway that is away may come back."""
    while True:
        time.sleep(INTERVAL_S)
        try:
            newer: Status | ApiError = _read(client, route)
        except ApiError as refusal:
            newer = refusal
        yield newer

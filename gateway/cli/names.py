"""The names on the command line: routes and rollouts, checked, and completed by the shell.

For completion the gateway is asked that ``--url`` or GATEWAY_URL names, and only for a moment: a shell must not hang on
a gateway that is away.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem

from gateway.api_types import EVENT_CURSOR
from gateway.client import DEFAULT_URL, ApiError, Client

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ASK_TIMEOUT_S = 1.0
_MANY = 50


def name(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A route's name or a rollout's id, where there may be none."""
    if value is not None and not _NAME.fullmatch(value):
        raise click.BadParameter(f"{value!r} is not a valid route name or rollout id", ctx, param)
    return value


def route_argument(*, required: bool = True) -> Callable[..., Any]:
    """The argument ROUTE, as ``route``."""
    return click.argument("route", required=required, callback=name, shell_complete=routes)


def rollout_argument() -> Callable[..., Any]:
    """The argument ROLLOUT, as ``wanted``: a rollout's id, or a route's name for its latest one."""
    return click.argument("wanted", metavar="ROLLOUT", callback=name, shell_complete=_rollouts)


def routes(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The routes that begin so, for the shell."""
    try:
        found = [(route.name, route.phase) for route in _client(ctx).routes()]
    except (ApiError, ValueError):
        return []
    return [CompletionItem(known, help=phase) for known, phase in found if known.startswith(incomplete)]


def _rollouts(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    try:
        found = [(view.id, view.phase) for view in _client(ctx).rollouts(None, _MANY).rollouts]
    except (ApiError, ValueError):
        return []
    items = [CompletionItem(known, help=phase) for known, phase in found if known.startswith(incomplete)]
    return [*routes(ctx, param, incomplete), *items]


def _client(ctx: click.Context) -> Client:
    # While a line is being completed its options are parsed but not checked.
    return Client(ctx.params.get("url") or DEFAULT_URL, ctx.params.get("token"), timeout_s=_ASK_TIMEOUT_S)


def cursor(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """An option's value, if it can be an event's cursor or id. Raises click.BadParameter."""
    if value is None or re.fullmatch(EVENT_CURSOR, value):
        return value
    raise click.BadParameter(f"{value!r} is no event's cursor, such as 5f3a9c1b-17, nor its id", ctx, param)

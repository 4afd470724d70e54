"""What the commands that speak to a running gateway have in common: its address, its token, and how they answer."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import click

from gateway.admin.bodies import encode
from gateway.cli.client import DEFAULT_URL, Client
from gateway.core.errors import InvalidValueError
from gateway.core.types import weight_bp_from_percent

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def name(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A route's name or a rollout's id, where there may be none."""
    if value is not None and not _NAME.fullmatch(value):
        raise click.BadParameter(f"{value!r} is not the name of a route or the id of a rollout", ctx, param)
    return value


def percentage(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """A percentage from 0 to 100 in steps of 0.01."""
    try:
        percent = float(value)
        weight_bp_from_percent(percent)
    except InvalidValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a percentage; give a number from 0 to 100", ctx, param) from None
    return percent


def _url(ctx: click.Context, param: click.Parameter, value: str) -> str:
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or not value.isprintable() or not value.isascii() or " " in value:
        raise click.BadParameter(f"{value!r} is not a URL such as {DEFAULT_URL}", ctx, param)
    return value


def _token(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    token = value.strip() if value else None
    if token and not all(" " < char <= "~" for char in token):
        raise click.BadParameter("a token has neither spaces nor letters outside ASCII", ctx, param)
    return token


def remote(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options --url, --token and --json, and pass it ``client`` and ``as_json``."""

    @click.option(
        "--url",
        envvar="GATEWAY_URL",
        default=DEFAULT_URL,
        show_default=True,
        callback=_url,
        show_envvar=True,
        help="The gateway's admin address.",
    )
    @click.option("--token", envvar="GATEWAY_TOKEN", callback=_token, show_envvar=True, help="The admin token.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
    @functools.wraps(command)
    def wrapped(url: str, token: str | None, **options: Any) -> None:
        command(client=Client(url, token), **options)

    return wrapped


def print_json(body: Any) -> None:
    """One JSON value on one line."""
    click.echo(encode(body).decode())

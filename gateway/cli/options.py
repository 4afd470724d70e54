"""What the commands for a running gateway share: its address, its token, and how they print."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import click

from gateway.admin.decode import one_line
from gateway.admin.schemas import encode
from gateway.client import DEFAULT_URL, Client
from gateway.core.errors import InvalidValueError
from gateway.core.types import weight_bp_from_percent


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
        socket = parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/")
        good = socket or (parts.scheme in ("http", "https") and parts.hostname and parts.port != 0)
    except ValueError:
        good = False
    if not good or not value.isprintable() or not value.isascii() or " " in value:
        known = f"{DEFAULT_URL} or unix:///run/gateway.sock"
        raise click.BadParameter(f"{value!r} is not a URL such as {known}", ctx, param)
    return value


def _token(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    token = value.strip() if value else None
    if token and not all(" " < char <= "~" for char in token):
        raise click.BadParameter("a token contains only printable ASCII, without spaces", ctx, param)
    return token


def remote(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """Give a command the options --url, --token and --json, and pass it ``client`` and ``as_json``."""

    @click.option(
        "--url",
        envvar="GATEWAY_URL",
        default=DEFAULT_URL,
        show_default=True,
        callback=_url,
        show_envvar=True,
        help="The gateway's admin address; unix:///PATH for a socket.",
    )
    @click.option("--token", envvar="GATEWAY_TOKEN", callback=_token, show_envvar=True, help="The admin token.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @functools.wraps(command)
    def wrapped(url: str, token: str | None, **options: Any) -> int | None:
        with contextlib.closing(Client(url, token)) as client:
            return command(client=client, **options)

    return wrapped


def _reason(ctx: click.Context, param: click.Parameter, value: str) -> str:
    try:
        return one_line("the reason", value)
    except InvalidValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


reason_option = click.option("--reason", default="", callback=_reason, help="Recorded in the journal.")


def confirm(question: str, *, yes: bool) -> None:
    """Ask the person at the terminal; one who says no is as good as an interrupt. A program is taken at its word."""
    if not yes and sys.stdin.isatty():
        click.confirm(question, abort=True, err=True)


yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")


def print_json(body: Any) -> None:
    """One JSON value on one line."""
    click.echo(encode(body).decode())

"""``gateway api``: any operation of the admin API, for what has no command of its own."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from gateway.cli.options import print_json, remote
from gateway.client import Client
from gateway.client.calls import Call

_NAME = re.compile(r"[A-Za-z0-9-]+")
# What the gateway says that is no JSON: metrics, and the configuration for those who accept YAML.
_TEXTS = ("text/plain", "text/html", "text/markdown", "application/openmetrics-text", "application/yaml")
_METHODS = ("GET", "POST", "PUT", "DELETE")


def _headers(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for value in values:
        name, colon, text = value.partition(":")
        if not colon or not _NAME.fullmatch(name) or not text.isprintable() or not text.isascii():
            raise click.BadParameter(f"{value!r} is not NAME: VALUE", ctx, param)
        found[name.lower()] = text.strip()
    return found


@click.command()
@click.argument("method", type=click.Choice(_METHODS, case_sensitive=False))
@click.argument("path")
@click.option("--data", help="The JSON body; @FILE reads a file, @- standard input.")
@click.option("--header", "headers", multiple=True, callback=_headers, help="A header, such as 'If-Match: \"tag\"'.")
@remote
def api(client: Client, method: str, path: str, data: str | None, headers: dict[str, str], as_json: bool) -> None:
    """Send a request to the admin API (PATH below /api/v1) and print the answer.

    For example: gateway api GET /routes. /metrics, /healthz, /readyz and /openapi.json are also available;
    gateway api GET /openapi.json describes all operations.
    """
    del as_json  # what is JSON is printed as JSON in any case
    where = "/" + path.removeprefix("/api/v1").lstrip("/")
    answer = client.send(Call(method.upper(), where, object, _body(data), headers=headers))
    if answer.headers.get("content-type", "").startswith(_TEXTS):
        click.echo("".join(char if char.isprintable() or char == "\n" else " " for char in answer.text), nl=False)
    else:
        print_json(client.plain(answer))


def _body(data: str | None) -> bytes | None:
    if data is None or not data.startswith("@"):
        return None if data is None else data.encode()
    if data == "@-":
        return sys.stdin.buffer.read()
    try:
        return Path(data[1:]).read_bytes()
    except OSError as error:
        raise click.BadParameter(f"{data[1:]}: {error.strerror}", param_hint="--data") from None

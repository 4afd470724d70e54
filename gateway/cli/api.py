"""``gateway api``: any operation of the admin API, for what no other command says more shortly."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gateway.cli.client import Client
from gateway.cli.options import print_json, remote

_METHODS = ("GET", "POST", "PUT", "DELETE")


@click.command()
@click.argument("method", type=click.Choice(_METHODS, case_sensitive=False))
@click.argument("path")
@click.option("--data", help="The JSON of the request's body; @FILE reads a file, @- standard input.")
@remote
def api(client: Client, method: str, path: str, data: str | None, as_json: bool) -> None:
    """Send METHOD to PATH of the admin API (below /api/v1) and print the JSON of its answer.

    For example: gateway api GET /routes. GET /openapi.json of the gateway describes all operations.
    """
    del as_json  # it is JSON in any case
    print_json(client.call(method.upper(), "/" + path.removeprefix("/api/v1").lstrip("/"), _body(data)))


def _body(data: str | None) -> bytes | None:
    if data is None or not data.startswith("@"):
        return None if data is None else data.encode()
    if data == "@-":
        return sys.stdin.buffer.read()
    try:
        return Path(data[1:]).read_bytes()
    except OSError as error:
        raise click.BadParameter(f"{data[1:]}: {error.strerror}", param_hint="--data") from None

"""``gateway token new``: a new token for the admin API, and its entry for the configuration."""

from __future__ import annotations

import secrets

import click
import msgspec

from gateway.config.admin import Scope, principal_name
from gateway.config.errors import BadValue
from gateway.config.host_checks import sha256_of

_RANDOM_BYTES = 32


@click.group()
def token() -> None:
    """Create tokens for the admin API."""


def _name(_: click.Context, __: click.Parameter, value: str) -> str:
    try:
        return principal_name(value)
    except BadValue as bad:
        raise click.BadParameter(str(bad)) from None


@token.command()
@click.option("--name", required=True, callback=_name, help="Its owner, as shown in the audit trail.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice([scope.value for scope in Scope]),
    help="A permission; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def new(name: str, scopes: tuple[str, ...], as_json: bool) -> None:
    """Print a new token, which is not stored anywhere, and its entry (a hash) for the configuration."""
    made = secrets.token_urlsafe(_RANDOM_BYTES)
    entry = {"name": name, "scopes": list(dict.fromkeys(scopes)), "sha256": sha256_of(made)}
    if as_json:
        click.echo(msgspec.json.encode({"token": made, "config": entry}))
        return
    click.echo(made)
    click.echo("\nadmin:\n  tokens:", err=True)
    click.echo(f"    - {{name: {name}, scopes: [{', '.join(entry['scopes'])}], sha256: {entry['sha256']}}}", err=True)

"""``gateway config``: show or replace the configuration of a running gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gateway.cli.options import confirm, print_json, remote, yes_option
from gateway.client import Client, one_line
from gateway.config.document import read_tree
from gateway.config.errors import BadValue
from gateway.config.yaml_text import to_yaml

dry_run_option = click.option("--dry-run", is_flag=True, help="Only print what would change.")


@click.group("config")
def configuration() -> None:
    """Show or replace the configuration of a running gateway."""


@configuration.command()
@click.option("--defaults", is_flag=True, help="Include every key that has its default.")
@remote
def show(client: Client, defaults: bool, as_json: bool) -> None:
    """Print the active configuration, without secrets."""
    found = client.call("GET", "/config", params={"defaults": "true"} if defaults else None)
    if as_json:
        print_json(found)
    else:
        click.echo(to_yaml(found), nl=False)


@configuration.command()
@remote
def source(client: Client, as_json: bool) -> None:
    """Show where the active configuration comes from: the file, or who replaced it."""
    found = client.call("GET", "/config/source")
    if as_json:
        print_json(found)
    else:
        click.echo(one_line(", ".join(f"{key}: {value}" for key, value in found.items() if value is not None)))


@configuration.command()
@click.argument("file", type=click.Path(path_type=Path))
@dry_run_option
@yes_option
@remote
def apply(client: Client, file: Path, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Replace the configuration by FILE: validated first, then started, then swapped in.

    It survives restarts, until the file that the gateway was started with changes; see docs/api.md.
    """
    try:
        tree = read_tree(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, BadValue) as error:
        raise click.BadParameter(f"{file}: {one_line(str(error))}", param_hint="FILE") from None
    _change(client, "PUT", "/config", "Replace the configuration", dry_run, yes, as_json, tree)


@configuration.command()
@dry_run_option
@yes_option
@remote
def reload(client: Client, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Reload the gateway's own configuration file."""
    _change(client, "POST", "/config/reload", "Reload the configuration", dry_run, yes, as_json)


@configuration.command()
@dry_run_option
@yes_option
@remote
def revert(client: Client, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Return to the gateway's own file as it was at the start."""
    _change(client, "DELETE", "/config", "Drop the replacement", dry_run, yes, as_json)


def _change(
    client: Client, method: str, path: str, what: str, dry_run: bool, yes: bool, as_json: bool, tree: Any = None
) -> None:
    if not dry_run:
        planned = client.call(method, path, tree, params={"dry_run": "true"})
        confirm(f"{what}? It changes: {_places(planned)}.", yes=yes)
    change = client.call(method, path, tree, params={"dry_run": "true"} if dry_run else None)
    if as_json:
        print_json(change)
    else:
        click.echo(f"{'would change' if dry_run else 'changed'}: {_places(change)}")


def _places(change: dict[str, Any]) -> str:
    return one_line(", ".join(change["changed"])) or "nothing"

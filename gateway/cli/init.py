"""``gateway init``: a configuration to begin with, from the URLs of two model servers."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.starter import look, starter
from gateway.config.errors import ConfigError
from gateway.config.load import check_text


@click.command()
@click.option("--stable", required=True, metavar="URL", help="The model server of the present version.")
@click.option("--canary", metavar="URL", help="The one of the new version.")
@click.option("--route", "prefix", default="/", show_default=True, metavar="PREFIX", help="Paths that lead there.")
@click.option(
    "--output",
    default="gateway.yaml",
    show_default=True,
    type=click.Path(path_type=Path),
    help="The file to write; one that is there is left as it is.",
)
def init(stable: str, canary: str | None, prefix: str, output: Path) -> None:
    """Write a commented configuration for two model servers, which are asked for their usual health paths.

    Exits with 1 when the file is there already or cannot be written, with 2 when a URL or the prefix cannot be used.
    """
    if output.exists():
        raise click.ClickException(f"{output} is there already: remove it, or name another with --output")
    found = [look(url) for url in (stable, canary) if url is not None]
    for each in found:
        click.echo(str(each), err=True)
    text = starter(found[0], found[1] if len(found) > 1 else None, prefix)
    try:
        check_text(output, text.encode())
    except ConfigError as error:
        click.echo(str(error), err=True)
        raise click.exceptions.Exit(2) from None
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"cannot write {output}: {error.strerror}") from None
    click.echo(f"{output} is written. Next:\n\n  gateway check {output}\n  gateway serve {output}")
    click.echo("  gateway rollout start model" if canary else "  gateway status")

"""``gateway init``: a first configuration file, from the URLs of two model servers."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.starter import detect, starter
from gateway.config.errors import ConfigError
from gateway.config.load import check_text


@click.command()
@click.option("--stable", required=True, metavar="URL", help="The model server of the current version.")
@click.option("--canary", metavar="URL", help="The model server of the new version.")
@click.option("--route", "prefix", default="/", show_default=True, metavar="PREFIX", help="The route's path prefix.")
@click.option(
    "--output",
    default="gateway.yaml",
    show_default=True,
    type=click.Path(path_type=Path),
    help="The file to write; an existing file is not overwritten.",
)
def init(stable: str, canary: str | None, prefix: str, output: Path) -> None:
    """Write a commented configuration for two model servers; their health paths are detected.

    Exit status: 1 if the file exists or cannot be written, 2 if a URL or the prefix is invalid.
    """
    if output.exists():
        raise click.ClickException(f"{output} already exists: remove it, or choose another file with --output")
    found = [detect(url) for url in (stable, canary) if url is not None]
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
    click.echo(f"{output} written. Next:\n\n  gateway check {output}\n  gateway serve {output}")
    click.echo("  gateway rollout start model" if canary else "  gateway status")

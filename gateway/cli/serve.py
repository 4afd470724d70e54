"""``gateway serve CONFIG``: the whole process tree, until told to stop."""

from __future__ import annotations

from pathlib import Path

import click

from gateway import app
from gateway.config.mistakes import ConfigError


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
def serve(config: Path) -> None:
    """Serve by the configuration file CONFIG until told to stop.

    Exits with 0 when stopped, with 1 when it cannot run (a port in use), with 2 and one line for each mistake when the
    configuration cannot be used.
    """
    try:
        status = app.serve(config)
    except ConfigError as error:
        click.echo(str(error), err=True)
        status = 2
    raise click.exceptions.Exit(status)

"""``gateway serve CONFIG``: the whole process tree, until told to stop."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.app import start
from gateway.config.mistakes import ConfigError


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--fd", type=click.IntRange(min=0), help="Accept requests on this inherited listening socket.")
@click.option("--admin-fd", type=click.IntRange(min=0), help="The same for the admin listener.")
@click.option(
    "--watch/--no-watch",
    default=None,
    help="Read CONFIG again when it changes. Default: only where it is a file of a Kubernetes volume.",
)
def serve(config: Path, fd: int | None, admin_fd: int | None, watch: bool | None) -> None:
    """Serve by the configuration file CONFIG until told to stop.

    SIGHUP reads CONFIG again; SIGTERM and SIGINT drain, a second one ends at once. Sockets that systemd passes are
    used in place of `listen` and `admin.listen`.

    Exits with 0 when stopped, with 1 when it cannot run (a port in use), with 2 and one line for each mistake when the
    configuration cannot be used, with 128 + the signal's number when it was made to end at once.
    """
    try:
        status = start.serve(config, fd=fd, admin_fd=admin_fd, watch=watch)
    except ConfigError as error:
        click.echo(str(error), err=True)
        status = 2
    raise click.exceptions.Exit(status)

"""``gateway serve CONFIG``: the whole process tree, until told to stop; or a first look at two URLs."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from gateway.app import start
from gateway.config.errors import ConfigError


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--stable", metavar="URL", help="Without CONFIG: the model server of the present version.")
@click.option("--canary", metavar="URL", help="Without CONFIG: the one of the new version.")
@click.option("--route", "prefix", default="/", metavar="PREFIX", help="Without CONFIG: paths that lead there.  [/]")
@click.option("--fd", type=click.IntRange(min=0), help="Accept requests on this inherited listening socket.")
@click.option("--admin-fd", type=click.IntRange(min=0), help="The same for the admin listener.")
@click.option(
    "--watch/--no-watch",
    default=None,
    help="Read CONFIG again when it changes. Default: only where it is a file of a Kubernetes volume.",
)
def serve(
    config: Path | None,
    stable: str | None,
    canary: str | None,
    prefix: str,
    fd: int | None,
    admin_fd: int | None,
    watch: bool | None,
) -> None:
    """Serve by the configuration file CONFIG until told to stop.

    SIGHUP reads CONFIG again; SIGTERM and SIGINT drain, a second one ends at once. Sockets that systemd passes are
    used in place of `listen` and `admin.listen`. With --stable (and --canary) no file is needed, for a first look:
    nothing is kept after it. `gateway init` writes a file.

    Exits with 0 when stopped, with 1 when it cannot run (a port in use), with 2 and one line for each mistake when the
    configuration cannot be used, with 128 + the signal's number when it was made to end at once.
    """
    if (config is None) == (stable is None):
        raise click.UsageError("give either the configuration file CONFIG, or --stable URL (and --canary URL)")
    if config is not None and (canary is not None or prefix != "/"):
        raise click.UsageError("--canary and --route go with --stable; CONFIG says both by itself")
    try:
        if config is not None:
            status = start.serve(config, fd=fd, admin_fd=admin_fd, watch=watch)
        else:
            assert stable is not None
            status = _first_look(stable, canary, prefix, fd, admin_fd)
    except ConfigError as error:
        click.echo(str(error), err=True)
        status = 2
    raise click.exceptions.Exit(status)


def _first_look(stable: str, canary: str | None, prefix: str, fd: int | None, admin_fd: int | None) -> int:
    """Serve by a configuration that is made of the URLs, in a directory that is removed afterwards."""
    from gateway.cli.starter import look, starter  # noqa: PLC0415  # an HTTP client, which no other start needs

    found = [look(url) for url in (stable, canary) if url is not None]
    for each in found:
        click.echo(str(each), err=True)
    with tempfile.TemporaryDirectory(prefix="canary-gateway-look-", ignore_cleanup_errors=True) as directory:
        path = Path(directory, "gateway.yaml")
        path.write_text(starter(found[0], found[1] if canary else None, prefix), encoding="utf-8")
        click.echo("a first look: rollouts are forgotten when it ends; `gateway init` writes a configuration", err=True)
        return start.serve(path, fd=fd, admin_fd=admin_fd, watch=False)

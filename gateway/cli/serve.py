"""``gateway serve CONFIG``: the whole process tree, until it is stopped; or a first look at two URLs."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from gateway.app import start
from gateway.config.errors import ConfigError


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--stable", metavar="URL", help="Without CONFIG: the model server of the current version.")
@click.option("--canary", metavar="URL", help="Without CONFIG: the model server of the new version.")
@click.option(
    "--route",
    "prefix",
    default="/",
    metavar="PREFIX",
    help="Without CONFIG: the route's path prefix.  [/]",
)
@click.option("--fd", type=click.IntRange(min=0), help="Accept requests on this inherited listening socket.")
@click.option(
    "--admin-fd", type=click.IntRange(min=0), help="Accept admin requests on this inherited listening socket."
)
@click.option(
    "--watch/--no-watch",
    default=None,
    help="Reload CONFIG when it changes.  [default: only if it is mounted from a Kubernetes volume]",
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
    """Run the gateway from the configuration file CONFIG until it is stopped.

    SIGHUP reloads CONFIG. SIGTERM and SIGINT drain; a second one exits at once. Sockets passed by systemd replace
    `listen` and `admin.listen`. For a first look, --stable (and --canary) need no file, and nothing is kept
    afterwards; `gateway init` writes a file.

    Exit status: 0 stopped; 1 cannot run (for example a port in use); 2 invalid configuration, one line per error;
    128 + the signal's number if it was made to exit at once.
    """
    if (config is None) == (stable is None):
        raise click.UsageError("give either the configuration file CONFIG, or --stable URL (and --canary URL)")
    if config is not None and (canary is not None or prefix != "/"):
        raise click.UsageError("--canary and --route are for use with --stable; CONFIG already defines both")
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
    from gateway.cli.starter import detect, starter  # noqa: PLC0415  # an HTTP client, which no other start needs

    found = [detect(url) for url in (stable, canary) if url is not None]
    for each in found:
        click.echo(str(each), err=True)
    with tempfile.TemporaryDirectory(prefix="canary-gateway-look-", ignore_cleanup_errors=True) as directory:
        path = Path(directory, "gateway.yaml")
        path.write_text(starter(found[0], found[1] if canary else None, prefix), encoding="utf-8")
        click.echo(
            "first look: all state is lost on exit; to keep it, write a configuration with `gateway init`", err=True
        )
        return start.serve(path, fd=fd, admin_fd=admin_fd, watch=False)

"""``gateway backup``: a copy of a running gateway's state, in a file."""

from __future__ import annotations

import stat
from pathlib import Path

import click

from gateway.cli.options import print_json, remote
from gateway.client import ApiError, Client
from gateway.client.calls import Call
from gateway.config.files import write_whole

_SIGNATURE = b"SQLite format 3\0"


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@remote
def backup(client: Client, file: Path, as_json: bool) -> None:
    """Copy the state of a running gateway to FILE, replacing what is there.

    To restore it, put it into the state directory of a gateway that is not running, as state.sqlite3.
    """
    if file.exists() and not stat.S_ISREG(file.stat().st_mode):
        raise ApiError(f"{file} is not a regular file: name another one")
    content = client.send(Call("GET", "/backup", bytes)).content
    if not content.startswith(_SIGNATURE):
        raise ApiError("the gateway did not answer with a backup: nothing was written")
    try:
        write_whole(file, content)
    except OSError as error:
        raise ApiError(f"cannot write {file}: {error.strerror}") from None
    if as_json:
        print_json({"file": str(file), "bytes": len(content)})
    else:
        click.echo(f"{file}: {len(content)} bytes")

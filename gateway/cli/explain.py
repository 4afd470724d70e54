"""``gateway explain``: the decision history of a rollout, from its journal alone."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.names import rollout_argument
from gateway.cli.options import print_json, remote
from gateway.client import ApiError, Client, StoryBody, one_line
from gateway.control.journal.names import STORE
from gateway.control.journal.sqlite_store import SqliteStore
from gateway.control.show.decision_history import decision_history, lines
from gateway.core.errors import GatewayError


@click.command()
@rollout_argument()
@click.option(
    "--journal",
    "path",
    type=click.Path(path_type=Path),
    help=f"Read this file ({STORE} of a gateway that is not running, or a backup) instead of asking a gateway.",
)
@remote
def explain(client: Client, wanted: str, path: Path | None, as_json: bool) -> None:
    """Show what was decided on ROLLOUT: when, by whom, why, and on which numbers."""
    history = client.explain(client.find(wanted).id) if path is None else _read(path, wanted)
    if as_json:
        print_json(history)
        return
    for line in lines(history.decisions):
        click.echo(one_line(line))


def _read(path: Path, wanted: str) -> StoryBody:
    if not path.is_file():
        raise ApiError(f"there is no file {path}; name {STORE} in the gateway's state directory, or a backup of it")
    try:
        with SqliteStore.open(path) as store:
            journal = store.journal
            latest = journal.latest(wanted)
            rollout_id = wanted if latest is None else latest.rollout_id
            return StoryBody(rollout_id, tuple(decision_history(journal.events(rollout_id))))
    except GatewayError as error:
        raise ApiError(str(error)) from None

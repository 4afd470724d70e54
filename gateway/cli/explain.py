"""``gateway explain``: the decision history of a rollout, or a report of it to send around."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from gateway.cli.names import rollout_argument
from gateway.cli.options import print_json, remote
from gateway.client import ApiError, Client, StoryBody, one_line
from gateway.client.calls import Call
from gateway.control.journal.names import STORE
from gateway.control.journal.sqlite_store import SqliteStore
from gateway.control.journal.store import Journal
from gateway.control.show.decision_history import decision_history, lines
from gateway.core.errors import GatewayError

T = TypeVar("T")


@click.command()
@rollout_argument()
@click.option(
    "--journal",
    "path",
    type=click.Path(path_type=Path),
    help=f"Read this file ({STORE} of a gateway that is not running, or a backup) instead of asking a gateway.",
)
@click.option("--html", "form", flag_value="html", help="Write a report as a page of its own: > report.html")
@click.option("--markdown", "form", flag_value="markdown", help="Write a report for a comment or a step summary.")
@remote
def explain(client: Client, wanted: str, path: Path | None, form: str | None, as_json: bool) -> None:
    """Show what was decided on ROLLOUT: when, by whom, why, and on which numbers.

    With --html or --markdown, write a report: verdict, charts, counts, plan, who did what.
    """
    if form is not None:
        if as_json:
            raise click.UsageError("--json cannot be combined with --html or --markdown")
        click.echo(_report(client, wanted, path, form), nl=False)
        return
    history = client.explain(client.find(wanted).id) if path is None else _read(path, wanted)
    if as_json:
        print_json(history)
        return
    for line in lines(history.decisions):
        click.echo(one_line(line))


def _report(client: Client, wanted: str, path: Path | None, form: str) -> str:
    if path is None:
        call = Call("GET", f"/rollouts/{client.find(wanted).id}/report", object, params={"format": form})
        return client.send(call).text
    from gateway import report  # noqa: PLC0415  # it draws charts, which nobody else here needs
    from gateway.report.facts import from_journal  # noqa: PLC0415  # as above

    facts = _from(path, wanted, from_journal)
    return report.html(facts) if form == "html" else report.markdown(facts)


def _read(path: Path, wanted: str) -> StoryBody:
    return _from(path, wanted, lambda journal, one: StoryBody(one, tuple(decision_history(journal.events(one)))))


def _from(path: Path, wanted: str, make: Callable[[Journal, str], T]) -> T:
    """What the journal in this file says of a rollout, or of a route's latest one."""
    if not path.is_file():
        raise ApiError(f"there is no file {path}; name {STORE} in the gateway's state directory, or a backup of it")
    try:
        with SqliteStore.open(path) as store:
            latest = store.journal.latest(wanted)
            return make(store.journal, wanted if latest is None else latest.rollout_id)
    except GatewayError as error:
        raise ApiError(str(error)) from None

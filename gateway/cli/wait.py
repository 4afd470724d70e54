"""``gateway rollout wait``: for pipelines, which need one exit status for the whole rollout."""

from __future__ import annotations

import click

from gateway.cli.names import rollout_argument
from gateway.cli.options import print_json, remote
from gateway.client import Client, RolloutBody, WaitTimeoutError, one_line

UNDECIDED, ROLLED_BACK = 3, 4
_STATUS = {"PROMOTED": 0, "ROLLED_BACK": ROLLED_BACK}


@click.command()
@rollout_argument()
@click.option("--timeout", "timeout_s", type=click.FloatRange(0), help="Stop waiting after that.  [never]")
@click.option("--quiet", "-q", is_flag=True, help="Print only the result.")
@remote
def wait(client: Client, wanted: str, timeout_s: float | None, quiet: bool, as_json: bool) -> int:
    """Wait until ROLLOUT has ended; decisions on the way go to standard error.

    Exit status: 0 promoted, 4 rolled back, 3 undecided (timed out, or withdrawn), 1 the gateway refused or cannot be
    reached.
    """
    return until_over(client, client.find(wanted), timeout_s, quiet=quiet, as_json=as_json)


def until_over(client: Client, view: RolloutBody, timeout_s: float | None, *, quiet: bool, as_json: bool) -> int:
    """Wait for the end of a rollout, telling of each decision; returns the exit status."""
    try:
        view = client.wait(view, timeout_s, None if quiet else _tell)
    except WaitTimeoutError as timeout:
        view = timeout.rollout
    if as_json:
        print_json(view)
    else:
        click.echo(one_line(f"{view.id}: {view.phase} at {view.canary_percent:g} %: {view.reason}"))
    return _STATUS.get(view.phase, UNDECIDED)


def _tell(view: RolloutBody) -> None:
    click.echo(one_line(f"{view.updated_at} {view.phase} at {view.canary_percent:g} %: {view.reason}"), err=True)

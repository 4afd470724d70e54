"""``gateway rollout wait``: for pipelines, which need one exit status for the whole rollout."""

from __future__ import annotations

import time

import click

from gateway.admin.client import ApiError, Client, one_line
from gateway.admin.schemas import RolloutBody
from gateway.cli.names import rollout_argument
from gateway.cli.options import print_json, remote

UNDECIDED, ROLLED_BACK = 3, 4
_STATUS = {"PROMOTED": 0, "ROLLED_BACK": ROLLED_BACK, "WITHDRAWN": UNDECIDED}
# A gateway that is restarted is away for a moment; its journal remembers the rollout.
_AWAY_S_MAX = 60.0
_ASK_AGAIN_S = 1.0


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
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    _tell(view, quiet)
    while view.phase not in _STATUS:
        left_s = float("inf") if deadline_s is None else deadline_s - time.monotonic()
        if left_s <= 0:
            break
        newer = _changed(client, view, left_s)
        if newer.revision != view.revision:
            _tell(newer, quiet)
        view = newer
    if as_json:
        print_json(view)
    else:
        click.echo(one_line(f"{view.id}: {view.phase} at {view.canary_percent:g} %: {view.reason}"))
    return _STATUS.get(view.phase, UNDECIDED)


def _changed(client: Client, view: RolloutBody, left_s: float) -> RolloutBody:
    """The next that is decided; a gateway that is away may come back."""
    away_s = time.monotonic() + min(left_s, _AWAY_S_MAX)
    while True:
        try:
            return client.changed(view, left_s)
        except ApiError as refusal:
            if refusal.status is not None or time.monotonic() >= away_s:
                raise
            time.sleep(min(_ASK_AGAIN_S, left_s))


def _tell(view: RolloutBody, quiet: bool) -> None:
    if not quiet:
        click.echo(one_line(f"{view.updated_at} {view.phase} at {view.canary_percent:g} %: {view.reason}"), err=True)

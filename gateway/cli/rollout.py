"""``gateway rollout``: start, control and inspect rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gateway.admin.decode import parse
from gateway.cli import tables
from gateway.cli.names import name, rollout_argument, route_argument
from gateway.cli.options import confirm, print_json, reason_option, remote, yes_option
from gateway.cli.version import version_options
from gateway.cli.wait import until_over, wait
from gateway.client import Client, RolloutBody
from gateway.client import one_line as shown
from gateway.core.errors import GatewayError

_LIMIT_MAX = 200


@click.group()
def rollout() -> None:
    """Start, control and inspect rollouts.

    ROLLOUT is a rollout's id, or a route's name for its latest one.
    """


rollout.add_command(wait)


@rollout.command()
@route_argument()
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(path_type=Path),
    help="A JSON file with a plan to use instead.",
)
@version_options
@click.option("--idempotency-key", "key", help="Started with the same key before: that rollout again, for a day.")
@click.option("--retry", is_flag=True, help="Allow a canary that was rolled back on this route before.")
@click.option("--watch", is_flag=True, help="Then wait for its end, like `gateway rollout wait`.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0), help="With --watch: stop waiting after that.")
@reason_option
@remote
def start(
    client: Client,
    route: str,
    plan_file: Path | None,
    asked: dict[str, Any],
    key: str | None,
    retry: bool,
    watch: bool,
    timeout_s: float | None,
    reason: str,
    as_json: bool,
) -> int:
    """Start a rollout of ROUTE's canary, or of a --version, with the configured plan or another.

    Starting a version again while its rollout is under way, or after its promotion, changes nothing and shows that
    rollout.

    A plan is {"steps": [{"percent": 5, "min_time_s": 10, "min_requests": 50}, ...], "deadline_s": 3600,
    "on_deadline": "hold"}.
    """
    plan = None if plan_file is None else _plan(plan_file)
    view = client.start_rollout(route, **asked, plan=plan, reason=reason, retry=retry, idempotency_key=key)
    if watch:
        return until_over(client, view, timeout_s, quiet=False, as_json=as_json)
    _answer(view, as_json)
    return 0


@rollout.command()
@rollout_argument()
@reason_option
@remote
def pause(client: Client, wanted: str, reason: str, as_json: bool) -> None:
    """Hold the weight; a bad canary is still rolled back."""
    _answer(client.decide(client.find(wanted).id, "pause", reason), as_json)


@rollout.command()
@rollout_argument()
@reason_option
@remote
def resume(client: Client, wanted: str, reason: str, as_json: bool) -> None:
    """Continue a paused rollout."""
    _answer(client.decide(client.find(wanted).id, "resume", reason), as_json)


@rollout.command()
@rollout_argument()
@reason_option
@remote
def approve(client: Client, wanted: str, reason: str, as_json: bool) -> None:
    """Approve the step for which the rollout is waiting."""
    _answer(client.decide(client.find(wanted).id, "approve", reason), as_json)


@rollout.command()
@rollout_argument()
@click.option("--next-step", is_flag=True, help="Only advance to the next step of its plan.")
@reason_option
@yes_option
@remote
def promote(client: Client, wanted: str, next_step: bool, reason: str, yes: bool, as_json: bool) -> None:
    """Promote by hand, regardless of the evidence: all requests go to the canary."""
    found = client.find(wanted)
    where = "to its next step" if next_step else f"so that {found.canary} serves all of {found.route}"
    confirm(shown(f"Promote {found.id} {where}?"), yes=yes)
    _answer(client.decide(found.id, "promote", reason, next_step=next_step), as_json)


@rollout.command()
@rollout_argument()
@reason_option
@remote
def abort(client: Client, wanted: str, reason: str, as_json: bool) -> None:
    """Roll back by hand, without confirmation: all requests go to stable."""
    _answer(client.decide(client.find(wanted).id, "abort", reason), as_json)


@rollout.command("list")
@route_argument(required=False)
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, _LIMIT_MAX), help="How many to show.")
@click.option("--before", metavar="ID", callback=name, help="Only rollouts that began before this one.")
@click.option("--search", metavar="WORDS", help="Only rollouts with these words: versions, phase, reason or person.")
@remote
def list_(client: Client, route: str | None, limit: int, before: str | None, search: str | None, as_json: bool) -> None:
    """List the newest rollouts, of ROUTE or of all routes."""
    page = client.rollouts(route, limit, before, search)
    if as_json:
        print_json(page)
    elif page.rollouts:
        tables.console().print(tables.rollouts_table(page.rollouts))
        if page.next_before is not None:
            click.echo(f"there are older ones: --before {shown(page.next_before)}")
    elif before or search:
        click.echo("no rollout matches")
    else:
        click.echo("no rollouts yet; start one with: gateway rollout start ROUTE")


@rollout.command()
@rollout_argument()
@remote
def show(client: Client, wanted: str, as_json: bool) -> None:
    """Show one rollout with its plan and its evidence."""
    found = client.find(wanted)
    if as_json:
        print_json(found)
    else:
        tables.console().print(tables.rollout_view(found))


def _answer(view: RolloutBody, as_json: bool) -> None:
    if as_json:
        print_json(view)
    else:
        click.echo(shown(f"{view.id}: {view.phase} at {view.canary_percent:g} %: {view.reason}"))
        for warning in view.warnings:
            click.echo(shown(f"warning: {warning}"), err=True)


def _plan(path: Path) -> Any:
    """The plan in a file, checked as the gateway will check it."""
    # pydantic takes a third of a second, for this option only
    from gateway.admin.request_schemas import check_plan  # noqa: PLC0415  # see above

    try:
        plan = parse(path.read_bytes())
        check_plan(plan)
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror}", param_hint="--plan") from None
    except GatewayError as error:
        raise click.BadParameter(f"{path}: {error}", param_hint="--plan") from None
    return plan

"""``gateway backends``, ``workers``, ``alarms``, ``audit`` and ``events``: the state of a running gateway."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from gateway.cli import tables
from gateway.cli.names import cursor
from gateway.cli.options import print_json, remote
from gateway.client import Client, EndpointView, one_line
from gateway.client.decode import converted

_LIMIT_MAX = 200


@click.command()
@remote
def backends(client: Client, as_json: bool) -> None:
    """Show the backends, their endpoints, and the health of each with its reason."""
    found = client.call("GET", "/backends")
    rows = [
        (
            backend["name"],
            ", ".join(backend["routes"]) or "-",
            endpoint["url"],
            health_of(converted(EndpointView, endpoint)),
        )
        for backend in found["backends"]
        for endpoint in backend["endpoints"]
    ]
    _show(found, as_json, ("backend", "routes", "endpoint", "health"), rows)


@click.command()
@remote
def workers(client: Client, as_json: bool) -> None:
    """Show the worker processes."""
    found = client.call("GET", "/workers")
    names = ("index", "pid", "epoch", "in_flight", "connections", "heard_ago_s")
    rows = [[f"{worker[name]:g}" for name in names] for worker in found["workers"]]
    _show(found, as_json, ("worker", "pid", "table", "in flight", "connections", "last report s ago"), rows)


@click.command()
@remote
def alarms(client: Client, as_json: bool) -> None:
    """Show active alarms: what is wrong and needs an operator."""
    found = client.call("GET", "/alarms")
    _show(found, as_json, ("what", "why"), [(a["what"], a["reason"]) for a in found["alarms"]], "no active alarms")


@click.command()
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, _LIMIT_MAX), help="How many to show.")
@remote
def audit(client: Client, limit: int, as_json: bool) -> None:
    """Show who requested what on the admin API, newest first, refused requests included."""
    found = client.call("GET", "/audit", params={"limit": limit})
    rows = [
        (e["at"], e["principal"], e["actor"], f"{e['method']} {e['path']}", str(e["status"]), e["problem"] or e["said"])
        for e in found["entries"]
    ]
    _show(found, as_json, ("at", "principal", "actor", "request", "status", "what"), rows, "no requests yet")


@click.command()
@click.option(
    "--after",
    metavar="CURSOR",
    callback=cursor,
    help="Start after this event, if it is still in memory.",
)
@click.option("--kind", "kinds", multiple=True, help="Only events of this kind; repeatable.")
@remote
def events(client: Client, after: str | None, kinds: tuple[str, ...], as_json: bool) -> None:
    """Stream events as they happen, one line each, until interrupted."""
    for event in client.events(after, reconnect=False, silence_s_max=None):
        if kinds and event.kind not in kinds:
            continue
        if as_json:
            print_json(event)
        else:
            who = f"{event.kind} {event.route}" if event.route else event.kind
            click.echo(one_line(f"{event.at} {event.id} {who}: {_what(event.kind, event.data)}"))


def _what(kind: str, data: dict[str, Any]) -> str:
    """An event in a few words; of an analysis what it found, as the rollout's own reason is an older one.

    >>> passed = {"reason": "step 1/3 (5 %) passed", "analysis": {"verdict": "UNDECIDED", "reason": "not proven yet"}}
    >>> _what("analysis", passed), _what("advanced", passed), _what("weight", {"canary_percent": 5.0, "epoch": 2})
    ('UNDECIDED: not proven yet', 'step 1/3 (5 %) passed', 'canary_percent=5.0, epoch=2')
    """
    analysis = data.get("analysis")
    if kind == "analysis" and analysis:
        return f"{analysis['verdict']}: {analysis['reason']}"
    return data.get("reason") or ", ".join(f"{k}={v}" for k, v in data.items() if not isinstance(v, dict | list))


def health_of(endpoint: EndpointView) -> str:
    """An endpoint's health in a few words, and why it is so.

    >>> health_of(EndpointView("v1", "http://a:1", False, "answered 404 to /ready", "2026-01-01T00:00:00+00:00"))
    'DOWN: answered 404 to /ready (since 2026-01-01T00:00:00+00:00)'
    >>> health_of(EndpointView("v1", "http://a:1", True, unknown="Too many open files"))
    'up (probe inconclusive: Too many open files)'
    """
    if endpoint.healthy is None:
        return "not probed"
    words = "up" if endpoint.healthy else f"DOWN: {endpoint.why}"
    if endpoint.healthy is False and endpoint.since:
        words += f" (since {endpoint.since})"
    if endpoint.kept:
        words += "; still in use: it answers requests"
    return words + (f" (probe inconclusive: {endpoint.unknown})" if endpoint.unknown else "")


def _show(
    found: Any, as_json: bool, columns: Sequence[str], rows: Sequence[Sequence[str]], nothing: str = "none"
) -> None:
    if as_json:
        print_json(found)
    elif rows:
        tables.console().print(tables.plain_table(columns, rows))
    else:
        click.echo(nothing)

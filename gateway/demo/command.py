"""`gateway demo`: the command line of the demo."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from gateway.demo.scenarios import LLM_SCENARIOS, SCENARIOS, Scenario, mirrored

_SEED = click.IntRange(0, 2**63 - 1)
_RATE = click.FloatRange(20, 5000)
_WORKERS = click.IntRange(1, 16)
_PORT = click.IntRange(0, 65535)


def _fresh_directory(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    # The journal of another run in it would start this one at its weight.
    if path is not None and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise click.BadParameter(f"{path} exists and is not an empty directory; name a new one")
    return path


def _listed(scenarios: Mapping[str, Scenario]) -> str:
    return "\n".join(f"  {one.name:<19}{one.title}" for one in scenarios.values())


@click.command(epilog=f"\b\nScenarios:\n{_listed(SCENARIOS)}\n\n\b\nWith --llm:\n{_listed(LLM_SCENARIOS)}")
@click.option("--llm", "kind", flag_value="llm", help="Two text models that stream, in place of classifiers.")
@click.option(
    "--scenario",
    "name",
    default="good",
    show_default=True,
    type=click.Choice(tuple(SCENARIOS | LLM_SCENARIOS)),
    help="Which canary.",
)
@click.option(
    "--mirror",
    "kind",
    flag_value="mirror",
    help="Begin with copies of stable's requests, which no user sees. Not with --llm: of two, the last one counts.",
)
@click.option("--seed", metavar="N", type=_SEED, help="Repeat an earlier run.  [default: random]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per event, the summary last.")
@click.option("--rate", metavar="N", type=_RATE, help="Requests per second.  [default: 250; with --llm 60]")
@click.option("--workers", metavar="N", default=1, show_default=True, type=_WORKERS, help="Worker processes.")
@click.option("--port", metavar="N", default=0, type=_PORT, help="The gateway's port.  [default: a free one]")
@click.option("--admin-port", metavar="N", default=0, type=_PORT, help="The admin's port.  [default: a free one]")
@click.option(
    "--keep",
    metavar="DIR",
    type=click.Path(path_type=Path),
    callback=_fresh_directory,
    help="Write configuration and journal there, and leave them.",
)
@click.option(
    "--keep-running-s",
    default=0.0,
    type=click.FloatRange(0, 86400),
    metavar="SECONDS",
    help="Keep gateway and traffic running after the decision.",
)
def demo(
    kind: str | None,
    name: str,
    seed: int | None,
    as_json: bool,
    rate: float | None,
    workers: int,
    port: int,
    admin_port: int,
    keep: Path | None,
    keep_running_s: float,
) -> None:
    """Run a whole rollout on this machine: two model servers, the gateway, and a client that replays real inputs.

    Exits with 0 when the rollout came to an end (promoted, rolled back, or held at its deadline), with 1 when the demo
    itself could not run.
    """
    llm, mirror = kind == "llm", kind == "mirror"
    scenarios = LLM_SCENARIOS if llm else SCENARIOS
    if name not in scenarios:
        there_are = f"{'with' if llm else 'without'} --llm there are {', '.join(scenarios)}"
        raise click.BadParameter(f"{name!r} is no scenario here: {there_are}", param_hint="--scenario")
    from gateway.demo.launch import launch
    from gateway.demo.run import DemoSettings

    settings = DemoSettings(
        scenario=mirrored(scenarios[name]) if mirror else scenarios[name],
        mirror=mirror,
        seed=secrets.randbelow(2**31) if seed is None else seed,
        rate_per_s=rate,
        workers=workers,
        port=port,
        admin_port=admin_port,
        keep_running_s=keep_running_s,
    )
    sys.exit(launch(settings, keep, as_json=as_json))

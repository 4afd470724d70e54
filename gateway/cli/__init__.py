"""The command ``gateway``.

Rules:

1. Exit statuses: 0 done, 1 the gateway refused or cannot be reached, 2 the command line or a file it names is wrong,
   3 undecided (`gateway plan`: its traffic cannot decide it; `gateway rollout wait`: not in time), 4 rolled back
   (`gateway rollout wait`), 130 interrupted.
2. A subcommand's module is imported when it is invoked, so that ``gateway status`` does not pay for a model runtime.
3. Errors are one clear line on standard error; standard output is for results.
4. Neither an interrupt nor a reader that goes away (``gateway status | head -1``) shows a traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from gateway import __version__
from gateway.cli.lazy import LazyGroup
from gateway.core.errors import GatewayError
from gateway.runtime.build import described

INTERRUPTED = 130
COMMANDS = {
    "serve": ("gateway.cli.serve:serve", "Run the gateway from a configuration file."),
    "init": ("gateway.cli.init:init", "Write a first configuration file from two URLs."),
    "check": ("gateway.config.command:check", "Validate a configuration file without serving."),
    "plan": ("gateway.cli.plan:plan", "Estimate whether traffic can decide a rollout, and how soon."),
    "status": ("gateway.cli.status:status", "Show routes, rollouts and their evidence."),
    "watch": ("gateway.cli.watch:watch", "Watch one route on the whole screen."),
    "weight": ("gateway.cli.weight:weight", "Set a route's canary weight by hand."),
    "rollout": ("gateway.cli.rollout:rollout", "Start, control and inspect rollouts."),
    "explain": ("gateway.cli.explain:explain", "Explain a rollout, decision by decision."),
    "backends": ("gateway.cli.gateway_state:backends", "Show backends and the health of their endpoints."),
    "workers": ("gateway.cli.gateway_state:workers", "Show the worker processes."),
    "alarms": ("gateway.cli.gateway_state:alarms", "Show active alarms."),
    "events": ("gateway.cli.gateway_state:events", "Stream events as they happen."),
    "audit": ("gateway.cli.gateway_state:audit", "Show who requested what on the admin API."),
    "backup": ("gateway.cli.backup:backup", "Copy a running gateway's state to a file."),
    "config": ("gateway.cli.configuration:configuration", "Show or replace a running gateway's configuration."),
    "api": ("gateway.cli.api:api", "Send a request to the admin API."),
    "token": ("gateway.cli.token:token", "Create tokens for the admin API."),
    "replay": ("gateway.replay.command:replay", "Show what would have been decided on recorded traffic."),
    "demo": ("gateway.demo.command:demo", "Run a complete rollout with real models, in a minute."),
    "completion": ("gateway.cli.completion:completion", "Print a shell completion script."),
    "model-server": ("gateway.serving.command:model_server", "Serve an ONNX model over HTTP."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gateway", message=f"%(prog)s %(version)s (data plane {described()})")
def gateway() -> None:
    """A canary serving gateway: two model versions behind one address, and a proof of which one to keep."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line (default: the process's) and exit with its status."""
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered has no reader; without this the interpreter complains about it at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        result = gateway.main(arguments, prog_name="gateway", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except GatewayError as error:
        click.ClickException(str(error)).show()
        return 1
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    return result if isinstance(result, int) else 0

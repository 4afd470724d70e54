"""``gateway completion``: the script with which a shell completes commands, options and names (names.py)."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_VARIABLE = "_GATEWAY_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for SHELL.

    For bash: add `eval "$(gateway completion bash)"` to ~/.bashrc. For zsh the same with zsh, in ~/.zshrc. For fish:
    `gateway completion fish > ~/.config/fish/completions/gateway.fish`.
    """
    kind = get_completion_class(shell)
    assert kind is not None  # the choices above are click's own
    click.echo(kind(ctx.find_root().command, {}, "gateway", _VARIABLE).source())

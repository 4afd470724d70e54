"""The options of `gateway rollout start` that describe a version to roll out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

_OPTIONS = (
    click.option("--version", help="Roll out this version: it becomes the route's canary, at the --endpoint given."),
    click.option("--endpoint", "endpoints", multiple=True, metavar="URL", help="Where it is served; repeatable."),
    click.option("--model", default="", help="With --version: the model's name in its registry."),
    click.option("--uri", default="", help="With --version: where the model comes from, such as models:/digits/7."),
    click.option("--digest", default="", help="With --version: the artifact's digest, such as sha256:..."),
)


def version_options(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """Give a command these options, and pass it ``asked``: the arguments of `Client.start_rollout` for them."""

    @functools.wraps(command)
    def wrapped(
        version: str | None, endpoints: tuple[str, ...], model: str, uri: str, digest: str, **options: Any
    ) -> int | None:
        if (version is None) == bool(endpoints):
            raise click.UsageError("--version and --endpoint belong together: give both or neither")
        described = {"model": model, "uri": uri, "digest": digest}
        if version is None and any(described.values()):
            raise click.UsageError("--model, --uri and --digest describe a --version: give it too")
        asked = {} if version is None else {"version": version, "endpoints": endpoints} | described
        return command(asked=asked, **options)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped

"""``gateway init``: a first configuration file, from the URLs of two model servers."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.starter import HEALTH_PATHS, PROTOCOLS, ProbedServer, detect, starter
from gateway.config.errors import ConfigError
from gateway.config.load import check_text


@click.command()
@click.option("--stable", required=True, metavar="URL", help="The model server of the current version.")
@click.option("--canary", metavar="URL", help="The model server of the new version.")
@click.option("--route", "prefix", default="/", show_default=True, metavar="PREFIX", help="The route's path prefix.")
@click.option(
    "--protocol",
    type=click.Choice(list(PROTOCOLS)),
    default="auto",
    show_default=True,
    help="What the servers speak: oip (Open Inference Protocol: Triton, KServe, MLServer), json (KServe V1, TensorFlow "
    "Serving, MLflow, BentoML, Ray Serve, an application of your own) or openai (vLLM, TGI, LiteLLM).",
)
@click.option("--probe", metavar="PATH", help="The health path, if it is none of the usual ones.")
@click.option(
    "--output",
    default="gateway.yaml",
    show_default=True,
    type=click.Path(path_type=Path),
    help="The file to write; an existing file is not overwritten.",
)
def init(stable: str, canary: str | None, prefix: str, protocol: str, probe: str | None, output: Path) -> None:
    """Write a commented configuration for two model servers; their health paths are detected.

    Exit status: 1 if the file exists or cannot be written, 2 if a URL or the prefix is invalid.
    """
    if output.exists():
        raise click.ClickException(f"{output} already exists: remove it, or choose another file with --output")
    found = [_probed(url, probe) for url in (stable, canary) if url is not None]
    text = starter(found[0], found[1] if len(found) > 1 else None, prefix, protocol)
    try:
        check_text(output, text.encode())
    except ConfigError as error:
        click.echo(str(error), err=True)
        raise click.exceptions.Exit(2) from None
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"cannot write {output}: {error.strerror}") from None
    click.echo(f"{output} written. Next:\n\n  gateway check {output}\n  gateway serve {output}")
    click.echo("  gateway rollout start model" if canary else "  gateway status")


def _probed(url: str, path: str | None) -> ProbedServer:
    """The server and its health path, which is said; a path that was given is kept whatever the server answers."""
    found = detect(url, HEALTH_PATHS if path is None else (path,))
    if path is None or found.probe is not None:
        click.echo(str(found), err=True)
        return found
    click.echo(f"{url} does not answer on {path} at present: probing that all the same", err=True)
    return ProbedServer(url, reached=True, probe=path)

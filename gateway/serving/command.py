"""`gateway model-server MODEL`: the command line of the bundled model server."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gateway.serving.errors import FaultError
from gateway.serving.faults import KEYS, InjectedFaults


def _faults(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> InjectedFaults:
    try:
        return InjectedFaults.from_options(texts)
    except FaultError as error:
        raise click.BadParameter(str(error)) from None


@click.command("model-server")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8001, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free port.")
@click.option("--name", help="Name to serve under.  [default: the model's metadata, else the file's name]")
@click.option("--version", help="Version to serve as.  [default: the model's metadata, else 1]")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 64), help="Inferences at a time.")
@click.option(
    "--queue",
    "queue_max",
    default=64,
    show_default=True,
    type=click.IntRange(0),
    help="Requests that may wait; more get 503.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="KEY[=VALUE]",
    callback=_faults,
    help=f"Fail on purpose; repeatable. Keys: {', '.join(KEYS)}.",
)
@click.option("--fault-seed", type=int, help="Random seed of the faults.")
@click.option("--fault-control", is_flag=True, help="Let PUT /v2/faults switch faults at run time.")
def model_server(
    model: Path,
    host: str,
    port: int,
    name: str | None,
    version: str | None,
    threads: int,
    queue_max: int,
    faults: InjectedFaults,
    fault_seed: int | None,
    fault_control: bool,
) -> None:
    """Serve the file MODEL over HTTP.

    An .onnx file by the Open Inference Protocol v2, a text model (.json) by OpenAI's chat completions and completions,
    streaming and not.

    Exits with 2 if the file cannot be served, 1 if the port cannot be listened on, 0 when stopped.
    """
    if model.suffix == ".json":
        from gateway.serving.text_server import serve as serve_text  # late, as below

        sys.exit(
            serve_text(
                model,
                host=host,
                port=port,
                name=name,
                version=version,
                faults=faults,
                fault_seed=fault_seed,
                fault_control=fault_control,
            )
        )
    from gateway.serving.server import serve  # late: onnxruntime takes a moment that `--help` should not

    sys.exit(
        serve(
            model,
            host=host,
            port=port,
            name=name,
            version=version,
            faults=faults,
            fault_seed=fault_seed,
            fault_control=fault_control,
            threads=threads,
            queue_max=queue_max,
        )
    )

"""The model server over HTTP: Open Inference Protocol v2 on Starlette, hosted by uvicorn.

    GET  /v2                                              name, version, extensions of the server
    GET  /v2/health/live, /v2/health/ready
    GET  /v2/models/{name}[/versions/{version}]           metadata
    GET  /v2/models/{name}[/versions/{version}]/ready
    POST /v2/models/{name}[/versions/{version}]/infer     JSON, or JSON with binary tensor data behind it
    POST /v2/models/{name}[/versions/{version}]/infer_stream
                                                          the same, as an event stream (streams.py)
    GET, PUT /v2/faults                                   only if fault control is on

Every error is `{"error": "..."}`: 400 for input that does not fit, 404 for an unknown model, version or path, 405, 413,
415 as they mean, 503 with Retry-After when the bounded queue is full, 500 only for the server's own failures and for
injected ones. The event loop parses and writes; the model runs on the runner's threads alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway import __version__
from gateway.serving import streams
from gateway.serving.errors import ModelLoadError, RequestError
from gateway.serving.faults import Fate, FaultSource, InjectedFaults
from gateway.serving.hosting import complain, run
from gateway.serving.model import Model
from gateway.serving.protocol import (
    HEADER_LENGTH,
    InferAnswer,
    choose_outputs,
    decode_inputs,
    encode_answer,
    header_length,
    parse_request,
)
from gateway.serving.replies import (
    FaultControl,
    application,
    crash,
    error_response,
    json_response,
    own_error,
    read_body,
    refusal,
)
from gateway.serving.runner import Runner


def build_app(
    model: Model,
    faults: InjectedFaults | None = None,
    *,
    fault_seed: int | None = None,
    fault_control: bool = False,
    threads: int = 1,
    queue_max: int = 64,
) -> Starlette:
    """The ASGI application that serves one loaded model."""
    source = FaultSource(faults or InjectedFaults(), fault_seed)
    runner = Runner(threads, queue_max)
    views, control = _Views(model), FaultControl(source)
    infer, stream = (_Infer(model, source, runner, streams=as_stream) for as_stream in (False, True))
    models = ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")
    routes = [
        *(Route(f"{path}/infer", infer, methods=["POST"]) for path in models),
        *(Route(f"{path}/infer_stream", stream, methods=["POST"]) for path in models),
        *(Route(f"{path}/ready", views.model_ready) for path in models),
        *(Route(path, views.model) for path in models),
        Route("/v2/health/live", views.live),
        Route("/v2/health/ready", views.ready),
        Route("/v2", views.server),
    ]
    if fault_control:
        routes += control.routes

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        control.arm_crash()
        yield
        runner.close()

    return application(routes, lifespan, "/v2 and /v2/models/{name}")


def serve(
    path: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8001,
    name: str | None = None,
    version: str | None = None,
    faults: InjectedFaults | None = None,
    fault_seed: int | None = None,
    fault_control: bool = False,
    threads: int = 1,
    queue_max: int = 64,
) -> int:
    """Serve an ONNX file until SIGTERM or SIGINT; port 0 takes a free one. Returns the exit status.

    0 after a stop on request, 1 if the address cannot be listened on, 2 if the file cannot be served. When ready, one
    line on stdout has model, version and address.
    """
    try:
        model = Model.load(path, name=name, version=version)
    except ModelLoadError as error:
        return complain(str(error), 2)
    model.warm_up()
    app = build_app(
        model,
        faults,
        fault_seed=fault_seed,
        fault_control=fault_control,
        threads=threads,
        queue_max=queue_max,
    )
    return run(app, host, port, f"{model.name}/{model.version}")


class _Views:
    """Health and metadata: the small answers."""

    def __init__(self, model: Model) -> None:
        self._model = model

    async def live(self, _: Request) -> Response:
        return json_response({"live": True})

    async def ready(self, _: Request) -> Response:
        return json_response({"ready": True})

    async def server(self, _: Request) -> Response:
        return json_response(
            {"name": "gateway-model-server", "version": __version__, "extensions": ["binary_tensor_data"]}
        )

    async def model(self, request: Request) -> Response:
        _check_model(self._model, request.path_params)
        return json_response(self._model.describe())

    async def model_ready(self, request: Request) -> Response:
        _check_model(self._model, request.path_params)
        return json_response({"name": self._model.name, "ready": True})


class _Infer:
    """The inference endpoint, as a bare ASGI application: it is the one path that must cost little."""

    def __init__(self, model: Model, source: FaultSource, runner: Runner, *, streams: bool) -> None:
        self._streams = streams
        self._model = model
        self._source = source
        self._runner = runner
        self._head = {"model_name": model.name, "model_version": model.version}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._respond(request)
        except ClientDisconnect:
            return
        except RequestError as error:
            response = refusal(error)
        except Exception as error:  # noqa: BLE001  # see below
            # Let through, Starlette would answer it and raise it again; uvicorn would then close the connection under
            # the next request.
            response = await own_error(request, error)
        if response is not None:
            await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response | None:
        """The answer to one request, or None if it hangs until its client gives up."""
        body = await read_body(request)
        fate = self._source.draw()
        if fate is Fate.CRASH:
            crash()
        if self._source.faults.latency_ms:
            await asyncio.sleep(self._source.faults.latency_ms / 1000)
        if fate is Fate.HANG:
            await streams.until_left(request.receive)
            return None
        if fate is Fate.ERROR:
            return error_response("injected fault: error-rate", 500)
        if fate is Fate.WRONG_NAME:
            return error_response(f"injected fault: unknown model {request.path_params['name']!r}", 404)
        if fate is Fate.LOGIN:
            return Response(status_code=302, headers={"Location": "/login"})
        _check_model(self._model, request.path_params)
        answer = await self._infer(body, header_length(request.headers.get(HEADER_LENGTH)))
        if self._streams:
            return streams.EventStreamResponse(_events(answer, fate), stalls=fate is Fate.STALL)
        return streams.StalledResponse(answer.body) if fate is Fate.STALL else _infer_response(answer)

    async def _infer(self, body: bytes, json_bytes: int | None) -> InferAnswer:
        signature = self._model.signature
        message, tail = parse_request(body, json_bytes)
        inputs = decode_inputs(signature, message, tail)
        chosen = choose_outputs(signature, message)
        arrays = await self._runner.run(functools.partial(self._model.run, tuple(chosen), inputs))
        return encode_answer(self._head, signature, message, chosen, arrays)


def _check_model(model: Model, params: dict[str, str]) -> None:
    name, version = params["name"], params.get("version", model.version)
    if name != model.name:
        raise RequestError(f"unknown model {name!r}; this server has {model.name!r}", 404)
    if version != model.version:
        raise RequestError(f"unknown version {version!r} of model {name!r}; this server has {model.version!r}", 404)


def _events(answer: InferAnswer, fate: Fate) -> list[bytes]:
    events = streams.events(answer)
    if fate in (Fate.ERROR_EVENT, Fate.STREAM_ERROR):
        return streams.broken(events, alone=fate is Fate.ERROR_EVENT)
    return events


def _infer_response(answer: InferAnswer) -> Response:
    if answer.json_bytes is None:
        return Response(answer.body, media_type="application/json")
    headers = {HEADER_LENGTH: str(answer.json_bytes)}
    return Response(answer.body, headers=headers, media_type="application/octet-stream")

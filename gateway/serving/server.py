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
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway import __version__
from gateway.serving import streams
from gateway.serving.errors import FaultError, ModelLoadError, OverloadedError, RequestError
from gateway.serving.faults import CRASH_STATUS, Fate, FaultSource, InjectedFaults
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
from gateway.serving.runner import Runner

log = logging.getLogger(__name__)

BODY_BYTES_MAX = 64 * 1024 * 1024
KEEP_ALIVE_S = 75
"""Longer than proxies keep idle connections: they close them first, so that none goes stale in a pool."""
GRACE_S = 2
"""How long a stop waits for requests under way; those that hang are then cut off."""
RETRY_AFTER_S = 1

_encoder = msgspec.json.Encoder()


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
    views = _Views(model, source)
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
        routes += [Route("/v2/faults", views.faults), Route("/v2/faults", views.put_faults, methods=["PUT"])]

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        views.arm_crash()
        yield
        runner.close()

    handlers: dict[Any, Any] = {HTTPException: _http_error, RequestError: _request_error, Exception: _own_error}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return app


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
        return _complain(str(error), 2)
    try:
        listener = _listen(host, port)
    except OSError as error:
        return _complain(f"cannot listen on {host} port {port}: {error.strerror or error}; choose another --port", 1)
    model.warm_up()
    app = build_app(
        model,
        faults,
        fault_seed=fault_seed,
        fault_control=fault_control,
        threads=threads,
        queue_max=queue_max,
    )
    with listener:
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listener.getsockname()[1]}"
        return _run(app, listener, f"model-server: {model.name}/{model.version} ready on {address}")


class _Views:
    """Health, metadata and fault control: the small answers."""

    def __init__(self, model: Model, source: FaultSource) -> None:
        self._model = model
        self._source = source
        self._crash: asyncio.TimerHandle | None = None

    async def live(self, _: Request) -> Response:
        return _json({"live": True})

    async def ready(self, _: Request) -> Response:
        return _json({"ready": True})

    async def server(self, _: Request) -> Response:
        return _json({"name": "gateway-model-server", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def model(self, request: Request) -> Response:
        _check_model(self._model, request.path_params)
        return _json(self._model.describe())

    async def model_ready(self, request: Request) -> Response:
        _check_model(self._model, request.path_params)
        return _json({"name": self._model.name, "ready": True})

    async def faults(self, _: Request) -> Response:
        return _json(self._source.faults.to_mapping())

    async def put_faults(self, request: Request) -> Response:
        """Replace all faults; a key that is left out means that fault is off."""
        try:
            values = msgspec.json.decode(await request.body(), type=dict[str, bool | int | float | None])
            faults = InjectedFaults.from_mapping({key: value for key, value in values.items() if value is not None})
        except (msgspec.MsgspecError, UnicodeDecodeError, FaultError) as error:
            raise RequestError(f"faults: {error}") from None
        self._source.set(faults)
        self.arm_crash()
        return _json(faults.to_mapping())

    def arm_crash(self) -> None:
        """Start, or restart, the clock of `crash-after-s`."""
        if self._crash is not None:
            self._crash.cancel()
        delay_s = self._source.faults.crash_after_s
        self._crash = None if delay_s is None else asyncio.get_running_loop().call_later(delay_s, _crash)


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
            response = _error_response(error)
        except Exception as error:  # noqa: BLE001  # see below
            # Let through, Starlette would answer it and raise it again; uvicorn would then close the connection under
            # the next request.
            response = await _own_error(request, error)
        if response is not None:
            await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response | None:
        """The answer to one request, or None if it hangs until its client gives up."""
        body = await _read_body(request)
        fate = self._source.draw()
        if fate is Fate.CRASH:
            _crash()
        if self._source.faults.latency_ms:
            await asyncio.sleep(self._source.faults.latency_ms / 1000)
        if fate is Fate.HANG:
            await streams.until_left(request.receive)
            return None
        if fate is Fate.ERROR:
            return _error("injected fault: error-rate", 500)
        if fate is Fate.WRONG_NAME:
            return _error(f"injected fault: unknown model {request.path_params['name']!r}", 404)
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


class _Announcing(uvicorn.Server):
    """A uvicorn server that says when it is ready."""

    def __init__(self, config: uvicorn.Config, announcement: str) -> None:
        super().__init__(config)
        self._announcement = announcement

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self._announcement, flush=True)


def _run(app: Starlette, listener: socket.socket, announcement: str) -> int:
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="critical",  # failures are logged where they happen; uvicorn would log cut-off requests as errors
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(
            signum, _leave
        )  # uvicorn stops gracefully on these, then raises them again for the earlier handlers
    try:
        _Announcing(config, announcement).run(sockets=[listener])
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1
    return 0


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)  # here, not in uvicorn: two servers may bind one port, only one may listen
    except OSError:
        listener.close()
        raise
    return listener


async def _read_body(request: Request) -> bytes:
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RequestError("compressed requests are not supported; send the body without Content-Encoding", 415)
    chunks: list[bytes] = []
    total_bytes = 0
    async for chunk in request.stream():
        total_bytes += len(chunk)
        if total_bytes > BODY_BYTES_MAX:
            raise RequestError(f"the request body is over {BODY_BYTES_MAX} bytes; send smaller batches", 413)
        chunks.append(chunk)
    return b"".join(chunks)


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


def _json(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(_encoder.encode(content), status, headers, media_type="application/json")


def _error(message: str, status: int, headers: dict[str, str] | None = None) -> Response:
    return _json({"error": message}, status, headers)


def _error_response(error: RequestError) -> Response:
    headers = {"Retry-After": str(RETRY_AFTER_S)} if isinstance(error, OverloadedError) else None
    return _error(str(error), error.status, headers)


async def _request_error(_: Request, error: RequestError) -> Response:
    return _error_response(error)


async def _http_error(request: Request, error: HTTPException) -> Response:
    message = f"{request.method} {request.url.path}: {error.detail}; see GET /v2 and /v2/models/{{name}}"
    return _error(message, error.status_code, dict(error.headers or {}))


async def _own_error(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _error("the model server failed on this request; its log says why", 500)


def _crash() -> None:
    os._exit(CRASH_STATUS)


def _leave(_: int, __: FrameType | None) -> None:
    raise SystemExit(0)


def _complain(message: str, status: int) -> int:
    print(f"model-server: {message}", file=sys.stderr, flush=True)
    return status

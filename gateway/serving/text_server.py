"""The text model over HTTP: OpenAI's chat completions and completions on Starlette, streaming and not.

    GET  /v1/models                    the model
    POST /v1/chat/completions          chat.py says what is read
    POST /v1/completions
    GET  /v2/health/live, /v2/health/ready, /health
    GET, PUT /v2/faults                only if fault control is on

Errors are ``{"error": {"message", "type"}}``. A client that leaves ends the writing of its answer at once.

Faults (faults.py): `latency-ms` comes before the head, `token-ms` before every token but the first; `stall` ends after
the first token and never goes on; `stream-error` is an error event, alone or in the middle; `empty` is an answer that
ends without having said anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway.serving import streams
from gateway.serving.chat import TextAnswer, read_request
from gateway.serving.errors import ModelLoadError, RequestError
from gateway.serving.faults import Fate, FaultSource, InjectedFaults
from gateway.serving.hosting import complain, run
from gateway.serving.replies import FaultControl, application, crash, json_response, read_body
from gateway.serving.text_model import TextModel

_ERROR = b'data: {"error":{"message":"injected fault: stream-error","type":"server_error"}}\n\n'
_HEAD = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


def build_app(
    model: TextModel,
    faults: InjectedFaults | None = None,
    *,
    fault_seed: int | None = None,
    fault_control: bool = False,
) -> Starlette:
    """The ASGI application that serves one text model."""
    source = FaultSource(faults or InjectedFaults(), fault_seed)
    control = FaultControl(source)
    described = {"id": model.name, "object": "model", "created": 0, "owned_by": "gateway"}

    async def models(_: Request) -> Response:
        return json_response({"object": "list", "data": [described]})

    async def healthy(_: Request) -> Response:
        return json_response({"ready": True})

    routes = [
        Route("/v1/chat/completions", _TextEndpoint(model, source, chat=True), methods=["POST"]),
        Route("/v1/completions", _TextEndpoint(model, source, chat=False), methods=["POST"]),
        Route("/v1/models", models),
        *(Route(path, healthy) for path in ("/v2/health/live", "/v2/health/ready", "/health")),
    ]
    if fault_control:
        routes += control.routes

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        control.arm_crash()
        yield

    return application(routes, lifespan, "/v1/models")


def serve(
    path: str | Path,
    *,
    host: str,
    port: int,
    name: str | None = None,
    version: str | None = None,
    faults: InjectedFaults | None = None,
    fault_seed: int | None = None,
    fault_control: bool = False,
) -> int:
    """Serve a text model until SIGTERM or SIGINT. Returns the exit status, 2 for a file that cannot be served."""
    try:
        model = TextModel.load(path, name=name, version=version)
    except ModelLoadError as error:
        return complain(str(error), 2)
    app = build_app(model, faults, fault_seed=fault_seed, fault_control=fault_control)
    return run(app, host, port, f"{model.name}/{model.version}")


class _TextEndpoint:
    """One of the two endpoints, as a bare ASGI application."""

    def __init__(self, model: TextModel, source: FaultSource, *, chat: bool) -> None:
        self._model = model
        self._source = source
        self._chat = chat
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._respond(request, receive, send)
        except (ClientDisconnect, asyncio.CancelledError):
            return
        except RequestError as error:
            response = _error(str(error), error.status)
        if response is not None:
            await response(scope, receive, send)

    async def _respond(self, request: Request, receive: Receive, send: Send) -> Response | None:
        """The answer; None for one that was sent already, or will never be."""
        body = await read_body(request)
        fate, faults = self._source.draw(), self._source.faults
        if fate is Fate.CRASH:
            crash()
        if faults.latency_ms:
            await asyncio.sleep(faults.latency_ms / 1000)
        if fate is Fate.HANG:
            await streams.until_left(receive)
            return None
        if fate is Fate.ERROR:
            return _error("injected fault: error-rate", 500)
        if fate is Fate.WRONG_NAME:
            return _error("injected fault: unknown model", 404)
        if fate is Fate.LOGIN:
            return Response(status_code=302, headers={"Location": "/login"})
        asked = read_request(body, self._model.name, chat=self._chat)
        answer = TextAnswer(self._model, asked, next(self._numbers))
        if asked.stream:
            await _until_left_or(receive, _stream(answer, fate, faults.token_ms / 1000, receive, send))
            return None
        text = [] if fate is Fate.EMPTY else list(answer.tokens())
        if faults.token_ms:
            await asyncio.sleep(len(text) * faults.token_ms / 1000)
        return json_response(answer.whole("".join(text)))


async def _until_left_or(receive: Receive, sending: Any) -> None:
    """Send until it is done, or the client has left."""
    sent, left = asyncio.ensure_future(sending), asyncio.ensure_future(streams.until_left(receive))
    try:
        await asyncio.wait((sent, left), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (sent, left):
            task.cancel()
        await asyncio.gather(sent, left, return_exceptions=True)


async def _stream(answer: TextAnswer, fate: Fate, token_s: float, receive: Receive, send: Send) -> None:
    """Send the events of an answer, one write for each."""

    async def write(event: bytes, *, more: bool = True) -> None:
        await send({"type": "http.response.body", "body": event, "more_body": more})

    await send({"type": "http.response.start", "status": 200, "headers": _HEAD})
    if fate is Fate.ERROR_EVENT:
        await write(_ERROR)
        await write(b"", more=False)
        return
    for event in answer.opening():
        await write(event)
    failing = fate is Fate.STREAM_ERROR
    for number, token in enumerate(answer.tokens() if fate is not Fate.EMPTY else ()):
        if number:
            if fate is Fate.STALL:
                await streams.until_left(receive)
                return
            await asyncio.sleep(token_s)
        if failing and number >= 2:
            break
        await write(answer.token(token))
    for event in (_ERROR,) if failing else answer.ending():
        await write(event)
    await write(b"", more=False)


def _error(message: str, status: int) -> Response:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return Response(
        msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": None}}),
        status,
        media_type="application/json",
    )

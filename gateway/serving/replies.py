"""What both model servers answer with and read by: bodies, JSON, errors, and faults that are switched at run time."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Lifespan

from gateway.serving.errors import FaultError, OverloadedError, RequestError
from gateway.serving.faults import CRASH_STATUS, FaultSource, InjectedFaults

log = logging.getLogger(__name__)

BODY_BYTES_MAX = 64 * 1024 * 1024
RETRY_AFTER_S = 1
_encoder = msgspec.json.Encoder()


def application(routes: Sequence[BaseRoute], lifespan: Lifespan[Starlette], see: str) -> Starlette:
    """The application of these routes; ``see`` are the paths that an error points to."""

    async def http_error(request: Request, found: HTTPException) -> Response:
        message = f"{request.method} {request.url.path}: {found.detail}; see GET {see}"
        return error_response(message, found.status_code, dict(found.headers or {}))

    handlers: dict[Any, Any] = {HTTPException: http_error, RequestError: _request_error, Exception: own_error}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return app


class FaultControl:
    """GET and PUT /v2/faults, and the clock of `crash-after-s`."""

    def __init__(self, source: FaultSource) -> None:
        self._source = source
        self._crash: asyncio.TimerHandle | None = None

    @property
    def routes(self) -> list[Route]:
        """The two."""
        return [Route("/v2/faults", self.faults), Route("/v2/faults", self.put_faults, methods=["PUT"])]

    async def faults(self, _: Request) -> Response:
        """The faults as they stand."""
        return json_response(self._source.faults.to_mapping())

    async def put_faults(self, request: Request) -> Response:
        """Replace all faults; a key that is left out means that fault is off."""
        try:
            values = msgspec.json.decode(await request.body(), type=dict[str, bool | int | float | None])
            faults = InjectedFaults.from_mapping({key: value for key, value in values.items() if value is not None})
        except (msgspec.MsgspecError, UnicodeDecodeError, FaultError) as error:
            raise RequestError(f"faults: {error}") from None
        self._source.set(faults)
        self.arm_crash()
        return json_response(faults.to_mapping())

    def arm_crash(self) -> None:
        """Start, or restart, the clock of `crash-after-s`."""
        if self._crash is not None:
            self._crash.cancel()
        delay_s = self._source.faults.crash_after_s
        self._crash = None if delay_s is None else asyncio.get_running_loop().call_later(delay_s, crash)


async def read_body(request: Request) -> bytes:
    """A request's body; RequestError for one that is coded or too large."""
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


def json_response(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON."""
    return Response(_encoder.encode(content), status, headers, media_type="application/json")


def error_response(message: str, status: int, headers: dict[str, str] | None = None) -> Response:
    """An error in the protocol's form."""
    return json_response({"error": message}, status, headers)


def refusal(error: RequestError) -> Response:
    """The answer to a request that cannot be answered."""
    headers = {"Retry-After": str(RETRY_AFTER_S)} if isinstance(error, OverloadedError) else None
    return error_response(str(error), error.status, headers)


async def _request_error(_: Request, error: RequestError) -> Response:
    return refusal(error)


async def own_error(request: Request, failure: Exception) -> Response:
    """The answer when the server itself failed."""
    log.error("%s %s failed", request.method, request.url.path, exc_info=failure)
    return error_response("the model server failed on this request; its log says why", 500)


def crash() -> None:
    """End the process as a crash does."""
    os._exit(CRASH_STATUS)

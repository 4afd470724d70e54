"""Errors as problem documents: one table from what went wrong to the client's document.

Source: RFC 9457 (problem details), RFC 6750 section 3 (bearer challenges), RFC 9110 section 15.5 (statuses).
"""

from __future__ import annotations

import http
import logging
from collections.abc import Mapping

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.admin.decode import MalformedError
from gateway.core.errors import (
    ConflictError,
    GatewayError,
    InvalidValueError,
    JournalError,
    NotFoundError,
    TransitionError,
)

_log = logging.getLogger("gateway.admin")
MEDIA_TYPE = "application/problem+json"

# slug: (status, title). The slug is the stable name that programs test for.
KINDS: Mapping[str, tuple[int, str]] = {
    "malformed-request": (400, "The request is not valid HTTP"),
    "malformed-body": (400, "The body is not JSON"),
    "unauthorized": (401, "A valid bearer token is required"),
    "invalid-signature": (401, "The delivery is not signed with a source's secret"),
    "cross-origin": (403, "Requests from web pages of other origins are not allowed"),
    "forbidden": (403, "The token does not have the scope for this"),
    "not-found": (404, "Not found"),
    "method-not-allowed": (405, "This path does not allow the method"),
    "conflict": (409, "Not possible in the current state"),
    "restart-required": (409, "This change needs a restart"),
    "precondition-failed": (412, "It has changed since it was read"),
    "body-too-large": (413, "The body is too large"),
    "unsupported-media-type": (415, "The body must be JSON"),
    "invalid-value": (422, "A value is invalid"),
    "invalid-configuration": (422, "The configuration has errors"),
    "address-not-allowed": (422, "The backend's address is not allowed"),
    "idempotency-key-reused": (422, "The idempotency key belongs to another request"),
    "too-many-waits": (429, "Too many clients are waiting"),
    "too-many-failures": (429, "Too many failed authentications from this address"),
    "internal": (500, "Internal error"),
    "journal-unavailable": (503, "The journal cannot be written or read"),
}

# The first that matches, so subclasses come before their bases.
_BY_ERROR: tuple[tuple[type[GatewayError], str], ...] = (
    (MalformedError, "malformed-body"),
    (InvalidValueError, "invalid-value"),
    (NotFoundError, "not-found"),
    (TransitionError, "conflict"),
    (ConflictError, "conflict"),
    (JournalError, "journal-unavailable"),
)
_BY_STATUS = {404: "not-found", 405: "method-not-allowed"}


class Problem(msgspec.Struct, frozen=True):
    """A problem document. ``type`` names the kind, ``detail`` says what was wrong here and how to fix it."""

    type: str
    title: str
    status: int
    detail: str
    instance: str


class ProblemError(Exception):
    """A problem that the edge found itself, by its slug."""

    def __init__(self, slug: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        self.slug = slug
        self.detail = detail
        self.headers = headers
        super().__init__(f"{slug}: {detail}")


def problem(slug: str, detail: str, path: str) -> Problem:
    """The document of a kind of problem, for a request to ``path``."""
    status, title = KINDS[slug]
    return Problem(f"urn:canary-gateway:problem:{slug}", title, status, _encodable(detail), _encodable(path))


def response(slug: str, detail: str, path: str, headers: Mapping[str, str] | None = None) -> Response:
    """The answer that carries the document."""
    document = problem(slug, detail, path)
    return Response(msgspec.json.encode(document), document.status, headers, MEDIA_TYPE)


async def on_problem(request: Request, error: Exception) -> Response:
    """Answer for a `ProblemError`."""
    assert isinstance(error, ProblemError)
    return _recorded(request, error.slug, error.detail, error.headers)


async def on_gateway_error(request: Request, error: Exception) -> Response:
    """Answer for an error that the gateway raised on purpose."""
    for kind, slug in _BY_ERROR:
        if isinstance(error, kind):
            return _recorded(request, slug, str(error))
    return _recorded(request, "internal", str(error))


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Answer for what the router refuses."""
    assert isinstance(error, HTTPException)
    slug = _BY_STATUS.get(error.status_code, "internal")
    detail = f"{request.method} {request.url.path}: {http.HTTPStatus(KINDS[slug][0]).phrase}"
    detail += "; /openapi.json lists what there is" if slug == "not-found" else ""
    return _recorded(request, slug, detail, error.headers)


def _recorded(request: Request, slug: str, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    request.scope["audit"]["problem"] = slug
    return response(slug, detail, request.url.path, headers)


class ErrorBoundary:
    """Answer for a bug: the log has the traceback, the client does not.

    Starlette would raise the exception again after its answer, and uvicorn would then cut the connection off.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception:
            if started or scope["type"] != "http":
                raise
            _log.exception("the admin API failed at %s %s", scope["method"], ascii(scope["path"]))
            answer = response("internal", "internal error; the gateway's log has the details", scope["path"])
            await answer(scope, receive, sending)


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()

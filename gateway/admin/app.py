"""The admin application: the table of operations behind authentication (auth.py), and the console's files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.admin import problems
from gateway.admin.api import Api, Handler
from gateway.admin.audit import AuditTrail
from gateway.admin.auth import AuthMiddleware
from gateway.admin.auth_failures import AuthFailures
from gateway.admin.config_api import ConfigApi
from gateway.admin.configuring import Configuring
from gateway.admin.exposition import Exposition, Scraped
from gateway.admin.idempotency import Replays
from gateway.admin.operations import OPERATIONS, Operation
from gateway.admin.pages import page_routes
from gateway.admin.principals import Keyring
from gateway.admin.schemas import HookState
from gateway.admin.shared_answers import SharedAnswers
from gateway.admin.sse import Streams
from gateway.admin.starting import VersionStarts
from gateway.admin.webhooks import PipelineDoors, WebhookApi
from gateway.control.api import ControlPlane
from gateway.core.errors import GatewayError
from gateway.runtime.clock import Clock, SystemClock


def build_admin(
    control: ControlPlane,
    configuring: Configuring,
    *,
    metrics: Callable[[], Scraped],
    keyring: Keyring | None = None,
    clock: Clock | None = None,
    auth_failures: AuthFailures | None = None,
    trail: AuditTrail | None = None,
    replays: Replays | None = None,
    doors: PipelineDoors | None = None,
    hooks: Callable[[], Sequence[HookState]] = tuple,
) -> Starlette:
    """The application for the admin listener.

    The ``keyring`` says who is let in; without keys in it the listener must be on loopback or a file.
    ``metrics`` collects the values of one moment, for the exposition. The audit ``trail`` and the
    idempotency keys (``replays``) are kept in memory alone if not given. ``doors`` are for registries
    and pipelines, ``hooks`` says what is owed to hooks. Serve it with `server.AdminServer`, or call
    ``app.state.streams.end()`` when the server stops: event streams do not end by themselves.
    """
    clock = clock or SystemClock()
    streams = Streams()
    trail = trail or AuditTrail(clock)
    replays = replays or Replays(clock)
    shared = SharedAnswers(clock)
    config_api = ConfigApi(control, configuring, shared)
    doors = doors or PipelineDoors(VersionStarts(control, configuring))
    webhooks = WebhookApi(doors.receive_webhook)
    api = Api(
        *(control, Exposition(metrics, clock), streams, trail, config_api.route_tag, doors.starts),
        shared=shared,
        hooks=hooks,
    )
    app = Starlette(
        routes=[
            Route(
                operation.path,
                _endpoint(operation, replays, shared, config_api, api, webhooks, _Description()),
                methods=[operation.method],
            )
            for operation in OPERATIONS
        ]
        + page_routes(),
        middleware=[
            Middleware(
                AuthMiddleware,
                keyring=keyring or Keyring(),
                trail=trail,
                auth_failures=auth_failures or AuthFailures(clock),
            ),
            Middleware(problems.ErrorBoundary),
        ],
        exception_handlers={
            problems.ProblemError: problems.on_problem,
            GatewayError: problems.on_gateway_error,
            HTTPException: problems.on_http_exception,
            ClientDisconnect: _on_disconnect,
        },
    )
    # A path either is one of the table's or does not exist; there are no redirects.
    app.router.redirect_slashes = False
    app.state.streams = streams
    return app


def _endpoint(operation: Operation, replays: Replays, shared: SharedAnswers, *apis: object) -> Handler:
    """The operation's handler behind what every operation asks first: the scope, and the idempotency key.

    What changes something ends what was kept of answers.
    """
    handler = _method(operation.handler, apis)

    async def answer(request: Request) -> Any:
        if not operation.open and operation.scope not in request.scope["principal"].scopes:
            challenge = f'Bearer realm="canary-gateway", error="insufficient_scope", scope="{operation.scope}"'
            why = f"{request.method} {operation.path} needs the scope {operation.scope}, which this token does not have"
            raise problems.ProblemError("forbidden", why, {"www-authenticate": challenge})
        if operation.method == "GET":
            return await handler(request)
        keys = request.headers.getlist("idempotency-key")
        try:
            if operation.method == "POST" and keys:
                return await replays.once(request, ", ".join(keys), handler)
            return await handler(request)
        finally:
            shared.forget()

    return answer


def _method(name: str, apis: Sequence[object]) -> Handler:
    found: Handler = next(getattr(api, name) for api in apis if hasattr(api, name))
    return found


class _Description:
    """The description of the API, made at the first request for it: no start waits for it."""

    async def show_openapi(self, _: Request) -> Response:
        """The OpenAPI document."""
        from gateway.admin.openapi import description  # noqa: PLC0415  # see above

        return Response(description(), media_type="application/json")


async def _on_disconnect(_: Request, __: Exception) -> Response:
    # Nobody is left to read it.
    return Response(status_code=400)

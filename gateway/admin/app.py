"""The admin application: the table of operations behind the guard, and the server that can end its streams."""

from __future__ import annotations

import socket

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.admin import problems
from gateway.admin.api import Api, Handler, Metrics, constant
from gateway.admin.guard import Guard
from gateway.admin.openapi import description
from gateway.admin.operations import OPERATIONS
from gateway.admin.stream import Streams
from gateway.control.api import ControlPlane
from gateway.core.errors import GatewayError


def build_admin(control: ControlPlane, *, token: str | None, metrics: Metrics) -> Starlette:
    """The application for the admin listener.

    ``token`` is the bearer token that clients must send; None, for a listener on loopback only, asks for none.
    ``metrics`` gives the exposition and its content type. Serve it with `AdminServer`, or call
    ``app.state.streams.end()`` when the server is told to stop: event streams do not end by themselves.
    """
    streams = Streams()
    api = Api(control, metrics, streams)
    app = Starlette(
        routes=[
            Route(operation.path, _handler(api, operation.handler), methods=[operation.method])
            for operation in OPERATIONS
        ],
        middleware=[Middleware(Guard, token=token), Middleware(problems.Faults)],
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


class AdminServer(uvicorn.Server):
    """A uvicorn server for the application of `build_admin` that ends its event streams when it stops."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then wait for the rest as usual."""
        self.config.app.state.streams.end()  # type: ignore[union-attr]  # a Starlette, by construction
        await super().shutdown(sockets)


def _handler(api: Api, name: str) -> Handler:
    if not name:
        return constant(description())
    handler: Handler = getattr(api, name)
    return handler


async def _on_disconnect(_: Request, __: Exception) -> Response:
    # Nobody is left to read it.
    return Response(status_code=400)

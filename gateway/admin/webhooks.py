"""The door for registries' webhooks: open to those who know a source's secret, which the source itself checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from gateway.admin import request_parsing, schemas
from gateway.admin.problems import ProblemError
from gateway.admin.starting import VersionStarts

# Headers and body in; out why the delivery is refused, or nothing.
Receive = Callable[[Mapping[str, str], bytes], str]


def nobody(_: Mapping[str, str], __: bytes) -> str:
    """No source is configured."""
    return "no source is configured"


class PipelineDoors(NamedTuple):
    """What registries and pipelines come in by: the starts of versions, and webhooks."""

    starts: VersionStarts
    receive_webhook: Receive = nobody


class WebhookApi:
    """The handlers, by the names that the table of operations uses."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive

    async def take_mlflow_webhook(self, request: Request) -> Response:
        """An alias was moved, says an MLflow server."""
        why = self._receive(dict(request.headers), await request_parsing.body(request))
        if why:
            raise ProblemError("invalid-signature", why)
        return Response(schemas.encode(schemas.WebhookTaken(accepted=True)), media_type="application/json")

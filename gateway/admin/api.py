"""What each path does: a request in, the control plane asked, a body out. Errors are raised, never answered here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from gateway.admin import bodies, intake, stream
from gateway.admin.decode import one_line
from gateway.control.api import ControlPlane

Metrics = Callable[[], tuple[bytes, str]]
Handler = Callable[[Request], Awaitable[Any]]
PAGE_DEFAULT = 50
PAGE_MAX = 200
_EVENT_ID_MAX = 10**18 - 1


class Api:
    """The handlers, by the names that the table of operations uses."""

    def __init__(self, control: ControlPlane, metrics: Metrics, streams: stream.Streams) -> None:
        self._control = control
        self._metrics = metrics
        self._streams = streams

    # routes

    async def list_routes(self, _: Request) -> Response:
        """All routes."""
        return _json(bodies.RouteList(tuple(self._control.routes())))

    async def show_route(self, request: Request) -> Response:
        """One route."""
        return _json(self._control.route(request.path_params["route"]))

    async def set_weight(self, request: Request) -> Response:
        """Set a route's canary share by hand."""
        wish = await intake.wish(request, bodies.WeightWish)
        weight_bp = bodies.weight_bp_of(wish)
        _said(request, f"{wish.canary_percent:g} %")
        view = await self._control.set_weight(request.path_params["route"], weight_bp, intake.actor(request.headers))
        return _json(view)

    async def start_rollout(self, request: Request) -> Response:
        """Start a rollout."""
        wish = await intake.optional_wish(request, bodies.StartWish)
        plan = None if wish.plan is None else bodies.plan_of(wish.plan)
        _said(request, one_line("reason", wish.reason))
        view = await self._control.start(request.path_params["route"], intake.actor(request.headers), plan)
        return _json(bodies.rollout_body(view), 201, {"location": f"/api/v1/rollouts/{view.id}"})

    # rollouts

    async def list_rollouts(self, request: Request) -> Response:
        """A page of rollouts, newest first."""
        asked = intake.query(request, frozenset({"route", "limit", "before"}))
        limit = intake.whole_number("limit", asked.get("limit", str(PAGE_DEFAULT)), 1, PAGE_MAX)
        # One more than asked for tells whether there is another page.
        found = self._control.rollouts(asked.get("route"), limit + 1, asked.get("before"))
        page = tuple(bodies.rollout_body(view) for view in found[:limit])
        return _json(bodies.RolloutList(page, page[-1].id if len(found) > limit else None))

    async def show_rollout(self, request: Request) -> Response:
        """One rollout."""
        return _json(bodies.rollout_body(self._control.rollout(request.path_params["rollout_id"])))

    async def pause_rollout(self, request: Request) -> Response:
        """Hold the weight where it is."""
        return await self._decide(request, self._control.pause)

    async def promote_rollout(self, request: Request) -> Response:
        """Promote by hand."""
        return await self._decide(request, self._control.promote)

    async def abort_rollout(self, request: Request) -> Response:
        """Roll back by hand."""
        return await self._decide(request, self._control.abort)

    async def resume_rollout(self, request: Request) -> Response:
        """Let automation go on."""
        return await self._decide(request, lambda rollout_id, by, _: self._control.resume(rollout_id, by))

    async def _decide(self, request: Request, verb: Callable[[str, str, str], Awaitable[Any]]) -> Response:
        wish = await intake.optional_wish(request, bodies.VerbWish)
        reason = one_line("reason", wish.reason)
        _said(request, reason)
        view = await verb(request.path_params["rollout_id"], intake.actor(request.headers), reason)
        return _json(bodies.rollout_body(view))

    # events, metrics, health

    async def stream_events(self, request: Request) -> ASGIApp:
        """The event stream."""
        last_id = request.headers.get("last-event-id") or None
        after_id = None if last_id is None else intake.whole_number("Last-Event-ID", last_id, 0, _EVENT_ID_MAX)
        if request.method == "HEAD":
            return Response(media_type=stream.MEDIA_TYPE)
        return stream.EventStream(self._control.events(after_id), self._streams)

    async def show_metrics(self, _: Request) -> Response:
        """The metrics, in the exposition format that they come in."""
        content, content_type = self._metrics()
        return Response(content, headers={"content-type": content_type})

    async def show_health(self, _: Request) -> Response:
        """Whether the process lives; asks nothing of anyone."""
        return _json(bodies.Health(alive=True))

    async def show_readiness(self, _: Request) -> Response:
        """Whether the gateway can do its work."""
        readiness = self._control.readiness()
        return _json(readiness, 200 if readiness.ready else 503)


def constant(content: bytes) -> Handler:
    """A handler that always answers with this JSON."""

    async def show(_: Request) -> Response:
        return Response(content, media_type="application/json")

    return show


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(bodies.encode(body), status, headers, "application/json")


def _said(request: Request, what: str) -> None:
    """For the audit log."""
    request.scope["audit"]["said"] = what

"""What each path does: a request in, the control plane asked, a body out. Errors are raised, never answered here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from gateway import __version__, report
from gateway.admin import etags, request_parsing, request_schemas, schemas, sse
from gateway.admin.audit import AuditTrail
from gateway.admin.exposition import Exposition, takes_gzip, takes_openmetrics
from gateway.admin.long_poll import WAIT_S_MAX, Waits
from gateway.admin.problems import ProblemError
from gateway.admin.report_facts import report_facts
from gateway.admin.response_bodies import rollout_body
from gateway.admin.shared_answers import SharedAnswers
from gateway.admin.starting import VersionStarts
from gateway.config.admin import Scope
from gateway.config.core_values import core_value
from gateway.control.api import ControlPlane
from gateway.control.views import EVENT_KINDS, RolloutView
from gateway.core.errors import ConflictError, InvalidValueError, NotFoundError
from gateway.core.rollout.types import Phase, Plan
from gateway.core.types import weight_bp_from_percent

Handler = Callable[[Request], Awaitable[Any]]
PAGE_DEFAULT = 50
PAGE_MAX = 200
ROUTES_MAX = 10_000
SEARCH_MAX = 200
REPORT_FORMATS = ("html", "markdown")
_EVENT_ID_MAX = 10**18 - 1


class Api:
    """The handlers, by the names that the table of operations uses."""

    def __init__(
        self,
        control: ControlPlane,
        metrics: Exposition,
        streams: sse.Streams,
        trail: AuditTrail,
        route_tag: Callable[[str], str],
        starts: VersionStarts,
        shared: SharedAnswers,
        hooks: Callable[[], Sequence[schemas.HookState]],
    ) -> None:
        self._control = control
        self._starts = starts
        self._metrics = metrics
        self._streams = streams
        self._trail = trail
        self._route_tag = route_tag
        self._shared_answers = shared
        self._hooks = hooks
        self._waits = Waits(control, streams)

    async def _shared(self, request: Request, make: Callable[[], Awaitable[bytes]]) -> Response:
        body = await self._shared_answers.get((request.url.path, request.url.query), make)
        return Response(body, media_type="application/json")

    # routes

    async def list_routes(self, request: Request) -> Response:
        """All routes, or a page of those that match."""
        asked = request_parsing.query(request, frozenset({"search", "limit", "offset"}))
        limit = request_parsing.whole_number("limit", asked.get("limit", str(ROUTES_MAX)), 1, ROUTES_MAX)
        offset = request_parsing.whole_number("offset", asked.get("offset", "0"), 0, ROUTES_MAX)
        search = _search(asked)

        async def make() -> bytes:
            page, total = self._control.route_page(search, offset, limit)
            return schemas.encode(schemas.RouteList(tuple(page), total))

        return await self._shared(request, make)

    async def set_weight(self, request: Request) -> Response:
        """Set a route's canary share by hand."""
        asked = await request_parsing.read(request, request_schemas.WeightRequest)
        _said(request, f"{asked.canary_percent:g} %")
        name, weight_bp = self._expected_route(request), weight_bp_from_percent(asked.canary_percent)
        view = await self._control.commands.set_weight(name, weight_bp, _by(request), asked.reason)
        return _json(view, headers={"etag": self._route_tag(name)})

    async def start_rollout(self, request: Request) -> Response:
        """Start a rollout."""
        asked = await request_parsing.read_optional(request, request_schemas.StartRequest)
        plan = None if asked.plan is None else core_value(asked.plan, Plan)
        _said(request, asked.reason)
        name, by, fresh = self._expected_route(request), _by(request), True
        if asked.version is None:
            view = await self._control.commands.start(name, by, plan, retry=asked.retry, reason=asked.reason)
        else:
            _require_admin(request)
            urls = [endpoint.url for endpoint in asked.version.endpoints]
            model = asked.version.model.value
            view, fresh = await self._starts.start(name, model, urls, by, plan, retry=asked.retry, reason=asked.reason)
        return _rollout(view, 201 if fresh else 200, {"location": f"/api/v1/rollouts/{view.id}"})

    async def take_labels(self, request: Request) -> Response:
        """Take labels that became known after the answer."""
        asked = await request_parsing.read(request, request_schemas.LabelsRequest)
        _said(request, f"{len(asked.events)} labels")
        labels = [(label.request_id, label.name, label.value) for label in asked.events]
        self._control.label(request.path_params["route"], labels)
        return _json(schemas.LabelsTaken(len(labels)), 202)

    def _expected_route(self, request: Request) -> str:
        """The name of the route, if it is as the client has seen it."""
        name: str = request.path_params["route"]
        self._control.route(name)
        if "if-match" in request.headers:
            etags.check(request.headers, self._route_tag(name))
        return name

    # rollouts

    async def list_rollouts(self, request: Request) -> Response:
        """A page of rollouts, newest first."""
        asked = request_parsing.query(request, frozenset({"route", "limit", "before", "search"}))
        limit = request_parsing.whole_number("limit", asked.get("limit", str(PAGE_DEFAULT)), 1, PAGE_MAX)
        # One more than asked for shows whether there is another page.
        found = await self._control.rollout_page(asked.get("route"), limit + 1, asked.get("before"), _search(asked))
        page = tuple(rollout_body(view) for view in found[:limit])
        following = page[-1].id if len(found) > limit else None
        return _json(schemas.RolloutList(page, following), headers=_next(request, asked, following))

    async def show_rollout(self, request: Request) -> Response:
        """One rollout; with ``wait_s`` when something has been decided, or after that time."""
        rollout_id = request.path_params["rollout_id"]
        asked = request_parsing.query(request, frozenset({"wait_s"}))
        wait_s = request_parsing.seconds("wait_s", asked.get("wait_s", "0"), WAIT_S_MAX)
        view = await self._control.find_rollout(rollout_id)
        seen = etags.rollout_tag(view)
        waits = not etags.unseen(request.headers, seen) or (
            "if-none-match" not in request.headers and not Phase(view.phase).terminal
        )
        if wait_s and waits:
            await self._waits.until(request, lambda: self._changed(rollout_id, seen), wait_s)
            view = await self._control.find_rollout(rollout_id)
        if not etags.unseen(request.headers, etags.rollout_tag(view)):
            return Response(status_code=304, headers={"etag": etags.rollout_tag(view)})
        return _rollout(view)

    def _changed(self, rollout_id: str, seen: str) -> bool:
        """Whether a rollout has another tag now; archived ones never change."""
        try:
            return etags.rollout_tag(self._control.rollout(rollout_id)) != seen
        except NotFoundError:
            return False

    async def tell_story(self, request: Request) -> Response:
        """What was decided on a rollout, from the journal."""
        rollout_id = request.path_params["rollout_id"]
        return _json(schemas.StoryBody(rollout_id, tuple(await self._control.decision_history(rollout_id))))

    async def show_series(self, request: Request) -> Response:
        """The evidence of a rollout over time."""
        rollout_id = request.path_params["rollout_id"]

        async def make() -> bytes:
            return schemas.encode(await self._control.series(rollout_id))

        return await self._shared(request, make)

    async def show_data_results(self, request: Request) -> Response:
        """What validators said of a rollout's windows of data."""
        return _json(await self._control.data_results(request.path_params["rollout_id"]))

    async def show_latencies(self, request: Request) -> Response:
        """Both versions' latencies in a rollout."""
        rollout_id = request.path_params["rollout_id"]

        async def make() -> bytes:
            return schemas.encode(await self._control.latencies(rollout_id))

        return await self._shared(request, make)

    async def show_report(self, request: Request) -> Response:
        """The report of a rollout, as a page of its own or as Markdown."""
        asked = request_parsing.query(request, frozenset({"format"}))
        written = asked.get("format", "html")
        if written not in REPORT_FORMATS:
            raise InvalidValueError(f"format must be one of {', '.join(REPORT_FORMATS)}, not {written!r}")
        facts = await report_facts(self._control, request.path_params["rollout_id"])
        if written == "markdown":
            return Response(await asyncio.to_thread(report.markdown, facts), media_type="text/markdown")
        body = await asyncio.to_thread(report.html, facts)
        return Response(body, headers=dict(report.HEADERS), media_type="text/html")

    async def pause_rollout(self, request: Request) -> Response:
        """Hold the weight where it is."""
        return await self._decide(request, self._control.commands.pause)

    async def promote_rollout(self, request: Request) -> Response:
        """Promote by hand: all the way, or to the next step."""
        asked = await request_parsing.read_optional(request, request_schemas.PromoteRequest)

        async def promote(rollout_id: str, by: str, reason: str) -> RolloutView:
            return await self._control.commands.promote(rollout_id, by, reason, next_step=asked.next_step)

        return await self._decide(request, promote, asked.reason)

    async def approve_rollout(self, request: Request) -> Response:
        """Open the gate that the rollout waits for."""
        return await self._decide(request, self._control.commands.approve)

    async def abort_rollout(self, request: Request) -> Response:
        """Roll back by hand."""
        return await self._decide(request, self._control.commands.abort)

    async def resume_rollout(self, request: Request) -> Response:
        """Let automation go on."""
        return await self._decide(request, self._control.commands.resume)

    async def _decide(
        self, request: Request, verb: Callable[[str, str, str], Awaitable[RolloutView]], reason: str | None = None
    ) -> Response:
        if reason is None:
            reason = (await request_parsing.read_optional(request, request_schemas.ActionRequest)).reason
        _said(request, reason)
        rollout_id = request.path_params["rollout_id"]
        view = await self._control.find_rollout(rollout_id)
        etags.check(request.headers, etags.rollout_tag(view))
        try:
            return _rollout(await verb(rollout_id, _by(request), reason))
        except NotFoundError:  # it is archived
            raise ConflictError(f"rollout {rollout_id} is over ({view.phase}), and later ones have followed") from None

    # what goes on

    async def list_workers(self, _: Request) -> Response:
        """The connected workers."""
        return _json(schemas.WorkerList(tuple(self._control.workers())))

    async def list_alarms(self, _: Request) -> Response:
        """What is wrong right now."""
        return _json(schemas.AlarmList(tuple(self._control.alarms())))

    async def show_state(self, _: Request) -> Response:
        """How the gateway itself is doing."""
        readiness = self._control.readiness()
        return _json(
            schemas.GatewayState(
                ready=readiness.ready,
                reasons=readiness.reasons,
                warnings=readiness.warnings,
                state_kept=self._control.state_kept,
                table_source=self._control.table_source,
                version=__version__,
                hooks=tuple(self._hooks()),
            )
        )

    async def list_audit(self, request: Request) -> Response:
        """A page of the audit trail, newest first."""
        asked = request_parsing.query(request, frozenset({"limit", "before"}))
        limit = request_parsing.whole_number("limit", asked.get("limit", str(PAGE_DEFAULT)), 1, PAGE_MAX)
        before = asked.get("before")
        found = await self._trail.page(
            limit + 1, None if before is None else request_parsing.whole_number("before", before, 1, _EVENT_ID_MAX)
        )
        following = found[limit - 1].id if len(found) > limit else None
        return _json(schemas.AuditList(tuple(found[:limit]), following), headers=_next(request, asked, following))

    async def download_backup(self, _: Request) -> Response:
        """The whole state, as it is between two decisions."""
        headers = {"content-disposition": 'attachment; filename="state.sqlite3"'}
        return Response(await self._control.copy_state(), headers=headers, media_type="application/vnd.sqlite3")

    # events, metrics, health

    async def stream_events(self, request: Request) -> ASGIApp:
        """The event stream."""
        cursor = self._control.event_cursor(sse.last_seen(request.headers))
        asked = request_parsing.query(request, frozenset({"kinds", "rollout"}))
        wanted = sse.Wanted(_kinds(asked.get("kinds")), asked.get("rollout"))
        if request.method == "HEAD":
            return Response(media_type=sse.MEDIA_TYPE)
        return sse.EventStream(self._control.events(cursor), self._streams, wanted, cursor)

    async def show_metrics(self, request: Request) -> Response:
        """The metrics, in OpenMetrics' format when that is asked for, else in Prometheus's own."""
        accept = ", ".join(request.headers.getlist("accept"))
        answer = await self._metrics.answer(openmetrics=takes_openmetrics(accept))
        headers = {"content-type": answer.content_type, "vary": "accept, accept-encoding"}
        if takes_gzip(", ".join(request.headers.getlist("accept-encoding"))):
            return Response(answer.zipped, headers=headers | {"content-encoding": "gzip"})
        return Response(answer.body, headers=headers)

    async def show_health(self, _: Request) -> Response:
        """Whether the process lives; asks nothing of anyone."""
        return _json(schemas.Health(alive=True))

    async def show_readiness(self, _: Request) -> Response:
        """Whether the gateway can do its work."""
        readiness = self._control.readiness()
        return _json(readiness, 200 if readiness.ready else 503)


def _search(asked: Mapping[str, str]) -> str:
    found = asked.get("search", "")
    if len(found) > SEARCH_MAX:
        raise InvalidValueError(f"search must have at most {SEARCH_MAX} characters, not {len(found)}")
    return found


def _kinds(given: str | None) -> frozenset[str] | None:
    """The kinds of events that are asked for; None for all of them."""
    if given is None:
        return None
    found = frozenset(given.split(","))
    if unknown := sorted(found - set(EVENT_KINDS)):
        raise InvalidValueError(f"kinds: {unknown[0]!r} is not a kind of event; there are: {', '.join(EVENT_KINDS)}")
    return found


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(schemas.encode(body), status, headers, "application/json")


def _rollout(view: RolloutView, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    tagged = {"etag": etags.rollout_tag(view)} | (headers or {})
    return _json(rollout_body(view), status, tagged)


def _next(request: Request, asked: Mapping[str, str], before: object) -> dict[str, str]:
    """The header that names the next page, where there is one."""
    if before is None:
        return {}
    return {"link": f'<{request.url.path}?{urlencode({**asked, "before": before})}>; rel="next"'}


def _require_admin(request: Request) -> None:
    """A version brings a backend along, which is configuration."""
    if Scope.ADMIN not in request.scope["principal"].scopes:
        why = "starting a version configures its backend, which needs the scope admin; this token does not have it"
        raise ProblemError("forbidden", why)


def _by(request: Request) -> str:
    found: str = request.scope["principal"].actor(request.headers)
    return found


def _said(request: Request, what: str) -> None:
    """For the audit log."""
    request.scope["audit"]["said"] = what

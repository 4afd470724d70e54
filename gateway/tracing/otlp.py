"""A request's record as spans: a server span, and below it a client span for each attempt.

Rules:

1. Names and attributes are those of OpenTelemetry's semantic conventions for HTTP (stable since 1.23); the server span
   is named by method and route. What they have no word for begins with ``gateway.``.
2. A status of 5xx is an error of the server span, one of 4xx and 5xx of a client span; ``error.type`` is the failure's
   reason where there was no answer, the status otherwise.
3. Every attempt but the first has ``http.request.resend_count``; one that answers for a canary is marked as a rescue.
   A mirrored copy is a client span with ``gateway.mirror``; it may end after its server span, in a record of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from opentelemetry.util.types import AttributeValue

from gateway.runtime.spans import AttemptSpan, RequestSpan

_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE", "QUERY"})
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_CLIENT_ERROR, _SERVER_ERROR = 400, 500


class SpanMaker:
    """Makes the spans of one service."""

    def __init__(self, service: str, version: str, instance: str) -> None:
        self._resource = Resource.create(
            {"service.name": service, "service.version": version, "service.instance.id": instance}
        )
        self._scope = InstrumentationScope("canary-gateway", version)

    def spans(self, request: RequestSpan) -> list[ReadableSpan]:
        """All spans of a request, the server's first. Raises ValueError for ids that are none."""
        trace_id = int(request.trace_id, 16)
        state = _state(request.state)
        server = SpanContext(
            trace_id, int(request.span_id, 16), is_remote=False, trace_flags=_SAMPLED, trace_state=state
        )
        parent = None
        if request.parent_id:
            parent = SpanContext(trace_id, int(request.parent_id, 16), is_remote=True, trace_flags=_SAMPLED)
        clients = self._clients(request, server)
        return [*clients] if request.copy_only else [self._server(request, server, parent), *clients]

    def _server(self, request: RequestSpan, context: SpanContext, parent: SpanContext | None) -> ReadableSpan:
        method = request.method if request.method in _METHODS else "_OTHER"
        host, _, port = request.host.rpartition(":")
        if not host or not port.isdecimal():
            host, port = request.host, ""
        attributes: dict[str, AttributeValue] = {
            "http.request.method": method,
            "url.scheme": request.scheme,
            "url.path": request.path,
            "network.protocol.version": request.version,
            "client.address": request.client,
            "server.address": host,
            "http.response.status_code": request.status,
            "http.request.body.size": request.request_bytes,
            "gateway.request_id": request.request_id,
            "gateway.rescued": request.rescued,
        }
        if method != request.method:
            attributes["http.request.method_original"] = request.method
        if port:
            attributes["server.port"] = int(port)
        if request.route:
            attributes["http.route"] = request.route
        if request.assigned:
            attributes |= {
                "gateway.variant": request.variant,
                "gateway.variant.assigned": request.assigned,
                "gateway.variant.forced": request.forced,
                "gateway.table.epoch": request.epoch,
            }
        if request.kept:
            attributes["gateway.kept_unsampled"] = True
        failed = request.status >= _SERVER_ERROR or bool(request.fault)
        if failed:
            attributes["error.type"] = request.fault or str(request.status)
        name = f"{method} {request.route}" if request.route else method
        error = Status(StatusCode.ERROR, request.fault or None) if failed else Status(StatusCode.UNSET)
        times = (request.began_s, request.ended_s)
        return self._span(name, context, parent, SpanKind.SERVER, attributes, times, error)

    def _clients(self, request: RequestSpan, server: SpanContext) -> Iterator[ReadableSpan]:
        for number, attempt in enumerate(request.attempts):
            context = SpanContext(
                server.trace_id,
                int(attempt.span_id, 16),
                is_remote=False,
                trace_flags=_SAMPLED,
                trace_state=server.trace_state,
            )
            method = request.method if request.method in _METHODS else "_OTHER"
            attributes: dict[str, AttributeValue] = {
                "http.request.method": method,
                "server.address": attempt.host,
                "server.port": attempt.port,
                "url.path": request.path,
                "gateway.backend": attempt.backend,
                "gateway.variant": attempt.variant,
                "gateway.result": attempt.result,
                "gateway.rescue": attempt.variant != request.assigned and not attempt.mirrored,
            }
            if attempt.mirrored:
                attributes["gateway.mirror"] = True
            if number:
                attributes["http.request.resend_count"] = number
            if attempt.status:
                attributes["http.response.status_code"] = attempt.status
            failed = bool(attempt.fault) or attempt.status >= _CLIENT_ERROR
            if failed:
                attributes["error.type"] = attempt.fault or str(attempt.status)
            error = Status(StatusCode.ERROR, attempt.fault or None) if failed else Status(StatusCode.UNSET)
            times = (attempt.began_s, attempt.ended_s or request.ended_s)
            yield self._span(
                *(f"{method} {attempt.backend}", context, server, SpanKind.CLIENT, attributes, times, error),
                events=_first_byte(attempt),
            )

    def _span(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        attributes: dict[str, AttributeValue],
        times_s: tuple[float, float],
        status: Status,
        events: Sequence[Event] = (),
    ) -> ReadableSpan:
        began_s, ended_s = times_s
        return ReadableSpan(
            name,
            context=context,
            parent=parent,
            resource=self._resource,
            attributes=attributes,
            events=events,
            kind=kind,
            status=status,
            start_time=_ns(began_s),
            end_time=_ns(max(began_s, ended_s)),
            instrumentation_scope=self._scope,
        )


def _first_byte(attempt: AttemptSpan) -> Sequence[Event]:
    return (Event("first byte", timestamp=_ns(attempt.first_byte_s)),) if attempt.first_byte_s else ()


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)


def _state(header: str) -> TraceState:
    return TraceState.from_header([header]) if header else TraceState()

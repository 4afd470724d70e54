"""How an exchange becomes the spans of a trace: the record of its request, with its attempts."""

from __future__ import annotations

from gateway.proxy.access_log import text
from gateway.proxy.exchange.exchange_attempts import ExchangeAttempts
from gateway.proxy.exchange.types import Downstream
from gateway.proxy.heads.gateway_errors import Fault
from gateway.proxy.heads.message_head import RequestHead
from gateway.proxy.heads.request import Request
from gateway.proxy.routes.route_runtime import RouteRuntime
from gateway.proxy.spans import RequestTrace, path_of
from gateway.runtime.spans import AttemptSpan, RequestSpan


def spans_of(
    trace: RequestTrace,
    request: Request,
    head: RequestHead,
    client: Downstream,
    attempts: ExchangeAttempts | None,
    route: str,
    began_s: float,
    now_s: float,
    status: int,
    fault: Fault | None,
) -> RequestSpan:
    """The record of a request that ends now; an attempt that is still open ends with it."""
    trace.end("cut", 0, 0.0, now_s)
    return RequestSpan(
        trace_id=text(trace.trace_id),
        span_id=trace.span_id,
        parent_id=text(trace.parent_id),
        state=text(trace.state),
        kept=not trace.sampled,
        method=text(request.method),
        path=path_of(request.target),
        host=text(head.host),
        scheme="https" if client.tls else "http",
        version=request.version,
        client=text(client.peer),
        request_id=text(head.id_line.partition(b": ")[2].rstrip()),
        began_s=trace.wall_s(began_s),
        ended_s=trace.wall_s(now_s),
        status=status,
        fault="" if fault is None else fault.reason,
        route=route,
        assigned="" if attempts is None else attempts.assigned.label,
        variant="" if attempts is None else attempts.variant.label,
        rescued=attempts is not None and attempts.rescued,
        forced=attempts is not None and attempts.forced,
        epoch=0 if attempts is None else attempts.counters.evidence.epoch,
        request_bytes=0 if attempts is None else attempts.body_bytes,
        attempts=trace.attempts,
    )


def mirror_span(
    trace: RequestTrace, request: Request, head: RequestHead, route: RouteRuntime, span: AttemptSpan, body_bytes: int
) -> RequestSpan:
    """The record of a mirrored copy, whose request may have ended before."""
    return RequestSpan(
        trace_id=text(trace.trace_id),
        span_id=trace.span_id,
        parent_id="",
        state=text(trace.state),
        kept=False,
        method=text(request.method),
        path=path_of(request.target),
        host=text(head.host),
        scheme="http",
        version=request.version,
        client="",
        request_id="",
        began_s=span.began_s,
        ended_s=span.ended_s,
        status=0,
        fault="",
        route=route.route.name,
        assigned="stable",
        variant="stable",
        rescued=False,
        forced=False,
        epoch=route.counters.evidence.epoch,
        request_bytes=body_bytes,
        attempts=[span],
        copy_only=True,
    )

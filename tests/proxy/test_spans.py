"""Which requests are traced, and what is handed over: the worker's side of traces, without sockets."""

from __future__ import annotations

import pytest

from gateway.core.traffic.table import Endpoint
from gateway.proxy.heads.message_head import RareFields, RequestHead
from gateway.proxy.spans import RequestTrace, Tracer, path_of
from gateway.runtime.settings import TracingSettings
from gateway.runtime.spans import RequestSpan

TRACE, PARENT = b"0af7651916cd43dd8448eb211c80319c", b"b7ad6b7169203331"


def head(*traceparents: bytes, state: bytes = b"") -> RequestHead:
    made = RequestHead()
    made.trace_id = TRACE
    if traceparents:
        made.rare = RareFields()
        made.rare.traceparents += traceparents
        made.rare.tracestates += [state] if state else []
    return made


def span() -> RequestSpan:
    texts = ("",) * 4
    return RequestSpan(*texts, False, *("",) * 7, 0.0, 0.0, 200, "", "", "", "", False, False, 0, 0, [])


@pytest.mark.parametrize(
    ("flags", "draw", "sampled"), [(b"01", 0.99, True), (b"03", 0.99, True), (b"00", 0.0, False), (b"02", 0.0, False)]
)
def test_a_parents_decision_is_honoured(flags: bytes, draw: float, sampled: bool) -> None:
    tracer = Tracer(TracingSettings(sample=0.5))
    trace = tracer.begin(head(b"00-%b-%b-%b" % (TRACE, PARENT, flags), state=b"v=1"), draw)
    assert (trace.sampled, trace.parent_id, trace.state) == (sampled, PARENT, b"v=1")


@pytest.mark.parametrize(("draw", "sampled"), [(0.49, True), (0.5, False)])
def test_without_a_parent_a_share_is_sampled(draw: float, sampled: bool) -> None:
    tracer = Tracer(TracingSettings(sample=0.5))
    for request in (head(), head(b"nonsense"), head(*(b"00-%b-%b-01" % (TRACE, PARENT),) * 2)):
        trace = tracer.begin(request, draw)
        assert (trace.sampled, trace.parent_id, trace.trace_id) == (sampled, b"", TRACE)


def test_rescues_and_server_errors_are_kept_whatever_was_drawn() -> None:
    tracer = Tracer(TracingSettings(sample=0.0))
    trace = tracer.begin(head(), 0.5)
    assert not tracer.wants(trace, 200, rescued=False) and not tracer.wants(trace, 404, rescued=False)
    assert tracer.wants(trace, 200, rescued=True) and tracer.wants(trace, 502, rescued=False)


def test_each_attempt_is_its_backends_parent_and_says_whether_it_is_sampled() -> None:
    trace = RequestTrace(TRACE, PARENT, b"v=1", sampled=False)
    assert trace.lines() == b"", "no attempt is under way"
    lines = []
    for variant in ("canary", "stable"):
        trace.begin(variant, f"{variant}-backend", Endpoint("h", 80), 10.0)
        lines.append(trace.lines())
        trace.failed("reset")
        trace.end("errors", 0, 0.0, 11.0)
    ids = [attempt.span_id.encode() for attempt in trace.attempts]
    assert lines == [b"traceparent: 00-%b-%b-00\r\ntracestate: v=1\r\n" % (TRACE, one) for one in ids]
    assert len({*ids, trace.span_id.encode()}) == 3
    assert [(a.variant, a.fault, round(a.ended_s - a.began_s, 6)) for a in trace.attempts] == [
        ("canary", "reset", 1.0),
        ("stable", "reset", 1.0),
    ]
    trace.end("ok", 200, 0.0, 99.0)
    assert trace.attempts[-1].result == "errors", "an attempt ends once"


def test_what_does_not_fit_is_dropped_and_counted() -> None:
    tracer = Tracer(TracingSettings(queue_max=3))
    for _ in range(5):
        tracer.put(span())
    batch = tracer.batch()
    assert batch is not None and len(batch.requests) == 3
    assert (tracer.dropped, tracer.batch()) == (2, None)


def test_a_path_has_no_query_and_an_end() -> None:
    assert path_of(b"/a?secret=1") == "/a"
    assert path_of(b"/\xff") == "/\\xff"
    assert len(path_of(b"/" + b"a" * 5000)) == 1024

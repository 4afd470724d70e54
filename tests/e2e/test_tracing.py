"""Traces end to end: a real gateway, and an OTLP receiver that reads what it is sent with the official protobufs."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.backend import Backend, answer
from tests.support.gateway import RunningGateway, config
from tests.support.worker import eventually

pytestmark = pytest.mark.anyio

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{'1' * 32}-{PARENT}-00"


class Receiver:
    """An OTLP receiver (HTTP, protobuf). ``status`` is what it answers with."""

    def __init__(self) -> None:
        self.status = 200
        self.requests: list[ExportTraceServiceRequest] = []
        self.headers: list[dict[str, str]] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1/traces"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                body = await reader.readexactly(int(headers["content-length"]))
                assert first == "POST /v1/traces HTTP/1.1" and headers["content-type"] == "application/x-protobuf"
                if headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                if self.status == 200:
                    self.headers.append(headers)
                    self.requests.append(ExportTraceServiceRequest.FromString(body))
                writer.write(f"HTTP/1.1 {self.status} Said\r\ncontent-length: 0\r\n\r\n".encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def spans(self, trace_id: str | None = None) -> list[Span]:
        """All spans, or those of a trace."""
        return [span for span in self._all() if trace_id in (None, span.trace_id.hex())]

    def _all(self) -> Iterator[Span]:
        for request in self.requests:
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    yield from scope.spans


def attributes(span: Span) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def named(spans: list[Span], kind: int) -> list[Span]:
    return [span for span in spans if span.kind == kind]


async def test_requests_attempts_and_rescues_are_spans_of_one_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTLP_HEADERS", "authorization=Bearer%20abc,x-team=ml")
    async with Receiver() as otlp, Backend() as stable, Backend(answer(500)) as canary:
        more = {
            "workers": 1,
            "access_log": {"path": "access.log"},
            "tracing": {"endpoint": otlp.url, "sample": 0.0, "headers_env": "OTLP_HEADERS"},
        }
        settings = config(stable.url, canary.url, forced_variant_header="x-variant") | more
        async with RunningGateway(tmp_path, settings) as gateway:
            to_canary = {"x-variant": "canary"}
            state = {"traceparent": SAMPLED, "tracestate": "vendor=1"}
            await gateway.client.get("/m?secret=1", headers=state)
            await gateway.client.post("/m", content=b"12345", headers={"traceparent": SAMPLED} | to_canary)
            await gateway.client.get("/m", headers={"traceparent": UNSAMPLED})
            await gateway.client.get("/m", headers={"traceparent": UNSAMPLED} | to_canary)
            await gateway.client.get("/m")
            await eventually(
                lambda: len(named(otlp.spans(), Span.SPAN_KIND_SERVER)) == 3, "three requests are exported"
            )

            servers = named(otlp.spans(TRACE), Span.SPAN_KIND_SERVER)
            plain, rescued = sorted(servers, key=lambda span: span.start_time_unix_nano)
            check_plain(otlp, plain, stable)
            check_rescued(otlp, rescued, stable, canary)
            (kept,) = named(otlp.spans("1" * 32), Span.SPAN_KIND_SERVER)
            assert attributes(kept)["gateway.kept_unsampled"] is True and attributes(kept)["gateway.rescued"] is True
            assert stable.seen[2].all(b"traceparent")[0].endswith(b"-00"), "not sampled, and the backend knows"
            resource = otlp.requests[0].resource_spans[0].resource
            assert {one.key: one.value.string_value for one in resource.attributes}["service.name"] == "canary-gateway"
            assert otlp.headers[0]["authorization"] == "Bearer abc" and otlp.headers[0]["x-team"] == "ml"

            accept = {"accept": "application/openmetrics-text"}
            text = (await gateway.admin.get("/metrics", headers=accept)).text
            assert f'# {{trace_id="{TRACE}"}}' in text, "a bucket leads to a trace that was kept"
            await lines_in(tmp_path / "access.log", 5)
            logged = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
            assert (logged[0]["trace_id"], logged[0]["span_id"]) == (TRACE, plain.span_id.hex())

            otlp.status = 400
            await gateway.client.get("/m", headers={"traceparent": SAMPLED})
            await eventually_counted(gateway, "failed", 2)
            await eventually_counted(gateway, "exported", 2 + 3 + 3)
        assert b"takes no spans; they are lost" in gateway.log


def check_plain(otlp: Receiver, plain: Span, stable: Backend) -> None:
    assert plain.name == "GET r" and plain.parent_span_id.hex() == PARENT
    told = attributes(plain)
    wanted = {"http.request.method": "GET", "http.route": "r", "url.path": "/m", "http.response.status_code": 200}
    assert told.items() >= (wanted | {"gateway.rescued": False}).items()
    assert "secret" not in str(told)
    (attempt,) = children(otlp, plain)
    assert (attempt.kind, attempt.name) == (Span.SPAN_KIND_CLIENT, "GET stable")
    assert [event.name for event in attempt.events] == ["first byte"]
    seen = stable.seen[0]
    assert seen.all(b"traceparent") == [f"00-{TRACE}-{attempt.span_id.hex()}-01".encode()], "its span is the parent"
    assert seen.all(b"tracestate") == [b"vendor=1"]


def check_rescued(otlp: Receiver, rescued: Span, stable: Backend, canary: Backend) -> None:
    told = attributes(rescued)
    assert told["gateway.rescued"] is True and told["gateway.variant.assigned"] == "canary"
    assert (told["http.request.body.size"], told["http.response.status_code"]) == (5, 200)
    failed, rescue = children(otlp, rescued)
    assert attributes(failed).items() >= {"gateway.backend": "canary", "http.response.status_code": 500}.items()
    assert failed.status.code == 2 and attributes(failed)["error.type"] == "500"
    assert attributes(rescue).items() >= {"gateway.rescue": True, "http.request.resend_count": 1}.items()
    assert rescued.start_time_unix_nano <= failed.start_time_unix_nano <= rescue.start_time_unix_nano
    assert rescue.end_time_unix_nano <= rescued.end_time_unix_nano
    parents = [seen.all(b"traceparent")[0].decode().split("-")[2] for seen in (canary.seen[0], stable.seen[1])]
    assert parents == [failed.span_id.hex(), rescue.span_id.hex()]


def children(otlp: Receiver, server: Span) -> list[Span]:
    """The attempts of a request, in order."""
    found = [span for span in otlp.spans() if span.parent_span_id == server.span_id]
    return sorted(found, key=lambda span: span.start_time_unix_nano)


async def lines_in(path: Path, number: int) -> None:
    await eventually(lambda: path.exists() and path.read_text().count("\n") >= number, f"{number} lines are logged")


async def eventually_counted(gateway: RunningGateway, result: str, number: int) -> None:
    wanted, text = f'gateway_spans_total{{result="{result}"}} {number}.0', ""
    async with asyncio.timeout(30):
        while wanted not in text:
            text = (await gateway.admin.get("/metrics")).text
            await asyncio.sleep(0.05)

"""The proxy that one would write in an afternoon: Starlette in front, httpx behind, bodies streamed both ways.

    python naive.py PORT UPSTREAM_PORT

On uvicorn with uvloop and httptools, one worker, no access log, upstream connections kept: as fast as these libraries
go without changing what they are.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

_HOP_BY_HOP = frozenset({"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"})


def application(upstream_port: int) -> Starlette:
    """The proxy as an application."""
    client = httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{upstream_port}",
        limits=httpx.Limits(max_connections=256, max_keepalive_connections=256),
        timeout=30.0,
        trust_env=False,
    )

    async def forward(request: Request) -> StreamingResponse:
        headers = [(name, value) for name, value in request.headers.items() if name not in _HOP_BY_HOP]
        body = request.stream() if "content-length" in request.headers else None
        answer = await client.send(
            client.build_request(request.method, request.url.path, headers=headers, content=body), stream=True
        )
        kept = {name: value for name, value in answer.headers.items() if name not in _HOP_BY_HOP}
        return StreamingResponse(answer.aiter_raw(), answer.status_code, kept, background=BackgroundTask(answer.aclose))

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with client:
            yield

    methods = ["GET", "POST"]
    return Starlette(routes=[Route("/{path:path}", forward, methods=methods)], lifespan=lifespan)


if __name__ == "__main__":
    uvicorn.run(
        application(int(sys.argv[2])),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
    )

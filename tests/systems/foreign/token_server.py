"""A server that streams chat completions as vLLM does: ``token_server.py PORT [SHARE]``.

Of that share of the streams an error comes in the middle, after a 200 and some tokens: vLLM sends
``data: {"error": …}`` and then ``data: [DONE]``.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

PORT, SHARE = int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
TOKENS = 8
TOKEN_S = 0.005


def event(delta: dict[str, str], finish: str | None = None) -> str:
    """One chunk of the stream."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return f"data: {json.dumps(chunk)}\n\n"


async def stream() -> AsyncIterator[str]:
    """A role, tokens, the reason of the end; or an error in its middle."""
    fails_at = random.randrange(1, TOKENS) if random.random() < SHARE else TOKENS
    yield event({"role": "assistant", "content": ""})
    for n in range(fails_at):
        await asyncio.sleep(TOKEN_S)
        yield event({"content": f" token{n}"})
    if fails_at < TOKENS:
        error = {"object": "error", "message": "CUDA out of memory", "type": "InternalServerError", "code": 500}
        yield f"data: {json.dumps({'error': error})}\n\n"
    else:
        yield event({}, "stop")
    yield "data: [DONE]\n\n"


async def complete(_: Request) -> StreamingResponse:
    """POST /v1/chat/completions."""
    return StreamingResponse(stream(), media_type="text/event-stream")


async def health(_: Request) -> PlainTextResponse:
    """GET /health."""
    return PlainTextResponse("")


if __name__ == "__main__":
    routes = [Route("/v1/chat/completions", complete, methods=["POST"]), Route("/health", health)]
    uvicorn.run(Starlette(routes=routes), host="127.0.0.1", port=PORT, log_level="warning")

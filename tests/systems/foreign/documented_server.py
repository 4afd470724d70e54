"""Stands in for servers that cannot be installed here: ``documented_server.py tensorflow-serving|vllm|tgi PORT``.

The paths, the answers and the errors are those of their documentation (TensorFlow Serving's RESTful API, vLLM's
OpenAI-compatible server, TGI's OpenAPI file); a path that they do not have is a 404 here as well.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

NAMES = ("hen", "fox", "cow", "cat")
TOKENS = 6


async def status(_: Request) -> Response:
    """TensorFlow Serving: GET /v1/models/NAME."""
    version = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    return JSONResponse({"model_version_status": [version]})


async def predict(request: Request) -> Response:
    """TensorFlow Serving: POST /v1/models/NAME:predict."""
    body = await request.json()
    if "instances" not in body:
        return JSONResponse({"error": "Missing 'inputs' or 'instances' key"}, 400)
    return JSONResponse({"predictions": [NAMES[int(row[0]) % 4] for row in body["instances"]]})


async def ready(_: Request) -> Response:
    """GET /health of vLLM and TGI: an empty 200."""
    return PlainTextResponse("")


async def chat(request: Request) -> Response:
    """POST /v1/chat/completions, as a stream of chunks."""
    model = (await request.json())["model"]

    def chunk(delta: dict[str, str], finish: str | None) -> Any:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [choice]}

    tokens = [chunk({"content": f" token{number}"}, None) for number in range(TOKENS)]
    events = [json.dumps(each) for each in (*tokens, chunk({}, "stop"))]
    return StreamingResponse(_events([*events, "[DONE]"]), media_type="text/event-stream")


async def generate(_: Request) -> Response:
    """TGI: POST /generate_stream."""
    events: list[Any] = []
    for number in range(TOKENS):
        token = {"id": number, "text": f" token{number}", "logprob": -0.1, "special": False}
        last = number == TOKENS - 1
        events.append({"index": number + 1, "token": token, "generated_text": "..." if last else None, "details": None})
    return StreamingResponse(_events([json.dumps(each) for each in events]), media_type="text/event-stream")


async def _events(data: list[str]) -> AsyncIterator[str]:
    for each in data:
        yield f"data: {each}\n\n"


ROUTES = {
    "tensorflow-serving": [
        Route("/v1/models/animals:predict", predict, methods=["POST"]),
        Route("/v1/models/animals", status),
    ],
    "vllm": [Route("/health", ready), Route("/v1/chat/completions", chat, methods=["POST"])],
    "tgi": [
        Route("/health", ready),
        Route("/generate_stream", generate, methods=["POST"]),
        Route("/v1/chat/completions", chat, methods=["POST"]),
    ],
}

if __name__ == "__main__":
    uvicorn.run(Starlette(routes=ROUTES[sys.argv[1]]), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")

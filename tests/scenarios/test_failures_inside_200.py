"""Answers that say 200 and mean failure, with default settings: the whole gateway, a route for each kind of canary.

All routes are served by one gateway and judged at the same time. Bodies are of the real thing's shape; what they are
judged by is found in stable's answers, so that the configuration has no key of its own here.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import random
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.backend import Backend, Peer, Script, Seen
from tests.support.gateway import QUICK, RunningGateway, config

pytestmark = pytest.mark.anyio
_PAUSE_S = 0.015
_TIME_S = 90.0

Body = Callable[[random.Random], tuple[str, bytes, str]]


class Case(NamedTuple):
    """What the two versions of a route answer, as media type, body and coding."""

    stable: Body
    canary: Body
    # What its route's analysis has beside the defaults.
    analysis: Mapping[str, Any] = {}


def fixed(media: str, body: bytes, coding: str = "") -> Body:
    return lambda _: (media, body, coding)


def mixed(share: float, rare: Body, usual: Body) -> Body:
    """``rare`` in this share of the answers."""
    return lambda draw: (rare if draw.random() < share else usual)(draw)


def raw_deflate(data: bytes) -> bytes:
    made = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return made.compress(data) + made.flush()


def events(*data: str) -> bytes:
    return "".join(f"data: {part}\n\n" for part in data).encode()


TOKENS = [json.dumps({"choices": [{"delta": {"content": f"token {n}"}, "finish_reason": None}]}) for n in range(30)]
ERROR = json.dumps({"error": {"message": "CUDA out of memory", "type": "server_error", "code": 500}})
PREDICTED = json.dumps({"predictions": [[0.1, 0.9]]}).encode()
JSON, STREAM = "application/json", "text/event-stream"

good = fixed(JSON, PREDICTED)
good_stream = fixed(STREAM, events(*TOKENS, "[DONE]"))
error_body = fixed(JSON, ERROR.encode())
image = fixed("image/png", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40)

BAD = {
    "error-in-json": Case(good, error_body),
    "error-in-a-fifth": Case(good, mixed(0.2, error_body, good)),
    "one-error-event": Case(good_stream, fixed(STREAM, events(ERROR))),
    "named-error-event": Case(good_stream, fixed(STREAM, b"event: error\ndata: worker died\n\n")),
    "error-in-mid-stream": Case(
        good_stream, mixed(0.2, fixed(STREAM, events(*TOKENS * 10, ERROR, *TOKENS, "[DONE]")), good_stream)
    ),
    "empty-body": Case(good, fixed(JSON, b"")),
    "login-page": Case(good, fixed("text/html; charset=utf-8", b"<!doctype html><title>Sign in</title>")),
    "not-json": Case(good, fixed(JSON, b"Internal error")),
    "another-object": Case(good, fixed(JSON, b'{"detail": "Not Found"}')),
    "null-result": Case(fixed(JSON, b'{"label": "hen"}'), fixed(JSON, b'{"label": null}')),
    "image-for-json": Case(good, fixed("image/png", b"\x89PNG")),
    "no-stream": Case(good_stream, fixed(JSON, TOKENS[0].encode())),
    "end-alone": Case(good_stream, fixed(STREAM, events("[DONE]"))),
    "cut-stream": Case(good_stream, fixed(STREAM, events(*TOKENS)[:-20])),
    "no-end": Case(good_stream, fixed(STREAM, events(*TOKENS))),
    "zipped-errors": Case(
        fixed(JSON, gzip.compress(PREDICTED), "gzip"), fixed(JSON, gzip.compress(ERROR.encode()), "gzip")
    ),
}
# By default it takes thousands of answers to prove one tenth to be no more than one tenth.
FAIL = {"model_errors": {"margin_delta": 0.15}, "predictions": {"fault_margin": 0.15}}
# What is proven by slices of a second has tests of its own.
ADVISE: dict[str, Any] = {metric: {"mode": "advise"} for metric in ("latency", "first_token", "gap", "time_per_event")}
GOOD = {
    "json": Case(good, fixed(JSON, json.dumps({"predictions": [[0.2, 0.8]], "error": None}).encode())),
    "stream": Case(good_stream, fixed(STREAM, events(*TOKENS[:9], "[DONE]").replace(b"\n", b"\r\n"))),
    "two-members": Case(good, fixed(JSON, gzip.compress(PREDICTED[:9]) + gzip.compress(PREDICTED[9:]), "gzip")),
    "raw-deflate": Case(good, fixed(JSON, raw_deflate(PREDICTED), "deflate")),
    "images": Case(image, image),
    "both-fail-alike": Case(mixed(0.1, error_body, good), mixed(0.1, error_body, good), FAIL),
    "a-number-named-error": Case(
        fixed(JSON, b'{"error": 0.02, "predictions": [1.5]}'), fixed(JSON, b'{"error": 0.91, "predictions": [1.4]}')
    ),
}


# What cannot be decoded, where stable's answers can, is the canary's failure.
garbage = fixed(JSON, b"no gzip", "gzip")
BAD |= {"all-unread": Case(good, garbage), "half-unread": Case(good, mixed(0.5, garbage, good))}


def script(body: Body, seed: int) -> Script:
    draw = random.Random(seed)

    async def answer(_: Seen, peer: Peer) -> None:
        media, content, coding = body(draw)
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {media}\r\n" + (f"content-encoding: {coding}\r\n" if coding else "")
        if media != STREAM:
            await peer.send(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
            return
        await peer.send(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
        for start in range(0, len(content), 700):
            piece = content[start : start + 700]
            await peer.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        await peer.send(b"0\r\n\r\n")

    return answer


@contextlib.asynccontextmanager
async def traffic(url: str, name: str) -> Any:
    """Two clients of a route, one request after the other."""
    host, port = url.removeprefix("http://").split(":")

    async def run() -> None:
        reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 20)
        try:
            while True:
                writer.write(f"POST /{name} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{{}}".encode())
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                assert head.startswith(b"http/1.1 200"), head
                if b"chunked" in head:
                    while size := int(await reader.readline(), 16):
                        await reader.readexactly(size + 2)
                    await reader.readline()
                else:
                    await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
                await asyncio.sleep(_PAUSE_S)
        finally:
            writer.close()

    tasks = [asyncio.create_task(run()) for _ in range(2)]
    try:
        yield
        assert not [task for task in tasks if task.done()], "every request was answered"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def outcomes(
    directory: Path, cases: dict[str, Case], held: Mapping[str, str] | None = None, **analysis: Any
) -> dict[str, dict[str, Any]]:
    """The rollouts of all cases, by name, when each has ended, or those of ``held`` give this part of a reason."""
    held = held or {}
    async with contextlib.AsyncExitStack() as stack:
        backends: dict[str, Any] = {}
        routes = []
        for number, (name, case) in enumerate(cases.items()):
            for variant, body in (("stable", case.stable), ("canary", case.canary)):
                backend = await stack.enter_async_context(Backend(script(body, number)))
                backends[f"{name}.{variant}"] = {"endpoints": [backend.url], "probe": None}
            base = config("http://x", "http://x", plan={"steps": [{"percent": 50, "min_time_s": 0.5}]})["routes"][0]
            changes = {
                "stable": f"{name}.stable",
                "canary": f"{name}.canary",
                "analysis": {**analysis, **case.analysis},
            }
            routes.append(base | changes | {"name": name, "match": {"path_prefix": f"/{name}"}})
        whole = config("http://x", "http://x") | {"backends": backends, "routes": routes, "workers": 1}
        gateway = await stack.enter_async_context(RunningGateway(directory, whole))
        names = list(cases)
        views = await asyncio.gather(*(outcome(gateway, name, held.get(name, "")) for name in names))
        return dict(zip(names, views, strict=True))


async def outcome(gateway: RunningGateway, name: str, held: str) -> dict[str, Any]:
    """The route's rollout, under traffic that ends with it: or, not ended, when ``held`` is part of its reason."""
    async with traffic(gateway.url, name):
        reply = await gateway.admin.post(f"/api/v1/routes/{name}/rollouts")
        assert reply.status_code == 201, reply.text
        rollout: str = reply.json()["id"]
        if not held:
            return await gateway.until_phase(rollout, "ROLLED_BACK", "PROMOTED", timeout_s=_TIME_S)
        async with asyncio.timeout(_TIME_S):
            while True:
                view = await gateway.rollout(rollout)
                if view["analysis"] is not None and held in view["analysis"]["reason"]:
                    return view
                await asyncio.sleep(0.05)


async def test_failures_inside_a_200_roll_back(tmp_path: Path) -> None:
    # What texts say is judged, too, and may be proven first: it has tests of its own.
    views = await outcomes(tmp_path, BAD, texts={"mode": "advise"})
    for name, view in views.items():
        assert view["phase"] == "ROLLED_BACK", (name, view)
        # An answer of another form is also one that holds no prediction, or none that is a number, and its class is
        # missing among the canary's: what is proven first, or at the same look, is named.
        expected = {"empty_body"} if name == "empty-body" else {"model_errors", "unreadable", "nan"}
        mixed = {cause for cause in view["causes"] if cause.startswith("class_")}
        assert set(view["causes"]) - mixed <= expected, (name, view["causes"])
        assert set(view["causes"]) & expected or name == "login-page", (name, view["causes"])
    assert "CUDA out of memory" in views["error-in-json"]["reason"]


async def test_healthy_answers_are_promoted(tmp_path: Path) -> None:
    views = await outcomes(tmp_path, GOOD, texts={"mode": "advise"}, **{**QUICK, **ADVISE})
    assert {name: view["phase"] for name, view in views.items()} == dict.fromkeys(GOOD, "PROMOTED")

"""Answers of common model servers, judged without their form configured; and what is reported where nothing can be.

One gateway with a route for each case: `decide` asks for the verdict, the form of the answers is never configured. Of
the routes whose names begin with `default` nothing is said about predictions at all.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

from tests.support.backend import Backend, Peer, Seen, answer
from tests.support.gateway import RunningGateway, config
from tests.support.worker import EVENTUALLY_S

pytestmark = pytest.mark.anyio
SEED = 20_262
CLASSES = ("cat", "dog", "hen")
# Wide margins, so that few answers prove a good version.
WIDE = {"mode": "decide", "tolerance": 0.1, "margin": 0.35, "fault_margin": 0.2}
Form = Callable[[int, str], Any]


def tensor(name: str, datatype: str, data: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [1], "data": [data]}


# Every form is read in tests/core/predictions/test_protocol_auto.py; these go all the way.
FORMS: dict[str, Form] = {
    "mlflow": lambda n, label: {"predictions": [{"row_id": n, "label": label}]},
    "triton": lambda n, label: {"outputs": [tensor("out", "BYTES", f"0.9{n:05}:{CLASSES.index(label)}:{label}")]},
    "seq-first": lambda n, label: {"outputs": [tensor("seq", "INT64", n), tensor("class", "BYTES", label)]},
}
JUDGED = ("mlflow-good", "mlflow-bad", "triton-bad", "seq-first-good")
# What cannot be compared is silent by default, and the version is promoted by what can be.
BY_DEFAULT: dict[str, Form] = {
    "default-mlflow": FORMS["mlflow"],
    "default-text": lambda n, label: f"the answer is {label} {n}",
    "default-chat": lambda n, label: {"choices": [{"message": {"role": "assistant", "content": label}, "index": 0}]},
    "default-number": lambda n, label: {"predictions": [n / 7]},
    "default-one-class": lambda n, label: {"predictions": ["cat"]},
    "default-shape": FORMS["mlflow"],
}
DEFAULT_BAD = ("default-mlflow-bad", "default-shape-bad")
NOTHING: dict[str, Form] = {
    "unreadable": lambda n, label: {"predictions": [[1, 2], [n]]},
    "captions": lambda n, label: {"label": f"caption {n}"},
    "one-class": lambda n, label: {"class": "cat"},
}
SOURCES: dict[str, dict[str, Any]] = {
    "no-header": {"name": "fallback", "header": "x-fallback", "mode": "decide"},
    "no-label": {"name": "wrong", "trial": "label", "mode": "decide"},
    "header-alike": {"name": "cached", "header": "x-cache", "header_value": "hit", "margin_delta": 0.2},
}
# A number of each answer, twice as large on average in the bad version.
COST = {"name": "cost", "header": "X-Cost", "bounds": [0, 1], "margin_ratio": 1.5}
SAID = {
    "unreadable": ("answers of stable", 'could not be read: nested lists differ in length or depth, in {"predictions'),
    "captions": ("`label` hardly repeats (100 of 100 differ, such as caption", "`predictions: {label: class}`"),
    "one-class": ("all answers of both versions are class_0", "`predictions: {mode: advise}`"),
    "no-header": (
        "no answer of either version has had the header `x-fallback`",
        "{name: fallback, header: x-fallback, mode",
    ),
    "no-label": ("post labels to /api/v1/routes/no-label/events", "mode: advise"),
}


class Model:
    """A model server: each route's answers in the form of its name; the bad version knows one class alone."""

    def __init__(self, *, bad: bool) -> None:
        self._bad = bad
        self._random = random.Random(SEED + bad)
        self._count = itertools.count()

    async def __call__(self, seen: Seen, peer: Peer) -> None:
        form, _, kind = seen.target.decode().strip("/").partition("/")
        bad = self._bad and kind == "bad"
        label = "hen" if bad else self._random.choice(CLASSES)
        form = "default-chat" if bad and form == "default-shape" else form
        n = next(self._count)
        headers = b"content-type: application/json\r\n" + (b"x-cache: miss\r\n" if form == "header-alike" else b"")
        headers += b"x-cost: %.3f\r\n" % (self._random.uniform(0.1, 0.3) + 0.2 * bad) if form == "cost" else b""
        body = (FORMS | NOTHING | BY_DEFAULT).get(form, FORMS["mlflow"])(n, label)
        if form == "default-text":
            await answer(200, body.encode(), b"content-type: text/plain\r\n")(seen, peer)
        else:
            await answer(200, json.dumps(body).encode(), headers)(seen, peer)


def routes(base: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for name in (*JUDGED, *NOTHING):
        form, _, kind = name.rpartition("-") if name in JUDGED else (name, "", "good")
        events = [{"name": "low_confidence", "mode": "off"}]
        analysis = base["analysis"] | {"predictions": WIDE, "events": events}
        found.append(base | {"name": name, "match": {"path_prefix": f"/{form}/{kind}"}, "analysis": analysis})
    for name in (*DEFAULT_BAD, *(f"{form}-good" for form in BY_DEFAULT)):
        form, _, kind = name.rpartition("-")
        found.append(base | {"name": name, "match": {"path_prefix": f"/{form}/{kind}"}})
    for kind in ("good", "bad"):
        analysis = base["analysis"] | {"events": [COST], "predictions": None}
        found.append(base | {"name": f"cost-{kind}", "match": {"path_prefix": f"/cost/{kind}"}, "analysis": analysis})
    for name, event in SOURCES.items():
        analysis = base["analysis"] | {"events": [event], "labels": {"window_s": 1}}
        found.append(base | {"name": name, "match": {"path_prefix": f"/{name}/good"}, "analysis": analysis})
    return found


class Users:
    """Who asks on every route that is not settled yet."""

    def __init__(self, gateway: RunningGateway, paths: dict[str, str]) -> None:
        self._gateway = gateway
        self.paths = paths

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._run()) for _ in range(6)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended

    async def _run(self) -> None:
        while self.paths:
            for path in list(self.paths.values()):
                assert (await self._gateway.client.post(path, content=b"{}")).status_code == 200
                await asyncio.sleep(0.02)  # as fast as can be, the inspector would get no time and be sent no samples
        await asyncio.Event().wait()


async def settle(gateway: RunningGateway, paths: dict[str, str]) -> dict[str, Any]:
    """Start a rollout on every route; the views of all of them once each has come to what there is to come to."""
    ids = {name: (await start(gateway, name))["id"] for name in paths}
    views: dict[str, Any] = {}
    async with Users(gateway, dict(paths)) as users:
        deadline_s = asyncio.get_running_loop().time() + 6 * EVENTUALLY_S
        while users.paths:
            for name in list(users.paths):
                views[name] = await gateway.rollout(ids[name])
                if settled(name, views[name]):
                    del users.paths[name]
            left = {name: views[name]["analysis"]["reason"] for name in users.paths if views[name]["analysis"]}
            assert asyncio.get_running_loop().time() < deadline_s, f"seed {SEED}, not over: {left}"
            await asyncio.sleep(0.2)
    return views


async def test_every_form_is_judged_right_without_configuration_and_silence_is_reported(tmp_path: Path) -> None:
    async with Backend(Model(bad=False)) as stable, Backend(Model(bad=True)) as canary:
        whole = config(f"http://127.0.0.1:{stable.port}", f"http://127.0.0.1:{canary.port}")
        (base,) = whole["routes"]
        base["analysis"] = {name: {"mode": "off"} for name in ("latency", "client_errors", "overload")}
        base["analysis"]["errors"] = {"margin_delta": 0.2}
        base["plan"] = {"steps": [{"percent": 50, "min_time_s": 0.5, "min_requests": 50}], "deadline_s": 600}
        whole["routes"] = routes(base)
        async with RunningGateway(tmp_path, whole) as gateway:
            views = await settle(gateway, {route["name"]: route["match"]["path_prefix"] for route in whole["routes"]})
            for name, view in views.items():
                said = f"seed {SEED}, {name}: {view['phase']}: {view['reason']}"
                if name.endswith("-good") or name == "header-alike":
                    assert view["phase"] == "PROMOTED", said
                elif name.endswith("-bad"):
                    causes = {"unreadable", "model_errors"} if "shape" in name else {"class_0", "class_1", "class_2"}
                    causes = {"cost"} if name.startswith("cost") else causes
                    assert view["phase"] == "ROLLED_BACK" and set(view["causes"]) & causes, said
            await assert_silence_is_shown(gateway, views)


async def start(gateway: RunningGateway, name: str) -> dict[str, Any]:
    reply = await gateway.admin.post(f"/api/v1/routes/{name}/rollouts")
    assert reply.status_code == 201, reply.text
    found: dict[str, Any] = reply.json()
    return found


def settled(name: str, view: dict[str, Any]) -> bool:
    if name in SAID:
        return bool(view["warnings"]) and view["canary_requests"] >= 120
    return view["phase"] in ("PROMOTED", "ROLLED_BACK")


async def assert_silence_is_shown(gateway: RunningGateway, views: dict[str, Any]) -> None:
    """In the rollout, in its finding, among the alarms, in the events; and it holds."""
    alarms = {one["what"]: one["reason"] for one in (await gateway.admin.get("/api/v1/alarms")).json()["alarms"]}
    assert set(alarms) == {f"no data on {name}" for name in SAID}
    for name, parts in SAID.items():
        view = views[name]
        assert view["phase"] == "PROGRESSING", (name, view)
        (warning,) = view["warnings"]
        silent = [one for one in view["analysis"]["findings"] if one["verdict"] == "NODATA" and one["decides"]]
        for part in parts:
            for text in (warning, view["analysis"]["reason"], silent[0]["reason"], alarms[f"no data on {name}"]):
                assert part in text, (name, part, text)
    assert (await gateway.admin.get("/readyz")).status_code == 200, "traffic does not suffer from it"
    assert views["seq-first-good"]["warnings"] == []
    assert views["captions"]["compared"].startswith("not judged: `label` hardly repeats")
    assert views["one-class"]["compared"].startswith("label from `class` (class-like name, text, 1 different")
    assert views["one-class"]["meanings"] == {"class_0": "class cat"}
    # The next one says so at its start.
    aborted = await gateway.admin.post(f"/api/v1/rollouts/{views['no-header']['id']}/abort")
    assert aborted.status_code == 200, aborted.text
    again = await gateway.admin.post("/api/v1/routes/no-header/rollouts", json={"retry": True})
    assert again.status_code == 201 and "the header `x-fallback`" in again.json()["warnings"][0], again.text

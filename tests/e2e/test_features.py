"""Features of a store in requests, over real processes: the same for either version, and never worth a failure."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.backend import Backend, Peer, Seen, answer, hang
from tests.support.gateway import RunningGateway, config
from tests.support.worker import EVENTUALLY_S, eventually

pytestmark = pytest.mark.anyio
KNOWN: dict[str, list[float | None]] = {"ada": [36, 0.5], "bob": [36, None], "cyd": [51, 0.25]}
ORDERS = {("ada", "eu"): 3, ("ada", 7): 5, ("bob", "eu"): 0}
ADA = {"age": 36, "score": 0.5}


async def feast(seen: Seen, peer: Peer) -> None:
    """A feature server that knows the age and score of some customers."""
    asked = json.loads(seen.body)
    assert seen.target == b"/get-online-features" and asked["feature_service"] == "customers"
    if "region" in asked["entities"]:
        await feast_of_pairs(asked["entities"], seen, peer)
        return
    (customer,) = asked["entities"]["customer"]
    results = [{"values": [customer], "statuses": ["PRESENT"], "event_timestamps": ["1970-01-01T00:00:00Z"]}]
    for value in KNOWN.get(customer, [None, None]):
        status = "NOT_FOUND" if value is None else "PRESENT"
        results.append({"values": [value], "statuses": [status], "event_timestamps": ["2026-11-30T00:00:00+00:00"]})
    found = {"metadata": {"feature_names": ["customer", "age", "score"]}, "results": results}
    await answer(200, json.dumps(found).encode())(seen, peer)


async def feast_of_pairs(entities: dict[str, list[Any]], seen: Seen, peer: Peer) -> None:
    """What it knows of a customer in a region: both keys, in one call, say what is asked for."""
    (customer,), (region,) = entities["customer"], entities["region"]
    values = {"customer": customer, "region": region, "orders": ORDERS.get((customer, region))}
    results = [{"values": [one], "statuses": ["NOT_FOUND" if one is None else "PRESENT"]} for one in values.values()]
    found = {"metadata": {"feature_names": list(values)}, "results": results}
    await answer(200, json.dumps(found).encode())(seen, peer)


def features(store: str = "feast", **changes: Any) -> dict[str, Any]:
    entity = {"customer": {"json_path": "$.customer.id"}}
    return {"store": store, "service": "customers", "entity": entity, "timeout_s": 20} | changes


def made(stable: Backend, canary: Backend, **stores: Backend) -> dict[str, Any]:
    """One route for each way that features can go."""
    found = config(stable.url, canary.url, forced_variant_header="x-variant", features=features(ttl_s=60))
    found["workers"] = 1
    found["feature_stores"] = {name: {"url": store.url} for name, store in stores.items()}
    by_header = {"customer": {"header": "X-Customer"}}
    entity_of_two = {"customer": {"header": "X-Customer"}, "region": {"json_path": "$.shop.region"}}
    others = {
        "default": features(on_missing="default", defaults={"score": 0.1, "age": 7}),
        "reject": features(on_missing="reject"),
        "header": features(entity=by_header, into="$.a.b"),
        "pair": features(entity=entity_of_two, on_missing="reject", ttl_s=60),
        "small": features(body_bytes_max=10),
        "slow": features("slow", timeout_s=0.05, on_missing="default", defaults={"age": 7}),
        "broken": features("broken", on_missing="default", defaults={"age": 7}),
        "foreign": features("foreign", on_missing="default", defaults={"age": 7}),
    }
    for name, given in others.items():
        found["routes"].append(
            {"name": name, "match": {"path_prefix": f"/{name}"}, "stable": "stable", "features": given}
        )
    # A machine under load is no reason to make no copies here.
    mirror = {"percent": 100, "loop_lag_max_s": 1000}
    mirrored = {"name": "mirrored", "match": {"path_prefix": "/mirrored"}, "stable": "stable", "canary": "canary"}
    found["routes"].append(mirrored | {"features": features(), "mirror": mirror})
    return found


async def lookups(gateway: RunningGateway, route: str, result: str) -> float:
    """How many lookups came to this, once there is any."""
    async with asyncio.timeout(EVENTUALLY_S):
        while True:
            text = (await gateway.admin.get("/metrics")).text
            found = re.search(rf'gateway_feature_lookups_total{{result="{result}",route="{route}"}} (\S+)', text)
            if found is not None:
                return float(found[1])
            await asyncio.sleep(0.05)


async def test_features_come_into_requests_whatever_becomes_of_the_store(tmp_path: Path) -> None:
    async with (
        Backend(feast) as store,
        Backend(hang) as slow,
        Backend(answer(500, b"no")) as broken,
        Backend(answer(200, b"<html>")) as foreign,
        Backend() as s,
        Backend(answer(500)) as c,
    ):
        settings = made(s, c, feast=store, slow=slow, broken=broken, foreign=foreign)
        async with RunningGateway(tmp_path, settings) as gateway:
            while (await gateway.client.post("/reject", json={"customer": {"id": "ada"}})).status_code != 200:
                await asyncio.sleep(0.05)  # until the worker has found the process that looks features up
            await either_version_gets_the_same(gateway, store, s, c)
            await a_copy_gets_the_same(gateway, store, s, c)
            await several_keys_are_one_entity(gateway, store, s)
            await all_objects_get_them(gateway, s)
            await what_is_missing(gateway, s)
            await stores_of_no_use(gateway, s)
            await the_process_is_killed(gateway, s)


async def either_version_gets_the_same(gateway: RunningGateway, store: Backend, s: Backend, c: Backend) -> None:
    asked = {"customer": {"id": "ada"}, "features": {"score": 99}, "n": 1.0}
    wanted = {"customer": {"id": "ada"}, "features": ADA, "n": 1.0}
    assert (await gateway.client.post("/", json=asked)).status_code == 200
    store.seen.clear()
    await gateway.admin.put("/api/v1/routes/r/weight", json={"canary_percent": 100})
    for headers in ({"x-variant": "stable"}, {"x-variant": "canary"}, {}):
        before = len(s.seen)
        assert (await gateway.client.post("/", json=asked, headers=headers)).status_code == 200
        assert len(s.seen) == before + 1, "stable answers, also what the canary fails"
        assert json.loads(s.seen[-1].body) == wanted, "what the client says in the place of features is replaced"
    assert [json.loads(seen.body) for seen in c.seen] == [wanted, wanted]
    assert store.seen == [], "it is known for a minute"
    assert await lookups(gateway, "r", "ok") >= 1
    text = (await gateway.admin.get("/metrics")).text
    for series in ("lookup_seconds", "age_seconds", "ages"):
        assert f'gateway_feature_{series}_total{{route="r"}}' in text


async def a_copy_gets_the_same(gateway: RunningGateway, store: Backend, s: Backend, c: Backend) -> None:
    """Looked up once, for stable's request and the canary's copy of it, byte by byte."""
    store.seen.clear()
    before = len(c.seen)
    asked = b'{ "customer": {"id":"cyd"}, "x": 1.50 }'
    assert (await gateway.client.post("/mirrored", content=asked)).status_code == 200
    await eventually(lambda: len(c.seen) > before and c.seen[-1].complete, "the canary gets a copy")
    assert s.seen[-1].target == c.seen[-1].target == b"/mirrored"
    assert bytes(c.seen[-1].body) == bytes(s.seen[-1].body) == b'{"features":{"age":51,"score":0.25},' + asked[1:]
    assert len(c.seen) == before + 1 and len(store.seen) == 1


async def several_keys_are_one_entity(gateway: RunningGateway, store: Backend, s: Backend) -> None:
    """A key in a header and one in the body; all of them are needed."""
    store.seen.clear()
    known: list[tuple[str, Any, int]] = [("ada", "eu", 3), ("ada", 7, 5), ("bob", "eu", 0), ("ada", "eu", 3)]
    for customer, region, orders in known:
        asked = {"shop": {"region": region}}
        reply = await gateway.client.post("/pair", json=asked, headers={"x-customer": customer})
        assert reply.status_code == 200, (customer, region)
        assert json.loads(s.seen[-1].body) == asked | {"features": {"orders": orders}}
    assert [json.loads(seen.body)["entities"] for seen in store.seen] == [
        {"customer": [customer], "region": [region]} for customer, region, _ in known[:3]
    ], "one call for each pair, and what is known is not asked for again"
    for headers, body in (({}, {"shop": {"region": "eu"}}), ({"x-customer": "ada"}, {"shop": {}})):
        reply = await gateway.client.post("/pair", json=body, headers=headers)
        assert (reply.status_code, reply.json()["reason"]) == (503, "features_missing")
    assert len(store.seen) == 3, "without one of its keys nothing is asked"
    assert await lookups(gateway, "pair", "no_key") >= 1


async def all_objects_get_them(gateway: RunningGateway, s: Backend) -> None:
    text = b'{ "customer": {"id":"ada"}, "x": 1.50, "x": 1e3, "y": "\xc3\xa4" }'
    wanted = b'{"features":{"age":36,"score":0.5},' + text[1:]

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(text), 10):
            yield text[at : at + 10]

    for content in (text, chunks()):
        assert (await gateway.client.post("/", content=content)).status_code == 200
        assert bytes(s.seen[-1].body) == wanted, "every other byte stays"
    await asking_for_leave(gateway, text)
    assert bytes(s.seen[-1].body) == wanted
    for other in (b"", b"[1]", b"{", b'"ada"', b"\xff"):
        assert (await gateway.client.post("/default", content=other)).status_code == 200
        assert bytes(s.seen[-1].body) == other
    assert await lookups(gateway, "default", "unreadable") >= 1
    assert (await gateway.client.get("/default")).status_code == 200
    assert (await gateway.client.post("/small", content=text)).status_code == 200
    assert bytes(s.seen[-1].body) == text, "what is too large goes on as it came"
    await gateway.client.post("/header", json={"a": {"n": 1}}, headers={"x-customer": "ada"})
    assert json.loads(s.seen[-1].body) == {"a": {"n": 1, "b": ADA}}


async def asking_for_leave(gateway: RunningGateway, text: bytes) -> None:
    """A client that waits for 100 before it sends its body."""
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(text))
    assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
    await reader.readline()
    writer.write(text)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def what_is_missing(gateway: RunningGateway, s: Backend) -> None:
    bob = {"customer": {"id": "bob"}}
    assert (await gateway.client.post("/", json=bob)).status_code == 200
    assert json.loads(s.seen[-1].body)["features"] == {"age": 36}
    assert (await gateway.client.post("/default", json=bob)).status_code == 200
    assert json.loads(s.seen[-1].body)["features"] == {"age": 36, "score": 0.1}
    before = len(s.seen)
    unknown: list[Any] = [bob, {"customer": {"id": "eve"}}, {"customer": {}}, {"customer": {"id": [1]}}]
    for body in unknown:
        refused = await gateway.client.post("/reject", json=body)
        assert (refused.status_code, refused.json()["reason"]) == (503, "features_missing")
    assert len(s.seen) == before
    assert await lookups(gateway, "reject", "missing") >= 1 and await lookups(gateway, "reject", "no_key") >= 1


async def stores_of_no_use(gateway: RunningGateway, s: Backend) -> None:
    """Slow, broken, no feature server at all: the request goes on with what the route says."""
    for route, result in (("slow", "timeout"), ("broken", "unavailable"), ("foreign", "unavailable")):
        before = len(s.seen)
        asked = (gateway.client.post(f"/{route}", json={"customer": {"id": str(n)}}) for n in range(20))
        assert {reply.status_code for reply in await asyncio.gather(*asked)} == {200}
        assert [json.loads(seen.body)["features"] for seen in s.seen[before:]] == [{"age": 7}] * 20
        assert await lookups(gateway, route, result) >= 1


async def the_process_is_killed(gateway: RunningGateway, s: Backend) -> None:
    """Requests go on without it, and it comes back."""
    for pid in gateway.children()["features"]:
        os.kill(pid, signal.SIGKILL)
    assert (await gateway.client.post("/default", json={"customer": {"id": "ada"}})).status_code == 200
    async with asyncio.timeout(EVENTUALLY_S):
        while (await gateway.client.post("/reject", json={"customer": {"id": "ada"}})).status_code != 200:
            await asyncio.sleep(0.05)
    assert json.loads(s.seen[-1].body)["features"] == ADA

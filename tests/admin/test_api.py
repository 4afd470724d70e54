"""What the API does when it is asked rightly: over a real socket, with the real rollout machine behind it."""

from __future__ import annotations

import dataclasses
from typing import Any

import httpx
import msgspec
import pytest
from starlette.datastructures import Headers

from gateway.admin.request_parsing import actor
from gateway.admin.request_schemas import StartRequest, decode
from gateway.admin.response_bodies import plan_tree
from gateway.admin.schemas import AnalysisBody, FindingBody
from gateway.config.core_values import core_value
from gateway.core.analysis.types import Analysis, Finding
from gateway.core.rollout.types import OnDeadline, Plan, Step, Window

PLAN = {"steps": [{"percent": 0.01}, {"percent": 12.5, "min_time_s": 3, "min_requests": 0}], "on_deadline": "rollback"}


def test_routes_are_listed_and_shown(client: httpx.Client) -> None:
    listed = client.get("/api/v1/routes").json()["routes"]
    assert [route["name"] for route in listed] == ["digits", "plain"]
    assert client.get("/api/v1/routes/digits").json() == listed[0]


def test_a_connection_is_kept_for_longer_than_a_client_keeps_it(standing: Any) -> None:
    """Else the two may end it at once, and the client's next request is lost on it."""
    expiry_s = httpx.Limits().keepalive_expiry
    assert expiry_s is not None and standing.server.config.timeout_keep_alive > 2 * expiry_s


@pytest.mark.parametrize("percent", [0, 12.5, 0.01, 99.99, 100, 33.33])
def test_a_weight_is_set_and_answered(standing: Any, percent: float) -> None:
    answer = httpx.put(f"{standing.url}/api/v1/routes/digits/weight", json={"canary_percent": percent})
    assert (answer.status_code, answer.json()["canary_percent"]) == (200, percent)
    assert httpx.get(f"{standing.url}/api/v1/routes/digits").json()["canary_percent"] == percent


def test_a_rollout_lives_from_start_to_promotion(client: httpx.Client) -> None:
    started = client.post("/api/v1/routes/digits/rollouts", headers={"x-actor": "ada"})
    rollout = started.json()
    assert started.status_code == 201
    assert started.headers["location"] == f"/api/v1/rollouts/{rollout['id']}"
    assert (rollout["phase"], rollout["by"], rollout["step"], rollout["steps"]) == ("PROGRESSING", "ada", 1, 2)
    step = rollout["plan"]["steps"][1]
    assert (step["percent"], step["min_time_s"], step["min_requests"]) == (50.0, 1.0, 10)
    here = started.headers["location"]
    for verb, body, phase in [
        ("pause", {"reason": "lunch"}, "PAUSED"),
        ("resume", None, "PROGRESSING"),
        ("promote", {}, "PROMOTED"),
        ("abort", {"reason": "no"}, "ROLLED_BACK"),
    ]:
        answer = client.post(f"{here}/{verb}", json=body) if body is not None else client.post(f"{here}/{verb}")
        assert (answer.status_code, answer.json()["phase"]) == (200, phase)
        assert client.get(here).json() == answer.json()
    assert client.get(here).json()["reason"] == "aborted by admin: no"


def test_numbers_that_are_not_finite_are_null(client: httpx.Client) -> None:
    analysis = client.post("/api/v1/routes/digits/rollouts").json()["analysis"]
    assert analysis["log_e_bad"] is None
    assert analysis["findings"][0]["log_e_ok"] is None
    assert analysis["findings"][0]["details"] == {"p": None}
    assert msgspec.convert(analysis, AnalysisBody).stable_requests == 3


def test_a_plan_of_ones_own_is_followed(client: httpx.Client) -> None:
    rollout = client.post("/api/v1/routes/digits/rollouts", json={"plan": PLAN}).json()
    assert rollout["canary_percent"] == 0.01
    followed = rollout["plan"]
    assert [(step["percent"], step["min_time_s"], step["min_requests"]) for step in followed["steps"]] == [
        (0.01, 60.0, 100),
        (12.5, 3.0, 0),
    ]
    assert (followed["deadline_s"], followed["on_deadline"]) == (86400.0, "rollback")


def test_a_plan_survives_the_way_out_and_in() -> None:
    gated = Step(3333, deadline_s=60.0, on_deadline=OnDeadline.PROCEED, gate="manual")
    plan = Plan(
        (Step(1, 0.0, 0), gated, Step(9_999, 5.5, 7)),
        12.0,
        OnDeadline.PROMOTE,
        windows=(Window((0, 4), 540, 1020),),
        closed_dates=("2026-12-24",),
        timezone="Europe/Berlin",
        bake_s=30.0,
        bake_holdout_bp=250,
        pause_max_s=5.0,
    )
    body = decode(msgspec.json.encode({"plan": plan_tree(plan)}), StartRequest)
    assert body.plan is not None and core_value(body.plan, Plan) == plan


def test_rollouts_are_paged_newest_first(client: httpx.Client) -> None:
    ids: list[str] = []
    for _ in range(5):
        ids.insert(0, client.post("/api/v1/routes/digits/rollouts", json={"retry": True}).json()["id"])
        client.post(f"/api/v1/rollouts/{ids[0]}/abort")
    seen: list[str] = []
    asked: dict[str, Any] = {"limit": 2, "route": "digits"}
    for size in (2, 2, 1):
        page = client.get("/api/v1/rollouts", params=asked).json()
        assert len(page["rollouts"]) == size
        seen += [rollout["id"] for rollout in page["rollouts"]]
        asked["before"] = page["next_before"]
    assert seen == ids
    assert page["next_before"] is None
    assert client.get("/api/v1/rollouts?route=plain").json() == {"rollouts": [], "next_before": None}


@pytest.mark.parametrize(
    ("given", "by"),
    [
        ("ada", "ada"),
        ("  bob  ", "bob"),
        ("x" * 200, "x" * 64),
        ("a\tb\x7f\x85\x1b[31m", "ab[31m"),
        ("", "admin"),
        ("\x00", "admin"),
        ("automation", "admin"),
        ("Automation", "admin"),
    ],
)
def test_the_actor_is_named_and_harmless(given: str, by: str) -> None:
    assert actor(Headers(raw=[(b"x-actor", given.encode("latin-1"))])) == by


def test_health_readiness_and_metrics(served: Any, client: httpx.Client, double: Any) -> None:
    assert client.get("/healthz").json() == {"alive": True}
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "workers": 2, "reasons": [], "warnings": []})
    served.control.ready = False
    unready = client.get("/readyz")
    assert (unready.status_code, unready.json()["reasons"]) == (503, ["1 of 2 workers are connected"])
    metrics = client.get("/metrics")
    assert (metrics.content, metrics.headers["content-type"]) == (double.METRICS, double.METRICS_TYPE)


def test_answers_are_not_stored_and_set_no_cookie(client: httpx.Client) -> None:
    for path in ("/api/v1/routes", "/nowhere", "/metrics", "/openapi.json"):
        headers = client.get(path).headers
        assert headers["cache-control"] == "no-store" and headers["x-content-type-options"] == "nosniff"
        assert "set-cookie" not in headers and "access-control-allow-origin" not in headers


def test_every_command_is_audited_also_a_refused_one(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    client.put("/api/v1/routes/digits/weight", json={"canary_percent": 5}, headers={"x-actor": "ada"})
    client.put("/api/v1/routes/no%0Ape/weight", json={"canary_percent": 5})
    client.get("/api/v1/routes")
    lines = [record.getMessage() for record in caplog.records if record.name == "gateway.audit"]
    assert lines == [
        "PUT /api/v1/routes/digits/weight by ada from 127.0.0.1: 200: 5 %",
        "PUT /api/v1/routes/no%0Ape/weight by admin from 127.0.0.1: 404: 5 %",
    ]


@pytest.mark.parametrize(("body", "view"), [(AnalysisBody, Analysis), (FindingBody, Finding)])
def test_bodies_show_every_field_of_the_views(body: Any, view: Any) -> None:
    assert tuple(field.name for field in dataclasses.fields(body)) == view.__struct_fields__


def test_labels_are_handed_on(client: httpx.Client, served: Any) -> None:
    events = [{"request_id": "a", "name": "click"}, {"request_id": "b", "name": "click", "value": False}]
    events.append({"request_id": "c", "name": "click", "value": 4})
    answer = client.post("/api/v1/routes/digits/events", json={"events": events})
    assert (answer.status_code, answer.json()) == (202, {"accepted": 3})
    assert served.control.labels == [("a", "click", True), ("b", "click", False), ("c", "click", 4.0)]
    assert [type(value) for _, _, value in served.control.labels] == [bool, bool, float]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"events": []}, 422),
        ({"events": [{"request_id": "a", "name": "click"}] * 501}, 422),
        ({"events": [{"request_id": "a\n", "name": "click"}]}, 422),
        ({"events": [{"request_id": "a", "name": "unknown"}]}, 404),
        ({"events": [{"request_id": "a", "name": "click", "value": "4"}]}, 422),
        ([], 422),
    ],
)
def test_labels_that_cannot_be_are_refused(client: httpx.Client, served: Any, body: Any, status: int) -> None:
    assert client.post("/api/v1/routes/digits/events", json=body).status_code == status
    assert served.control.labels == []

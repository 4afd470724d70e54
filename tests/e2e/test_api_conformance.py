"""The whole admin API against its own description: schemathesis asks a real gateway, rightly and wrongly.

Whatever is sent, the answer has a status, a media type, headers and a body that the description names, never a 5xx; and
what breaks the description is refused. Alone, and in chains: what one answer names is what the next request is about,
as the description's links say.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from gateway.admin.openapi import document
from gateway.admin.operations import OPERATIONS
from tests.support.gateway import RunningGateway, config

load_all_checks()
NEGATIVE = "negative_data_rejection"
CHECKED: Any = CHECKS.get_by_names(
    [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        NEGATIVE,
    ]
)
TOKEN = "a-token-of-sixteen-or-more"
# For each operation and each way of asking. CONFORMANCE_EXAMPLES=200 looks longer.
EXAMPLES = int(os.environ.get("CONFORMANCE_EXAMPLES", "5"))
# Its answer has no end; what is wrong with its only header is in tests/admin.
ENDLESS = "stream_events"
# Two more than its own list: the state may have passed, and a body may be too large.
REFUSED = ["400", "401", "403", "404", "405", "406", "409", "412", "413", "415", "422", "429"]
CHECKS_CONFIG = {"checks": {NEGATIVE: {"expected-statuses": REFUSED}}}
# The description's own links, and no others that might be guessed.
CHAINS_CONFIG = {"phases": {"stateful": {"inference": {"algorithms": []}}}, "generation": {"mode": "positive"}}
SCHEMA = schemathesis.openapi.from_dict(document(), config=schemathesis.Config.from_dict(CHECKS_CONFIG))
_ALL: list[Any] = [result.ok() for result in SCHEMA.get_all_operations()]  # type: ignore[union-attr]  # ours are valid
ASKED = {
    operation.definition.raw["operationId"]: operation
    for operation in _ALL
    if operation.definition.raw["operationId"] != ENDLESS
}
# Chains of requests, each up to LINKS long.
CHAINS, LINKS = 3 * EXAMPLES, 8
tried: dict[str, set[str]] = {"alone": set(), "in chains": set(), "granted in chains": set()}
requests_sent = {"alone": 0, "in chains": 0}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """One gateway for all of it, in a loop of its own; nothing of what is asked may end it."""
    settings_ = config("http://127.0.0.1:9", "http://127.0.0.1:9")
    settings_["workers"] = 1
    settings_["admin"] |= {"token_env": "CONFORMANCE_TOKEN", "backend_allow": ["10.0.0.0/8"]}
    directory = tmp_path_factory.mktemp("conformance")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def wait(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(60)

    async def started() -> RunningGateway:
        running = RunningGateway(directory, settings_, environ={"CONFORMANCE_TOKEN": TOKEN})
        return await running.__aenter__()

    running = wait(started())
    try:
        yield running
    finally:
        wait(running.__aexit__(None, None, None))
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()


def test_every_operation_is_asked() -> None:
    assert set(ASKED) | {ENDLESS} == {operation.handler or "show_openapi" for operation in OPERATIONS}


@pytest.fixture(scope="module")
def client(gateway: RunningGateway) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=gateway.admin_url, headers=headers, timeout=20) as client:
        yield client


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("name", ASKED)
def test_the_answers_are_those_of_the_description(
    gateway: RunningGateway, client: httpx.Client, session: requests.Session, name: str, mode: GenerationMode
) -> None:
    client.delete("/api/v1/config")
    rollouts = client.get("/api/v1/rollouts").json()["rollouts"]
    if not rollouts:
        rollouts = [client.post("/api/v1/routes/r/rollouts").raise_for_status().json()]
    headers = {"authorization": f"Bearer {TOKEN}"}
    known = {"route": "r", "backend": "canary", "rollout_id": rollouts[0]["id"]}
    operation = ASKED[name]
    there = {parameter: known[parameter] for parameter in known if f"{{{parameter}}}" in operation.path}
    anything = operation.as_strategy(generation_mode=mode)
    something = operation.as_strategy(generation_mode=mode, path_parameters=there) if there else anything

    # Of an operation without a body there is little to get wrong, and finding it takes long.
    few = mode is GenerationMode.NEGATIVE and not operation.body

    @settings(
        max_examples=max(2, EXAMPLES // 2) if few else EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(something, something, anything))
    def ask(case: schemathesis.Case) -> None:
        if "wait_s" in (case.query or {}) and mode is GenerationMode.POSITIVE:
            case.query["wait_s"] = 0.01
        case.call_and_validate(base_url=gateway.admin_url, session=session, headers=headers, checks=CHECKED, timeout=20)
        requests_sent["alone"] += 1
        tried["alone"].add(name)

    # There is nothing to get wrong about an operation without parameters and without a body.
    expected = (Unsatisfiable,) if mode is GenerationMode.NEGATIVE else ()
    with contextlib.suppress(*expected):
        ask()


CHAINED = schemathesis.openapi.from_dict(document(), config=schemathesis.Config.from_dict(CHAINS_CONFIG))


class Chain(CHAINED.as_state_machine()):  # type: ignore[misc]  # made at run time
    """One chain: a start, then what the links of each answer lead to, against the one gateway."""

    url = ""

    def get_call_kwargs(self, case: schemathesis.Case) -> dict[str, Any]:
        """How a request is sent."""
        return {"base_url": self.url, "headers": {"authorization": f"Bearer {TOKEN}"}, "timeout": 20}

    def before_call(self, case: schemathesis.Case) -> None:
        """Names that are made up lead nowhere; what is made under these is there for what follows."""
        name = case.operation.definition.raw["operationId"]
        case.headers.pop("If-Match", None)  # a tag that is made up is refused, always
        if case.path_parameters.get("route", "r") not in ("r", "late"):
            case.path_parameters["route"] = "r"
        if case.path_parameters.get("backend", "late") not in ("stable", "canary", "late"):
            case.path_parameters["backend"] = "stable"
        if name == "put_backend":
            case.path_parameters["backend"], case.body = "late", {"endpoints": ["http://10.1.2.3:8000"], "probe": None}
        elif name == "put_route":
            late: Any = {"match": {"path_prefix": "/late"}, "stable": "stable", "canary": "canary"}
            case.path_parameters["route"], case.body = "late", late
        elif name == "start_rollout":
            case.body = {"retry": True, "plan": {"steps": [{"percent": 5}, {"percent": 50, "gate": "manual"}]}}
        elif "wait_s" in (case.query or {}):
            case.query["wait_s"] = 0.01

    def validate_response(self, response: Any, case: schemathesis.Case, **_: Any) -> None:
        """As for single requests; and the gateway lives."""
        name = case.operation.definition.raw["operationId"]
        requests_sent["in chains"] += 1
        tried["in chains"].add(name)
        if response.status_code < 300:
            tried["granted in chains"].add(name)
        case.validate_response(response, checks=[check for check in CHECKED if check.__name__ != NEGATIVE])


@pytest.mark.filterwarnings("ignore::pytest.PytestCollectionWarning")
def test_chains_of_requests_are_answered_as_described(gateway: RunningGateway, client: httpx.Client) -> None:
    client.delete("/api/v1/config")
    Chain.url = gateway.admin_url
    Chain.run(
        settings=settings(
            max_examples=CHAINS,
            stateful_step_count=LINKS,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
    )
    client.delete("/api/v1/config")  # a chain may have ended with other routes than the file has
    # One rollout of each route is under way at most, and every one can be ended.
    for rollout in client.get("/api/v1/rollouts", params={"route": "r"}).json()["rollouts"][:1]:
        client.post(f"/api/v1/rollouts/{rollout['id']}/abort")
    assert client.get("/api/v1/routes/r").json()["phase"] in ("IDLE", "ROLLED_BACK", "WITHDRAWN")
    linked = {link for operation in _ALL for link in _links(operation)}
    assert len(linked) > 15
    missed = linked - tried["in chains"] - {"delete_route"}
    print(f"{requests_sent['in chains']} requests in {CHAINS} chains; missed {sorted(missed)}")  # noqa: T201  # shown with -rP
    # Where a chain leads depends on what the rollouts are doing meanwhile, so no single operation is certain.
    assert requests_sent["in chains"] >= 3 * CHAINS and len(tried["in chains"]) > 10 and tried["granted in chains"], (
        tried
    )


def _links(operation: Any) -> set[str]:
    responses = operation.definition.raw["responses"].values()
    return {name for response in responses for name in response.get("links", {})}


def test_nobody_gets_around_the_token(gateway: RunningGateway) -> None:
    with httpx.Client(base_url=gateway.admin_url) as client:
        for operation in OPERATIONS:
            path = operation.path.format(route="r", backend="canary", rollout_id="none")
            with client.stream(operation.method, path, headers={"authorization": "Bearer wrong"}) as answer:
                # After twenty of them the address has to wait.
                assert (answer.status_code in (401, 429)) != operation.open, operation


def test_the_gateway_is_as_well_as_before(gateway: RunningGateway, client: httpx.Client) -> None:
    client.delete("/api/v1/config")
    assert client.get("/readyz").json()["ready"] is True
    # A promotion that was asked for may have been granted.
    assert client.get("/api/v1/routes/r").json()["stable"] in ("stable", "canary")
    both = f"{requests_sent['alone']} alone, {requests_sent['in chains']} in chains"
    print(f"{len(OPERATIONS)} operations, {len(ASKED)} of them by {both}")  # noqa: T201  # shown with -rP
    assert requests_sent["alone"] > 2 * EXAMPLES
    assert Path(gateway.path).exists()
    assert b"Traceback" not in gateway.log, gateway.log.decode()

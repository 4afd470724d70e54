"""Who is let in: tokens, hosts and origins."""

from __future__ import annotations

import socket
from typing import Any

import httpx
import pytest

TOKEN = "a-token-of-sixteen-or-more"
PATHS = ["/api/v1/routes", "/api/v1/events", "/openapi.json", "/nowhere", "/console", "/metrics/", "//metrics"]


def test_health_and_metrics_are_open(guarded: Any) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert httpx.get(guarded.url + path).status_code == 200


@pytest.mark.parametrize("path", ["/api/v1/routes", "/metrics", "/healthz"])
@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (["Host: localhost", "Host: localhost"], "host"),
        (["Host: localhost", "host: evil.example"], "host"),
        ([], "host"),
        (["Host: localhost", "Origin: http://localhost", "Origin: http://evil.example"], "origin"),
        (["Host: localhost", "Sec-Fetch-Site: none", "Sec-Fetch-Site: cross-site"], "sec-fetch-site"),
    ],
)
def test_what_says_two_things_is_malformed(served: Any, path: str, fields: list[str], named: str) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as client:
        head = "\r\n".join([f"GET {path} HTTP/1.1", *fields, "Connection: close", "", ""])
        client.sendall(head.encode())
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert b"malformed-request" in answer and b"field " + named.encode() in answer


@pytest.mark.parametrize("path", PATHS)
def test_everything_else_needs_the_token(guarded: Any, path: str) -> None:
    answer = httpx.get(guarded.url + path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="canary-gateway"'
    assert answer.json()["type"] == "urn:canary-gateway:problem:unauthorized"


@pytest.mark.parametrize(
    "given",
    [
        "Bearer wrong",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer x {TOKEN}",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer",
        "",
        "Bearer \u00fc",
        "Bearer\t" + TOKEN,
    ],
)
def test_a_wrong_token_is_refused_and_changes_nothing(guarded: Any, given: str) -> None:
    before = guarded.control.state()
    answer = httpx.put(
        f"{guarded.url}/api/v1/routes/digits/weight",
        json={"canary_percent": 5},
        headers=[(b"authorization", given.encode("latin-1"))],
    )
    assert answer.status_code == 401 and 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert TOKEN not in answer.text
    assert guarded.control.state() == before


def test_two_tokens_are_refused(guarded: Any) -> None:
    headers = [("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer other")]
    assert httpx.get(f"{guarded.url}/api/v1/routes", headers=headers).status_code == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_token_lets_in_under_any_host(guarded: Any, scheme: str) -> None:
    headers = {"authorization": f"{scheme} {TOKEN}", "host": "gateway.example"}
    assert httpx.get(f"{guarded.url}/api/v1/routes", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:9900", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:9900", 200),
        ("demo.localhost", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("10.0.0.1", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
def test_without_a_token_only_this_machines_names_are_hosts(standing: Any, host: str, status: int) -> None:
    assert httpx.get(f"{standing.url}/api/v1/routes", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://[broken"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_page_of_another_origin_cannot_send_commands(standing: Any, headers: dict[str, str]) -> None:
    before = standing.control.state()
    answer = httpx.post(f"{standing.url}/api/v1/routes/digits/rollouts", headers=headers)
    assert answer.status_code == 403 and answer.json()["type"].endswith(":cross-origin")
    assert standing.control.state() == before


def test_a_page_of_the_gateways_own_origin_can(served: Any) -> None:
    headers = {"origin": served.url, "sec-fetch-site": "same-origin"}
    assert httpx.post(f"{served.url}/api/v1/routes/digits/rollouts", headers=headers).status_code == 201

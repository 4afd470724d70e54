"""The configuration at run time: what is refused changes nothing, what is granted outlives a restart."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

CONFIG = "/api/v1/config"
BACKEND = {"endpoints": ["http://10.0.0.7:8000"], "queue_max": 7}
ROUTE = {"match": {"path_prefix": "/new"}, "stable": "digits-v1"}


def problem(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].removeprefix("urn:canary-gateway:problem:")


def test_the_configuration_is_shown_and_can_be_given_back(client: httpx.Client) -> None:
    shown = client.get(CONFIG)
    assert list(shown.json()["backends"]) == ["digits-v1", "digits-v2", "spare"]
    assert client.put(CONFIG, json=shown.json()).json()["changed"] == []
    text = client.get(CONFIG, headers={"accept": "application/yaml"})
    assert text.headers["content-type"].startswith("application/yaml")
    assert yaml.safe_load(text.text) == shown.json()
    whole = client.get(CONFIG, params={"defaults": "true"})
    assert whole.json()["limits"]["header_fields_max"] == 100
    assert client.put(CONFIG, json=whole.json()).json()["changed"] == []
    assert client.get(CONFIG, headers={"if-none-match": shown.headers["etag"]}).status_code == 304


def test_a_dry_run_says_what_would_change_and_changes_nothing(served: Any, client: httpx.Client) -> None:
    tree = client.get(CONFIG).json()
    del tree["backends"]["spare"]
    tree["routes"][0]["timeouts"] = {"connect_s": 2}
    before = served.control.state()
    answer = client.put(CONFIG, json=tree, params={"dry_run": "true"})
    assert answer.json()["changed"] == ["backends.spare", "routes.digits.timeouts.connect_s"]
    assert answer.json()["backends_removed"] == ["spare"]
    assert served.control.state() == before
    assert client.get(f"{CONFIG}/source").json()["source"] == "file"


def test_each_value_of_the_file_has_its_line(double: Any, client: httpx.Client) -> None:
    text = double.CONFIG.splitlines()

    def lines() -> dict[tuple[Any, ...], str]:
        found = client.get(f"{CONFIG}/source").json()["lines"]
        return {tuple(one["path"]): text[one["line"] - 1].strip() for one in found}

    before = lines()
    assert before["state_dir",] == "state_dir: state"
    assert before["routes", 1, "name"].startswith("- {name: plain")
    assert before["backends", "spare", "endpoints", 0].startswith("spare:")
    tree = client.get(CONFIG).json()
    tree["backends"]["spare"]["endpoints"] = ["http://10.0.0.9:80"]
    assert client.put(CONFIG, json=tree).status_code == 200
    gone = before.keys() - lines().keys()
    assert ("backends", "spare", "endpoints", 0) in gone and ("routes", 1, "name") not in gone
    assert {path[0] for path in gone} == {"backends"}, "what the API gave is not the file's"


def test_a_replacement_outlives_a_restart_and_a_changed_file_wins(double: Any, tmp_path: Path) -> None:
    def started() -> Any:
        return double.Served(directory=tmp_path)

    with started() as served, httpx.Client(base_url=served.url) as client:
        assert client.put("/api/v1/backends/fresh", json=BACKEND, headers={"x-actor": "ada"}).status_code == 201
        source = client.get(f"{CONFIG}/source").json()
        assert (source["source"], source["by"]) == ("api", "ada")
    with started() as served, httpx.Client(base_url=served.url) as client:
        assert "fresh" in client.get(CONFIG).json()["backends"]
        assert client.get(f"{CONFIG}/source").json()["by"] == "ada"
        assert client.delete(CONFIG).json()["backends_removed"] == ["fresh"]
        assert client.get(f"{CONFIG}/source").json()["source"] == "file"
        client.put("/api/v1/backends/fresh", json=BACKEND)
    (tmp_path / "gateway.yaml").write_text(double.CONFIG + "# edited\n")
    with started() as served, httpx.Client(base_url=served.url) as client:
        assert "fresh" not in client.get(CONFIG).json()["backends"]


def test_backends_and_routes_come_and_go(served: Any, client: httpx.Client) -> None:
    added = client.put("/api/v1/backends/digits-v3", json=BACKEND, headers={"if-none-match": "*"})
    assert (added.status_code, added.json()["backends_added"]) == (201, ["digits-v3"])
    assert client.get("/api/v1/backends/digits-v3").json()["endpoints"][0]["url"] == "http://10.0.0.7:8000"
    assert client.get("/api/v1/backends/digits-v3/config").json() == BACKEND
    assert "digits-v3" in served.control.config.backends
    again = client.put("/api/v1/backends/digits-v3", json=BACKEND, headers={"if-none-match": "*"})
    assert problem(again) == (412, "precondition-failed")
    route = client.put("/api/v1/routes/fresh", json=ROUTE | {"canary": "digits-v3"})
    assert (route.status_code, route.json()["routes_added"]) == (201, ["fresh"])
    assert client.get("/api/v1/routes/fresh").json()["canary"] == "digits-v3"
    assert client.get("/api/v1/routes/fresh/config").json()["name"] == "fresh"
    held = client.delete("/api/v1/backends/digits-v3")
    assert problem(held) == (409, "conflict") and "fresh" in held.json()["detail"]
    changed = client.put("/api/v1/routes/fresh", json=ROUTE, headers={"if-match": route.headers["etag"]})
    assert (changed.status_code, changed.json()["changed"]) == (200, ["routes.fresh.canary"])
    stale = client.delete("/api/v1/routes/fresh", headers={"if-match": route.headers["etag"]})
    assert problem(stale) == (412, "precondition-failed")
    assert client.delete("/api/v1/routes/fresh").json()["routes_removed"] == ["fresh"]
    assert client.delete("/api/v1/backends/digits-v3").json()["backends_removed"] == ["digits-v3"]
    assert client.get("/api/v1/backends/digits-v3").status_code == 404
    assert client.delete("/api/v1/backends/digits-v3").status_code == 404


def test_who_has_changed_the_routes_sees_it_in_their_list_at_once(served: Any, client: httpx.Client) -> None:
    def listed() -> list[str]:
        return [route["name"] for route in client.get("/api/v1/routes").json()["routes"]]

    before = listed()
    client.put("/api/v1/routes/fresh", json=ROUTE)
    assert listed() == [*before, "fresh"]
    client.delete("/api/v1/routes/fresh")
    assert listed() == before


def test_errors_are_reported_with_their_place_in_what_was_sent(served: Any, client: httpx.Client) -> None:
    before = served.control.state()
    answer = client.put("/api/v1/routes/digits", json=ROUTE | {"stabel": "x", "canary": "digits-v9"})
    assert problem(answer) == (422, "invalid-configuration")
    assert "stabel: unknown key 'stabel'; did you mean 'stable'?" in answer.json()["detail"]
    assert "canary: there is no backend 'digits-v9'" in answer.json()["detail"]
    assert "routes[" not in answer.json()["detail"]
    answer = client.put("/api/v1/backends/a%20b", json=BACKEND)
    assert problem(answer) == (422, "invalid-configuration")
    answer = client.put("/api/v1/routes/digits", json=ROUTE | {"name": "other"})
    assert problem(answer) == (422, "invalid-value")
    answer = client.put(CONFIG, content="routes: []\nbackends: {}\n", headers={"content-type": "application/yaml"})
    assert problem(answer) == (422, "invalid-configuration")
    answer = client.put(CONFIG, content="a: [", headers={"content-type": "application/yaml"})
    assert problem(answer) == (400, "malformed-body") and "line 2" in answer.json()["detail"]
    assert client.delete("/api/v1/routes/plain").status_code == 200
    assert problem(client.delete("/api/v1/routes/digits")) == (422, "invalid-configuration")
    assert served.control.state() != before
    assert [route.name for route in served.control.config.routes] == ["digits"]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"workers": 3}, "workers"),
        ({"listen": "127.0.0.1:1234"}, "listen"),
        ({"log_format": "json"}, "log_format"),
        ({"tracing": {"endpoint": "http://127.0.0.1:4318/v1/traces"}}, "tracing"),
        ({"limits": {"header_fields_max": 5}}, "limits.header_fields_max"),
        ({"admin": {"listen": "127.0.0.1:9900"}}, "admin.backend_allow"),
        ({"hooks": [{"name": "evil", "command": ["/bin/sh"]}]}, "hooks"),
        ({"gates": [{"name": "evil", "url": "http://169.254.169.254/"}]}, "gates"),
    ],
)
def test_what_needs_a_restart_is_named(served: Any, client: httpx.Client, change: dict[str, Any], key: str) -> None:
    before = served.control.state()
    answer = client.put(CONFIG, json=client.get(CONFIG).json() | change)
    assert problem(answer) == (409, "restart-required")
    assert key in answer.json()["detail"]
    live = key in ("limits.header_fields_max", "hooks", "gates")
    assert ("reload it (SIGHUP)" if live else "restart the gateway") in answer.json()["detail"]
    assert served.control.state() == before


def test_what_came_over_the_api_is_looked_at_wherever_it_is_connected_to(served: Any, client: httpx.Client) -> None:
    assert client.put("/api/v1/backends/late", json={"endpoints": ["http://10.1.2.3"]}).status_code == 201
    guards = {name: backend.guard for name, backend in served.control.table.backends.items()}
    late = guards.pop("late")
    assert late.urls == ("http://10.1.2.3",)
    assert set(late.allow) == {str(rule) for rule in served.control.config.admin.backend_allow}
    assert set(guards.values()) == {None}, "what the file names may be anywhere"


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254",
        "http://169.254.1.1:8000",
        "http://[fe80::1]:80",
        "http://[fd00:ec2::254]",
        "http://[::ffff:169.254.169.254]",
        "http://[64:ff9b::a9fe:a9fe]",
        "http://0.0.0.0:8000",
        "http://127.0.0.1:8004",
        "http://localhost:8004",
        "http://0x7f000001:8004",
        "http://192.168.1.1",
        "http://10.0.0.1:9900",
        "http://224.0.0.1",
        "http://no-such-name.invalid",
        "http://metadata.models.example",
    ],
)
def test_the_api_cannot_send_the_gateway_where_it_must_not_go(served: Any, client: httpx.Client, url: str) -> None:
    before = served.control.state()
    answer = client.put("/api/v1/backends/evil", json={"endpoints": [url]})
    # 10.0.0.1 is only refused as the gateway itself where this machine has that address.
    if url == "http://10.0.0.1:9900" and answer.status_code == 201:
        assert "10.0.0.1" in answer.request.content.decode()
        return
    assert problem(answer) == (422, "address-not-allowed"), answer.text
    assert served.control.state() == before


def test_the_gateway_itself_is_no_backend_and_what_the_file_names_is_allowed(
    served: Any, client: httpx.Client, double: Any
) -> None:
    tree = client.get(CONFIG).json()
    tree["backends"]["spare"] = tree["backends"]["digits-v1"]
    assert client.put(CONFIG, json=tree).status_code == 200, "the file names this endpoint"
    assert problem(client.put("/api/v1/backends/me", json={"endpoints": [served.url]}))[0] == 422


@pytest.mark.parametrize(
    "url", ["unix:/run/x.sock", "file:///etc/passwd", "http://a b", "http://u:p@10.0.0.1", "http://10.0.0.1/x"]
)
def test_only_plain_http_addresses_are_backends(served: Any, client: httpx.Client, url: str) -> None:
    assert problem(client.put("/api/v1/backends/x", json={"endpoints": [url]})) == (422, "invalid-configuration")


def test_a_file_that_was_repaired_is_read_again_and_a_broken_one_is_not(served: Any, client: httpx.Client) -> None:
    text = served.path.read_text()
    served.path.write_text(text + "routes: twice\n")
    before = served.control.state()
    assert problem(client.post(f"{CONFIG}/reload")) == (422, "invalid-configuration")
    served.path.unlink()
    assert problem(client.post(f"{CONFIG}/reload")) == (422, "invalid-configuration")
    assert served.control.state() == before
    served.path.write_text(text.replace("127.0.0.1:8003", "127.0.0.1:8033"))
    assert client.post(f"{CONFIG}/reload").json()["changed"] == ["backends.spare.endpoints"]
    assert client.get("/api/v1/backends/spare/config").json()["endpoints"] == ["http://127.0.0.1:8033"]


def test_a_replacement_that_control_refuses_leaves_the_old_one(served: Any, client: httpx.Client) -> None:
    served.control.journal_fails = True
    before = client.get(f"{CONFIG}/source").json()
    assert problem(client.put("/api/v1/backends/x", json=BACKEND)) == (409, "conflict")
    assert client.get(f"{CONFIG}/source").json() == before
    assert served.store.configurations.newest().stored is None


def test_a_replacement_that_cannot_be_kept_is_not_put_in_force(served: Any, client: httpx.Client) -> None:
    served.store.file.connection.execute("PRAGMA query_only = ON")
    before = served.control.state()
    assert problem(client.put("/api/v1/backends/x", json=BACKEND)) == (503, "journal-unavailable")
    assert served.control.state() == before


@pytest.mark.parametrize("kind", ["missing", "a directory", "a pipe", "not PEM"])
@pytest.mark.parametrize("key", ["ca_file", "cert_file"])
def test_a_tls_file_that_cannot_be_used_is_refused(served: Any, client: httpx.Client, kind: str, key: str) -> None:
    file = served.path.parent / "tls.pem"
    match kind:
        case "a directory":
            file.mkdir()
        case "a pipe":
            os.mkfifo(file)
        case "not PEM":
            file.write_text("nothing of the kind")
    tls = {key: str(file)} | ({"key_file": str(file)} if key == "cert_file" else {})
    before = served.control.state()
    answer = client.put("/api/v1/backends/x", json=BACKEND | {"endpoints": ["https://127.0.0.1:8003"], "tls": tls})
    assert problem(answer) == (422, "invalid-configuration"), answer.text
    assert f"tls.{key}: cannot use {file}" in answer.json()["detail"]
    assert served.control.state() == before


def test_a_route_with_a_rollout_keeps_its_stable_backend(served: Any, client: httpx.Client) -> None:
    assert client.post("/api/v1/routes/digits/rollouts").status_code == 201
    config = client.get("/api/v1/routes/digits/config").json()
    answer = client.put("/api/v1/routes/digits", json=config | {"stable": "spare"})
    assert problem(answer) == (409, "conflict") and "in progress" in answer.json()["detail"]
    assert problem(client.delete("/api/v1/routes/digits")) == (409, "conflict")
    assert client.put("/api/v1/routes/digits", json=config | {"timeouts": {"connect_s": 3}}).status_code == 200


def test_secrets_are_not_shown_and_come_back_as_they_were(double: Any, tmp_path: Path) -> None:
    digest = "ab" * 32
    text = double.CONFIG.replace("admin:\n", f"admin:\n  tokens: [{{name: ci, scopes: [admin], sha256: {digest}}}]\n")
    (tmp_path / "gateway.yaml").write_text(text)
    with double.Served(directory=tmp_path) as served, httpx.Client(base_url=served.url) as client:
        shown = client.get(CONFIG)
        assert digest not in shown.text and shown.json()["admin"]["tokens"][0]["sha256"] == "<redacted>"
        assert client.put(CONFIG, json=shown.json()).json()["changed"] == []
        assert client.put("/api/v1/backends/spare", json=BACKEND).status_code == 200
        stored = served.store.configurations.newest().stored
        assert stored is not None and digest in stored.text
        assert served.store.file.path.stat().st_mode & 0o777 == 0o600

"""Everything that the API can do the command line can: each operation of the table, asked by a command of its own.

The commands run in this process, against a real admin API in another; what they send is written down on its way out.
"""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from gateway.admin.operations import OPERATIONS
from gateway.cli import gateway

ROUTE = '{"match": {"path_prefix": "/late"}, "stable": "digits-v1"}'
BACKEND = '{"endpoints": ["http://10.1.2.3"]}'
# In this order: what a command needs, those before it have made.
# What only another program sends, signed with a secret that it has.
OF_OTHER_PROGRAMS = {"take_mlflow_webhook"}
COMMANDS: dict[str, list[str]] = {
    "list_routes": ["status"],
    "show_route": ["status", "plain"],
    "show_health": ["api", "GET", "/healthz"],
    "show_readiness": ["api", "GET", "/readyz"],
    "show_metrics": ["api", "GET", "/metrics"],
    "show_openapi": ["api", "GET", "/openapi.json"],
    "set_weight": ["weight", "digits", "3", "--reason", "a look"],
    "take_labels": [
        "api",
        "POST",
        "/routes/digits/events",
        "--data",
        '{"events": [{"request_id": "1", "name": "click", "value": true}]}',
    ],
    "start_rollout": ["rollout", "start", "digits", "--reason", "new"],
    "list_rollouts": ["rollout", "list", "digits", "--limit", "2"],
    "show_rollout": ["rollout", "show", "digits"],
    "tell_story": ["explain", "digits"],
    "show_data_results": ["api", "GET", "/rollouts/digits-0001/data-results"],
    "show_series": ["api", "GET", "/rollouts/digits-0001/series"],
    "show_latencies": ["api", "GET", "/rollouts/digits-0001/latencies"],
    "show_report": ["explain", "digits", "--markdown"],
    "pause_rollout": ["rollout", "pause", "digits", "--reason", "lunch"],
    "resume_rollout": ["rollout", "resume", "digits"],
    "approve_rollout": ["rollout", "approve", "digits"],
    "promote_rollout": ["rollout", "promote", "digits", "--next-step"],
    "abort_rollout": ["rollout", "abort", "digits"],
    "list_backends": ["backends"],
    "put_backend": ["api", "PUT", "/backends/late", "--data", BACKEND],
    "show_backend": ["api", "GET", "/backends/late"],
    "show_backend_config": ["api", "GET", "/backends/late/config"],
    "delete_backend": ["api", "DELETE", "/backends/late"],
    "put_route": ["api", "PUT", "/routes/late", "--data", ROUTE, "--header", "Idempotency-Key: one"],
    "show_route_config": ["api", "GET", "/routes/late/config"],
    "delete_route": ["api", "DELETE", "/routes/late"],
    "show_config": ["config", "show"],
    "show_config_source": ["config", "source"],
    "replace_config": ["config", "apply", "FILE", "--yes"],
    "reload_config": ["config", "reload", "--yes"],
    "drop_config": ["config", "revert", "--yes"],
    "show_state": ["api", "GET", "/state"],
    "list_workers": ["workers"],
    "list_alarms": ["alarms"],
    "list_audit": ["audit", "--limit", "3"],
    "download_backup": ["backup", "BACKUP"],
    "stream_events": ["events", "--kind", "phase"],
}
# Refused in the state that the commands before have left, as it should be.
REFUSED = {"approve_rollout"}


class Sent:
    """What the commands have sent."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []

    def operations(self) -> set[str]:
        """The handlers of the operations that were asked for."""
        found = set()
        for request in self.requests:
            for operation in OPERATIONS:
                pattern = re.sub(r"\{\w+\}", "[^/]+", operation.path)
                if request.method == operation.method and re.fullmatch(pattern, request.url.path):
                    found.add(operation.handler or "show_openapi")
                    break
        return found


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    log = Sent()
    real = httpx.HTTPTransport.handle_request

    def handle(self: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        log.requests.append(request)
        if request.url.path.endswith("/api/v1/events"):
            raise KeyboardInterrupt  # it has no end but this
        return real(self, request)

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", handle)
    return log


def ask(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(gateway, [*arguments, "--url", url], env={"GATEWAY_TOKEN": None})


def test_every_operation_has_a_command(api: Any, sent: Sent, tmp_path: Any) -> None:
    for_people = [operation for operation in OPERATIONS if operation.handler not in OF_OTHER_PROGRAMS]
    assert set(COMMANDS) == {operation.handler or "show_openapi" for operation in for_people}
    assert len(COMMANDS) == len(for_people), "two operations share a handler"
    file = tmp_path / "gateway.yaml"
    file.write_text(api.http.get("/api/v1/config", headers={"accept": "application/yaml"}).text)
    for handler, arguments in COMMANDS.items():
        sent.requests.clear()
        files = {"FILE": str(file), "BACKUP": str(tmp_path / "backup")}
        done = ask(api.url, *(files.get(argument, argument) for argument in arguments))
        assert handler in sent.operations(), (handler, done.output)
        expected = 1 if handler in REFUSED or handler == "stream_events" else 0
        assert done.exit_code == expected, (handler, done.output)


def test_what_modifies_a_request_can_be_sent(api: Any, sent: Sent) -> None:
    tag = api.http.get("/api/v1/routes/digits").headers["etag"]
    weight = ("api", "PUT", "/routes/digits/weight", "--data", '{"canary_percent": 4}')
    assert ask(api.url, *weight, "--header", 'If-Match: "another.1"').exit_code == 1
    assert ask(api.url, *weight, "--header", f"If-Match: {tag}").exit_code == 0
    assert sent.requests[-1].headers["if-match"] == tag
    unchanged = ask(
        api.url, "api", "GET", "/config", "--header", f"If-None-Match: {api.http.get('/api/v1/config').headers['etag']}"
    )
    assert (unchanged.exit_code, unchanged.output) == (0, "null\n")
    assert ask(api.url, "api", "GET", "/config", "--header", "Accept: application/yaml").output.startswith(
        "state_dir: "
    )
    assert "gateway_up 1" in ask(api.url, "api", "GET", "/metrics").output
    for bad in ("If-Match", "a b: c", "x: \x1b[2J"):
        refused = ask(api.url, "api", "GET", "/routes", "--header", bad)
        assert refused.exit_code == 2 and "is not NAME: VALUE" in refused.output

"""The commands that speak to a running gateway, as processes against a real admin API."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-of-sixteen-or-more"


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def test_a_rollout_is_steered_from_start_to_end(run: Any, api: Any, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text('{"steps": [{"percent": 2.5}, {"percent": 50}]}')
    env = {"GATEWAY_URL": api.url}
    status, out, err = run("rollout", "start", "digits", "--plan", str(plan), "--json", **env)
    assert (status, err) == (0, "")
    started = json.loads(out)
    assert (started["phase"], started["canary_percent"]) == ("PROGRESSING", 2.5)

    paused = run("rollout", "pause", "digits", "--reason", "lunch", **env)
    assert paused.status == 0 and paused.out.startswith(f"{started['id']}: PAUSED at 2.5 %: paused by ")
    assert paused.out.endswith(": lunch\n")
    assert run("rollout", "resume", started["id"], **env).out.startswith(f"{started['id']}: PROGRESSING at 2.5 %")
    assert "PROMOTED at 100 %" in run("rollout", "promote", "digits", **env).out
    assert "ROLLED_BACK at 0 %" in run("rollout", "abort", "digits", "--reason", "too slow", **env).out

    refused = run("rollout", "resume", "digits", **env)
    assert (refused.status, refused.out) == (1, "")
    assert refused.err.startswith("Error: Not possible in the current state: cannot resume")
    assert len(refused.err.splitlines()) == 1

    shown = run("rollout", "show", "digits", **env).out
    assert "too slow" in shown and "2.5, 50 %" in shown and "NODATA" in shown and "no requests" in shown
    assert json.loads(run("rollout", "show", started["id"], "--json", **env).out)["phase"] == "ROLLED_BACK"
    listed = run("rollout", "list", **env).out
    assert started["id"] in listed and "aborted" in listed
    assert json.loads(run("rollout", "list", "plain", "--json", **env).out) == {"rollouts": [], "next_before": None}
    assert "no rollouts yet" in run("rollout", "list", "plain", **env).out
    assert started["id"] in run("rollout", "list", "--search", started["id"], **env).out
    assert run("rollout", "list", "--search", "never", **env).out == "no rollout matches\n"
    assert run("rollout", "list", "--before", started["id"], **env).out == "no rollout matches\n"


def test_a_weight_is_set_under_the_users_name(run: Any, api: Any) -> None:
    status, out, err = run("weight", "digits", "12.5", "--url", f"{api.url}/")
    assert (status, err) == (0, "")
    assert out.startswith("digits: 12.5 % to digits-v2; 2 of 2 workers use table ")
    assert json.loads(run("weight", "digits", "0", "--json", "--url", api.url).out)["canary_percent"] == 0.0


def test_status_shows_routes_for_people_and_for_machines(run: Any, api: Any) -> None:
    out = run("status", "--url", api.url).out
    assert [line.split()[0] for line in out.splitlines()[:3]] == ["route", "digits", "plain"]
    found = json.loads(run("status", "plain", "--json", "--url", api.url).out)
    assert [route["name"] for route in found["routes"]] == ["plain"] and found["rollouts"] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["status", "nope"], "no route is named 'nope'; there are: digits, plain"),
        (["weight", "nope", "5"], "no route is named 'nope'"),
        (["weight", "plain", "5"], "no canary backend"),
        (["rollout", "start", "plain"], "no canary backend"),
        (["rollout", "show", "nope"], "no rollout and no route is named 'nope'"),
        (["rollout", "abort", "plain"], "gateway rollout start plain"),
    ],
)
def test_a_refusal_is_1_and_one_line(run: Any, api: Any, arguments: list[str], says: str) -> None:
    before = api.state()
    status, out, err = run(*arguments, "--url", api.url)
    assert (status, out) == (1, "")
    assert says in err and len(err.splitlines()) == 1
    assert api.state() == before


def test_a_gateway_that_is_not_there_is_1_and_says_how_to_fix_it(run: Any) -> None:
    url = f"http://127.0.0.1:{_closed_port()}"
    status, out, err = run("status", "--url", url, HTTP_PROXY="http://127.0.0.1:1")
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert all(part in err for part in (url, "refused", "gateway serve CONFIG", "--url", "GATEWAY_URL"))


def test_the_token_comes_from_the_environment_or_an_option(run: Any, guarded: Any) -> None:
    assert run("status", "--url", guarded.url, GATEWAY_TOKEN=TOKEN).status == 0
    assert run("status", "--url", guarded.url, "--token", TOKEN).status == 0
    missing = run("status", "--url", guarded.url)
    assert missing.status == 1 and "requires a token: give one with --token or GATEWAY_TOKEN" in missing.err
    wrong = run("status", "--url", guarded.url, GATEWAY_TOKEN="wrong")
    assert wrong.status == 1 and "rejected this token" in wrong.err


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"<html>hello"), (404, b"not here"), (500, b'{"a": 1}'), (200, b"{}")]
)
def test_something_else_behind_the_url_is_distinguished_from_a_gateway(run: Any, status: int, body: bytes) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        ran = run("status", "--url", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()
    assert (ran.status, ran.out) == (1, "")
    assert "unexpected answer from" in ran.err and len(ran.err.splitlines()) == 1


def test_nothing_that_a_gateway_says_can_steer_the_terminal(run: Any, api: Any) -> None:
    eve = {"x-actor": "[red]eve[/red]"}
    started = api.http.post("/api/v1/routes/digits/rollouts", json={"retry": True}, headers=eve)
    assert started.status_code == 201
    shown = run("rollout", "show", "digits", "--url", api.url).out
    assert "by [red]eve[/red]" in shown
    run("rollout", "abort", "digits", "--url", api.url)


def test_watch_shows_changes_until_it_is_interrupted(api: Any) -> None:
    command = [sys.executable, "-m", "gateway", "status", "digits", "--watch", "--json", "--url", api.url]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())["routes"][0]["canary_percent"]
    api.http.put("/api/v1/routes/digits/weight", json={"canary_percent": first + 1})
    assert json.loads(process.stdout.readline())["routes"][0]["canary_percent"] == first + 1
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.strip()) == (130, "", "")


def test_watch_draws_for_a_person_and_gives_the_terminal_back(api: Any) -> None:
    leader, terminal = os.openpty()
    command = [sys.executable, "-m", "gateway", "status", "--watch", "--url", api.url]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=terminal, stderr=terminal, env=os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    )
    os.close(terminal)
    drawn = b""
    while b"digits" not in drawn:
        drawn += os.read(leader, 4096)
    process.send_signal(signal.SIGINT)
    while True:
        try:
            more = os.read(leader, 4096)
        except OSError:  # the terminal's last user is gone
            break
        if not more:
            break
        drawn += more
    os.close(leader)
    assert process.wait(60) == 130
    assert b"Traceback" not in drawn
    assert drawn.rfind(b"\x1b[?25h") > drawn.rfind(b"\x1b[?25l") >= 0, "the cursor is shown again"

"""Waiting, explaining, showing and configuring, as processes against a real admin API."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.client import Client
from gateway.control.journal.sqlite_store import SqliteStore
from gateway.core.analysis import Verdict
from gateway.core.rollout import Analysed, Plan, Rollout, Started, Step, step
from tests.cli.conftest import environment


def started(run: Any, env: dict[str, str]) -> str:
    done = run("rollout", "start", "digits", "--retry", "--json", **env)
    assert done.status == 0, done.err
    found: str = json.loads(done.out)["id"]
    return found


@pytest.mark.parametrize(("verb", "status", "word"), [("promote", 0, "PROMOTED"), ("abort", 4, "ROLLED_BACK")])
def test_wait_ends_with_the_rollout_and_says_how(run: Any, api: Any, verb: str, status: int, word: str) -> None:
    env = {"GATEWAY_URL": api.url}
    rollout = started(run, env)
    waiting = subprocess.Popen(
        [sys.executable, "-m", "gateway", "rollout", "wait", rollout, "--timeout", "300"],
        env=environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert waiting.stderr is not None
    assert "PROGRESSING" in waiting.stderr.readline()
    run("rollout", verb, rollout, "--reason", "enough", **env)
    out, err = waiting.communicate(timeout=60)
    assert (waiting.returncode, out.startswith(f"{rollout}: {word} at ")) == (status, True)
    assert "enough" in err


def test_wait_gives_up_undecided_at_its_timeout(run: Any, api: Any) -> None:
    env = {"GATEWAY_URL": api.url}
    rollout = started(run, env)
    done = run("rollout", "wait", rollout, "--timeout", "0.2", "--json", "--quiet", **env)
    assert (done.status, done.err, json.loads(done.out)["phase"]) == (3, "", "PROGRESSING")
    run("rollout", "abort", rollout, **env)


def test_wait_for_what_is_not_there_is_refused(run: Any, api: Any) -> None:
    assert run("rollout", "wait", "nothing", "--url", api.url).status == 1
    assert run("rollout", "wait", "nothing", "--url", api.url, "--timeout", "-1").status == 2


def test_explain_shows_the_decision_history_of_a_running_gateway(run: Any, api: Any) -> None:
    env = {"GATEWAY_URL": api.url}
    rollout = started(run, env)
    run("rollout", "pause", rollout, "--reason", "lunch", **env)
    run("rollout", "abort", rollout, "--reason", "too slow", **env)
    reported = run("explain", "digits", **env).out
    assert reported.index("lunch") < reported.index("too slow")
    assert "PROGRESSING -> PAUSED" in reported and "PAUSED -> ROLLED_BACK" in reported and "errors: NODATA" in reported
    decisions = json.loads(run("explain", rollout, "--json", **env).out)["decisions"]
    assert [decision["revision"] for decision in decisions] == [1, 2, 3]
    assert run("explain", "nothing", **env).status == 1


def test_explain_shows_the_decision_history_from_the_file_alone(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    with SqliteStore.open(path) as store:
        state = Rollout()
        for event in (
            Started("r-1", "r", "v1", "v2", Plan((Step(100, 0.0, 0),)), 1.0, "ann"),
            Analysed(2.0, Verdict.FAIL, "worse than stable: errors", ("errors",), 30),
        ):
            state, _ = step(state, event)
            store.journal.append("r-1", event, state, None, 1_700_000_000.0)
    reported = run("explain", "r", "--journal", str(path)).out
    assert (
        "PROGRESSING -> ROLLED_BACK" in reported
        and "worse than stable: errors" in reported
        and "by automation" in reported
    )
    assert json.loads(run("explain", "r-1", "--journal", str(path), "--json").out)["id"] == "r-1"
    assert "nothing" in run("explain", "nothing", "--journal", str(path)).err
    absent = run("explain", "r", "--journal", str(tmp_path / "none"))
    assert (absent.status, absent.out) == (1, "") and "state directory" in absent.err
    damaged = tmp_path / "damaged"
    damaged.write_bytes(b"x" * 5000)
    assert run("explain", "r", "--journal", str(damaged)).status == 1


def test_the_state_around_rollouts_can_be_looked_at(run: Any, api: Any) -> None:
    env = {"GATEWAY_URL": api.url}
    assert "http://127.0.0.1:8001" in run("backends", **env).out
    assert run("workers", **env).status == 0
    assert run("alarms", **env).status == 0
    run("weight", "digits", "1.5", **env)
    assert "/api/v1/routes/digits/weight" in run("audit", **env).out
    for command in ("backends", "workers", "alarms", "audit"):
        assert isinstance(json.loads(run(command, "--json", **env).out), dict)


def test_events_are_followed_until_interrupted(api: Any, run: Any) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "events", "--json", "--kind", "weight", "--after", "0", "--url", api.url],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        run("weight", "digits", "2.5", "--url", api.url)
        event = json.loads(process.stdout.readline())
        assert event["kind"] == "weight" and event["route"] == "digits"
        run("weight", "digits", "3.5", "--url", api.url)
        following = json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.communicate(timeout=20)
    with Client(api.url) as client:
        later = (one for one in client.events(event["cursor"], reconnect=False) if one.kind == "weight")
        assert next(later).cursor == following["cursor"]
    refused = run("events", "--after", "yesterday", "--url", api.url)
    assert refused.status == 2 and "no event's cursor" in refused.err


def test_the_configuration_is_shown_tried_and_replaced(run: Any, api: Any, tmp_path: Path) -> None:
    env = {"GATEWAY_URL": api.url}
    shown = run("config", "show", **env)
    assert shown.status == 0 and "digits-v1:" in shown.out
    file = tmp_path / "new.yaml"
    file.write_text(shown.out.replace("127.0.0.1:8003", "10.1.2.3:8003"))
    tried = run("config", "apply", str(file), "--dry-run", **env)
    assert tried.status == 0 and tried.out.startswith("would change: backends.spare"), tried
    assert "10.1.2.3" not in run("config", "show", **env).out
    assert run("config", "apply", str(file), **env).out.startswith("changed: backends.spare")
    assert "10.1.2.3" in run("config", "show", **env).out
    assert run("config", "source", **env).out.startswith("source: api")
    assert run("config", "revert", **env).status == 0
    assert "10.1.2.3" not in run("config", "show", **env).out
    file.write_text("routes: [")
    assert run("config", "apply", str(file), **env).status == 2


def test_any_operation_can_be_called(run: Any, api: Any, tmp_path: Path) -> None:
    env = {"GATEWAY_URL": api.url}
    assert json.loads(run("api", "GET", "/routes", **env).out)["routes"][0]["name"] == "digits"
    body = tmp_path / "body.json"
    body.write_text('{"canary_percent": 3}')
    done = run("api", "put", "/api/v1/routes/digits/weight", "--data", f"@{body}", **env)
    assert json.loads(done.out)["canary_percent"] == 3
    refused = run("api", "PUT", "/routes/digits/weight", "--data", '{"canary_percent": 300}', **env)
    assert refused.status == 1 and len(refused.err.splitlines()) == 1


@pytest.mark.parametrize(("answer", "phase"), [(b"y\n", "PROMOTED"), (b"n\n", "PROGRESSING")])
def test_a_person_is_asked_before_a_promotion(run: Any, api: Any, answer: bytes, phase: str) -> None:
    env = {"GATEWAY_URL": api.url}
    rollout = started(run, env)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "rollout", "promote", rollout],
        env=environment(**env),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    try:
        assert process.stderr is not None
        asked = b""
        deadline_s = time.monotonic() + 20
        while b"[y/N]" not in asked and time.monotonic() < deadline_s:
            asked += os.read(process.stderr.fileno(), 1024)
        assert b"so that digits-v2 serves all of digits" in asked
        os.write(ours, answer)
        process.communicate(timeout=60)
        assert process.returncode == (0 if phase == "PROMOTED" else 130)
        assert json.loads(run("rollout", "show", rollout, "--json", **env).out)["phase"] == phase
    finally:
        process.kill()
        process.communicate()
        os.close(ours)
    run("rollout", "abort", rollout, **env)


def test_without_a_terminal_nothing_is_asked(run: Any, api: Any) -> None:
    env = {"GATEWAY_URL": api.url}
    rollout = started(run, env)
    assert run("rollout", "promote", rollout, "--next-step", **env).status == 0
    assert run("rollout", "promote", rollout, "--yes", **env).status == 0
    run("rollout", "abort", rollout, **env)

"""`gateway demo` as a newcomer runs it: a process that starts processes, each promise put to the test.

Each run carries a marker in its environment, which all its descendants inherit: so a process that is left behind is
found in /proc, wherever it went.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway.config.load import load
from gateway.demo.scenarios import SCENARIOS, as_expected

MARKER = "GATEWAY_DEMO_TEST"
DEMO = [sys.executable, "-m", "gateway", "demo"]
SEED = 20_261
PATIENCE_S = 150
SUMMARY_KEYS = {
    "phase",
    "reason",
    "metrics",
    "requests_total",
    "requests_failed_seen_by_users",
    "canary_requests",
    "decision_s",
    "seed",
}


class Run(NamedTuple):
    """A demo that has ended, and what it left behind."""

    status: int
    stdout: str
    stderr: str
    left: list[str]
    files: list[str]

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.splitlines()]


def processes(marker: str) -> list[str]:
    """The command lines of all processes that carry the marker."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARKER}={marker}".encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def start(directory: Path, marker: str, *arguments: str, command: list[str] = DEMO, **options: Any) -> Any:
    """A demo under way, in a session of its own, with its temporary files in ``directory``."""
    environ = {**os.environ, MARKER: marker, "TMPDIR": str(directory), "COLUMNS": "80", "LINES": "24"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([*command, *arguments], env=environ, text=True, start_new_session=True, **pipes)


def run(directory: Path, *arguments: str) -> Run:
    """A demo from start to end."""
    marker = uuid.uuid4().hex
    process = start(directory, marker, *arguments)
    try:
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    return Run(process.returncode, stdout, stderr, gone(marker), [path.name for path in directory.iterdir()])


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short name: sockets lie below it, and their names may have 107 bytes."""
    return tmp_path_factory.mktemp("t")


@pytest.fixture(scope="module", autouse=True)
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Run]]]:
    """All scenarios, two at a time, the long ones first; they run on while the tests above theirs do."""
    order = sorted(SCENARIOS, key=lambda name: "PROMOTED" not in SCENARIOS[name].ends)
    with ThreadPoolExecutor(2) as pool:
        yield {
            name: pool.submit(run, tmp_path_factory.mktemp(name), "--scenario", name, "--seed", str(SEED), "--json")
            for name in order
        }
        pool.shutdown(cancel_futures=True)


# The mirror step


def test_with_a_mirror_step_wrong_answers_are_found_before_a_user_gets_one(tmp_path: Path) -> None:
    found = run(tmp_path, "--mirror", "--scenario", "wrong", "--seed", str(SEED), "--json")
    assert found.status == 0, found.stderr
    summary = found.events[-1]
    assert summary["as_expected"], summary
    assert (summary["phase"], summary["metrics"]) == ("ROLLED_BACK", ["disagreement"])
    assert summary["requests_failed_seen_by_users"] == 0
    assert summary["latency"]["canary"]["p50_ms"] is None, "no user was given to it"


def test_with_a_mirror_step_a_better_model_goes_on_to_users(tmp_path: Path) -> None:
    with start(tmp_path, uuid.uuid4().hex, "--mirror", "--seed", str(SEED), "--json") as process:
        try:
            steps = (event for line in process.stdout if (event := json.loads(line))["event"] == "step")
            first, second = next(steps), next(steps)
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=PATIENCE_S)
    assert (first["step"], first["canary_percent"], second["step"]) == (0, 0.0, 1)
    assert second["reason"].startswith("the mirror step passed: ")


# Stopping it


def until(process: Any, event: str) -> None:
    """Read the demo's lines until that event."""
    for line in process.stdout:
        if json.loads(line)["event"] == event:
            return
    raise AssertionError(f"no {event}: {process.stderr.read()}")


def gone(marker: str) -> list[str]:
    """Who does not end: a process that was killed has its last moment still before it."""
    deadline_s = time.monotonic() + 30
    while (left := processes(marker)) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return left


@pytest.mark.parametrize(
    ("number", "to_group", "times", "moment"),
    [
        (signal.SIGINT, False, 1, "starting"),
        (signal.SIGINT, True, 1, "step"),
        (signal.SIGTERM, False, 1, "step"),
        (signal.SIGINT, False, 2, "step"),
        (signal.SIGINT, False, 5, "step"),
        (signal.SIGTERM, True, 1, "decision"),
    ],
)
def test_a_signal_at_any_moment_leaves_nothing_behind(
    tmp_path: Path, number: signal.Signals, to_group: bool, times: int, moment: str
) -> None:
    marker = uuid.uuid4().hex
    with start(tmp_path, marker, "--scenario", "errors" if moment == "decision" else "hang", "--json") as process:
        try:
            if moment == "starting":
                while len(processes(marker)) < 2:
                    assert process.poll() is None
                    time.sleep(0.01)
            else:
                until(process, moment)
            for _ in range(times):
                (os.killpg if to_group else os.kill)(process.pid, number)
                time.sleep(0.05)
            _, stderr = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    # A signal may also meet the interpreter on its way out: the same status to a shell.
    assert process.returncode == 128 + number or (times > 1 and process.returncode == -number), stderr
    assert "Traceback" not in stderr
    assert gone(marker) == []
    # Only an impatient third signal may cost the gateway the time to clear up after itself.
    assert times > 2 or list(tmp_path.iterdir()) == []


def test_even_a_kill_of_the_demo_itself_leaves_no_process_behind(tmp_path: Path) -> None:
    marker = uuid.uuid4().hex
    with start(tmp_path, marker, "--scenario", "flat", "--json") as process:
        until(process, "step")
        process.kill()
        process.communicate(timeout=PATIENCE_S)
    assert gone(marker) == []


SPAWN = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"


def test_ctrl_c_in_a_terminal_gives_the_terminal_back(tmp_path: Path) -> None:
    marker = uuid.uuid4().hex
    command = [sys.executable, "-c", SPAWN, *DEMO]
    with start(tmp_path, marker, command=command, stdin=subprocess.PIPE, bufsize=0) as process:
        try:
            screen = ""
            while "users sent" not in screen:
                read = os.read(process.stdout.fileno(), 65536).decode(errors="replace")
                assert read, screen
                screen += read
            os.write(process.stdin.fileno(), b"\x03")
            while read := os.read(process.stdout.fileno(), 65536).decode(errors="replace"):
                screen += read
            status = process.wait(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert status == 130
    assert "gateway demo: stopped by SIGINT" in screen
    assert screen.rindex("\x1b[?25h") > screen.rindex("\x1b[?25l"), "the cursor is shown again"
    assert gone(marker) == []


# Its options


def test_without_a_terminal_it_prints_a_line_per_event(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    (tmp_path / "tmp").mkdir()
    done = run(tmp_path / "tmp", "--scenario", "errors", "--keep", str(kept), "--workers", "2")
    assert done.status == 0, done.stderr
    assert "scenario errors, seed " in done.stdout, "a random seed is reported"
    assert "\nROLLED BACK " in done.stdout and "none of them failed" in done.stdout
    assert done.left == [] and done.files == []
    config = load(kept / "gateway.yaml")
    assert config.workers == 2 and (config.state_dir / "state.sqlite3").exists()

    again = run(tmp_path / "tmp", "--keep", str(kept))
    assert again.status == 2 and "not an empty directory" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--scenario", "absent"), "--scenario"),
        (("--seed", "x"), "--seed"),
        (("--seed", "-1"), "--seed"),
        (("--rate", "0"), "--rate"),
        (("--port", "65536"), "--port"),
        (("--keep-running-s", "-1"), "--keep-running-s"),
        (("--no-such-option",), "--no-such-option"),
        (("good",), "unexpected extra argument"),
    ],
)
def test_bad_arguments_are_refused_before_anything_starts(
    tmp_path: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    done = run(tmp_path, *arguments)
    assert done.status == 2
    assert complaint in done.stderr and done.stdout == ""
    assert done.files == []


@pytest.mark.parametrize("option", ["--port", "--admin-port"])
def test_a_port_in_use_is_said(tmp_path: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(tmp_path, option, str(port), "--json")
    assert done.status == 1
    assert "the gateway ended with status 1" in done.stderr and f"127.0.0.1:{port}" in done.stderr
    assert done.events[-1]["event"] == "error"
    assert done.left == [] and done.files == []


# What comes of each scenario


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_a_scenario_ends_as_promised_and_users_see_no_failure_that_a_rescue_prevents(
    scenario: Any, runs: dict[str, Future[Run]]
) -> None:
    done = runs[scenario.name].result()
    reported = f"to repeat: gateway demo --scenario {scenario.name} --seed {SEED}\n{done.stderr}{done.stdout[-3000:]}"
    assert done.status == 0, reported
    first, summary = done.events[0], done.events[-1]
    assert summary["event"] == "summary" and summary.keys() >= SUMMARY_KEYS
    assert summary["failures_preventable"] == 0, reported
    if not scenario.begun:
        assert summary["requests_failed_seen_by_users"] == 0, reported
    assert as_expected(scenario, summary["phase"], tuple(summary["metrics"])), reported
    assert summary["as_expected"] is True
    assert first["seed"] == summary["seed"] == SEED
    assert len(first["pids"]) == len(set(first["pids"].values())) == 4, "four processes besides the demo itself"
    assert summary["requests_total"] > summary["canary_requests"] > 0
    assert 0 < summary["decision_s"] < summary["duration_s"]
    assert done.left == [] and done.files == []


@pytest.mark.parametrize("scenario", ["errors", "hang", "crash", "notfound", "login"])
def test_what_the_canary_fails_is_rescued(scenario: str, runs: dict[str, Future[Run]]) -> None:
    summary = runs[scenario].result().events[-1]
    assert summary["rescued"] > 0
    assert summary["accuracy"]["rescued"] > 0.5, "stable's answers, not empty ones"
    assert summary["canary_percent"] == 0


def test_a_better_model_climbs_every_step(runs: dict[str, Future[Run]]) -> None:
    events = runs["good"].result().events
    weights = [event["canary_percent"] for event in events if event["event"] == "weight"]
    assert weights == [5, 25, 50, 100]
    assert events[-1]["accuracy"]["canary"] > events[-1]["accuracy"]["stable"] > 0.9
    assert {"started", "step", "analysis", "traffic", "decision"} <= {event["event"] for event in events}
    times_s = [event["t_s"] for event in events[:-1]]
    assert times_s == sorted(times_s)


def test_the_killed_canary_was_killed_in_the_middle(runs: dict[str, Future[Run]]) -> None:
    events = runs["crash"].result().events
    kinds = [event["event"] for event in events]
    assert kinds.index("step") < kinds.index("fault") < kinds.index("decision")
    assert 0 < events[-1]["decision_after_kill_s"] < events[-1]["decision_s"]

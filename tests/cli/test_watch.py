"""The live views: what they draw on 80 columns, hostile names included, and `gateway watch` on a real terminal."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import signal
import struct
import subprocess
import sys
import termios
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from gateway.cli.gauges import EvidenceHistory, sparkline
from gateway.cli.glance import glance
from gateway.cli.watch import Picture, picture
from gateway.client import AnalysisBody, DecisionView, EndpointView, FindingBody, RolloutBody, RouteView
from gateway.core.analysis.types import Verdict

ROOT = Path(__file__).parents[2]
HOSTILE = "v2\x1b[2J\x1b]0;owned\x07" + "x" * 200


def finding(metric: str, log_e_bad: float | None, **details: float | None) -> FindingBody:
    needed: dict[str, float | None] = {"log_e_bad_needed": 6.4, "log_e_ok_needed": 3.0}
    return FindingBody(metric, Verdict.UNDECIDED, "not yet", True, log_e_bad, 1.5, 5, 1500, 3, 143, needed | details)


def rollout(**changes: Any) -> RolloutBody:
    errors = finding("errors", 2.5, difference=0.018, difference_low=-0.01, difference_high=0.07)
    latency = finding("latency", None, stable_p50_us=2_000.0, canary_p50_us=2_100.0, stable_p99_us=9_000.0)
    analysis = AnalysisBody(
        Verdict.UNDECIDED, "evidence for errors is missing", (), (errors, latency), 2.5, 6.4, 3.0, 1500, 143
    )
    body = RolloutBody(
        id="digits-1f",
        route="digits",
        stable="v1",
        canary="v2",
        phase="PROGRESSING",
        step=2,
        steps=4,
        canary_percent=12.5,
        reason="step 1 of 4 passed " + "and so on " * 30,
        causes=(),
        by="automation",
        started_at="2026-11-30T10:00:00Z",
        updated_at="2026-11-30T10:00:00Z",
        plan={"steps": [{"percent": p, "min_time_s": 10, "min_requests": 100} for p in (1, 5, 25, 50)]},
        canary_requests=143,
        analysis=analysis,
    )
    return replace(body, **changes)


def route(name: str = "digits", **changes: Any) -> RouteView:
    view = RouteView(
        name=name,
        path_prefix="/",
        hosts=(),
        stable="v1",
        canary="v2",
        canary_percent=12.5,
        epoch=3,
        workers=1,
        workers_applied=1,
        endpoints=(EndpointView("v1", "http://a:1", True), EndpointView("v2", "http://b:1", False)),
        rollout_id="digits-1f",
        phase="PROGRESSING",
    )
    return replace(view, **changes)


def decision(reason: str, canary_percent: float) -> DecisionView:
    return DecisionView(
        seq=1,
        revision=1,
        at="2026-11-30T10:00:00.000Z",
        after_s=None,
        event="started",
        by="automation",
        automatic=True,
        phase_before="IDLE",
        phase="PROGRESSING",
        step="1/4",
        canary_percent_before=0.0,
        canary_percent=canary_percent,
        reason=reason,
        causes=(),
        canary_requests=0,
        verdict=None,
        numbers=(),
    )


def drawn(view: RenderableType, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False)
    console.print(view)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "\x1b" not in text and "\x07" not in text
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    return lines


def test_at_a_glance_everything_that_matters_is_on_eighty_columns() -> None:
    other = route("quiet", rollout_id=None, phase="IDLE", canary=None, canary_percent=0.0)
    lines = drawn(glance([other, route()], [rollout()], ["no worker"], 80))
    assert lines[0] == "NOT READY: no worker"
    assert lines[1].startswith("digits  PROGRESSING  step 2/4  v1 > v2  1/2 up"), "what is under way comes first"
    text = "\n".join(lines)
    assert "12.5 % canary" in text and "1 in 12 (rolled back at 1 in 600)" in text
    assert "canary 2.1 % of 143, stable 0.333 % of 1,500" in text
    assert "evidence for errors is missing" in text
    assert lines[-1].startswith("quiet  IDLE  v1")
    assert len(lines) == 9, "nothing is folded"


def test_five_hundred_routes_are_a_line_each() -> None:
    routes = [route(f"r{i}", rollout_id=None, phase="IDLE", canary=None) for i in range(500)]
    assert len(drawn(glance(routes, [], [], 80))) == 500


def series(log_e_bad: tuple[float, ...], every_s: float = 1.0) -> dict[str, Any]:
    """The evidence over time as the API shows it."""
    at = [1_700_000_000.0 + every_s * n for n in range(len(log_e_bad))]
    errors = {"metric": "errors", "log_e_ok": [1.5] * len(at)}
    return {"at": at, "log_e_bad": log_e_bad, "metrics": [errors, {"metric": "latency", "log_e_ok": [None] * len(at)}]}


def test_the_full_screen_fits_a_small_terminal_and_shows_the_evidence_as_it_grew() -> None:
    history = EvidenceHistory()
    history.begin(rollout(), series((0.0, 0.8)), 1.0)
    for second, log_e in enumerate((1.6, 2.5, 9.0)):
        analysis = rollout().analysis
        assert analysis is not None
        history.add(rollout(analysis=replace(analysis, log_e_bad=log_e)), 2.0 + second)
    found = Picture(route(), rollout(), tuple(decision(f"decision {n}", n) for n in range(20)))
    text = "\n".join(drawn(picture(found, history, "", 80, 24)))
    assert "✓ 1 %  ▶ 5 %  · 25 %  · 50 %  · 100 %" in text
    assert "worse  ▁▂▃▄█" in text
    assert "+1.80 (-1.00 to +7.00)" in text and "stable p50 2 ms, p99 9 ms" in text
    assert "decision 19" in text and "decision 11" not in text, "the newest decisions"
    late = "\n".join(drawn(picture(found, history, "cannot reach the gateway (7 s ago)", 80, 24)))
    assert "cannot reach the gateway (7 s ago): what is shown is older" in late


@pytest.mark.parametrize("width", [40, 80, 200])
def test_hostile_names_are_text_and_stay_on_their_line(width: int) -> None:
    bad = rollout(id=HOSTILE, canary=HOSTILE, reason=HOSTILE, waiting_for=HOSTILE)
    found = Picture(route(canary=HOSTILE, warning=HOSTILE), bad, (decision(HOSTILE, 1),))
    drawn(picture(found, EvidenceHistory(), HOSTILE, width, 24), width)
    drawn(glance([route(canary=HOSTILE, warning=HOSTILE)], [bad], [HOSTILE], width), width)


def test_another_rollout_begins_its_history_anew_and_a_sparkline_shows_the_newest() -> None:
    history = EvidenceHistory()
    history.begin(rollout(), series((0.0,) * 50 + (6.4,) * 50, 10.0), 0.0)
    assert history.columns(4)[0] == [0.0, 0.0, 1.0, 1.0] and len(history.columns(200)[0]) == 100
    for second in range(10):
        history.add(rollout(), float(second))
    bad, good = history.columns(10)
    assert bad[:4] == [0.0] * 4 and bad[5:9] == [1.0] * 4 and bad[9] < 1.0, "from the start on, by time"
    assert len(good) == 10
    assert history.knows(rollout()) and not history.knows(rollout(id="digits-2f"))
    history.begin(rollout(id="digits-2f"), {}, 0.0)
    assert history.columns(9) == ([], [])
    assert sparkline([0.0, 0.5, 1.0, 1.0], 3, "red").plain == "▅██"
    assert sparkline([0.5], 0, "red").plain == ""


# on a terminal


def on_a_terminal(arguments: list[str], until: bytes, then: bytes | signal.Signals) -> tuple[int, bytes]:
    """Run a command on a terminal of 80 columns until it has drawn something, then press a key or send a signal."""
    leader, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", *arguments],
        cwd=ROOT,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=kept | {"TERM": "xterm"},
        start_new_session=True,
    )
    settings = termios.tcgetattr(terminal)
    seen = b""
    while until not in seen:
        seen += os.read(leader, 4096)
    if isinstance(then, bytes):
        os.write(leader, then)
    else:
        process.send_signal(then)
    os.set_blocking(leader, False)
    while process.poll() is None:
        with contextlib.suppress(BlockingIOError, OSError):
            seen += os.read(leader, 65536)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    with contextlib.suppress(BlockingIOError, OSError):
        while more := os.read(leader, 65536):
            seen += more
    assert termios.tcgetattr(terminal)[3] == settings[3], "the terminal is left as it was found"
    os.close(terminal)
    os.close(leader)
    assert b"Traceback" not in seen
    return process.wait(60), seen


def test_watch_takes_the_whole_screen_and_gives_it_back(api: Any, run: Any) -> None:
    assert run("rollout", "start", "digits", "--url", api.url).status == 0
    status, seen = on_a_terminal(["watch", "digits", "--url", api.url], b"q leaves", b"q")
    assert status == 0
    assert seen.count(b"\x1b[?1049h") == seen.count(b"\x1b[?1049l") == 1, "the alternate screen, there and back"
    assert seen.rfind(b"\x1b[?25h") > seen.rfind(b"\x1b[?25l") >= 0, "the cursor is shown again"
    assert b"no canary requests yet" in seen
    status, seen = on_a_terminal(["watch", "plain", "--url", api.url], b"no rollout yet", signal.SIGINT)
    assert (status == 130 and seen.endswith(b"\x1b[?25h")) or b"\x1b[?1049l" in seen


def test_watch_without_a_terminal_says_what_to_use(run: Any, api: Any) -> None:
    refused = run("watch", "digits", "--url", api.url)
    assert refused.status == 2 and "gateway status ROUTE --watch --json" in refused.err
    assert "no route is named 'nope'" in run("status", "nope", "--url", api.url).err

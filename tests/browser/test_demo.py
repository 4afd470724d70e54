"""The console beside real traffic: every scenario of the demo, watched from its start to its end without a reload.

What the page says at the end must be the scenario's truth: how it ended, the metric that decided, and that the canary
is the worse one in it.
"""

from __future__ import annotations

import contextlib
import re
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from gateway.demo.scenarios import SCENARIOS, Scenario, as_expected
from tests.browser.demo import RunningDemo

END_MS = 180_000
# A demo waits most of its time: these many share the machine. The long ones begin first.
AT_ONCE = 3
ORDER = sorted(SCENARIOS, key=lambda name: SCENARIOS[name].cause is not None)
# A machine that is too busy for a proof in time holds a canary that is better.
HELD = {"good": ("PROMOTED", "PAUSED")}


@pytest.fixture(scope="module")
def demos() -> Iterator[Demos]:
    running = Demos()
    yield running
    running.stop_all()


class Demos:
    """Demos, a few at a time: the next one begins when one is stopped."""

    def __init__(self) -> None:
        self._waiting = deque(ORDER)
        self._running: dict[str, RunningDemo] = {}
        for _ in range(AT_ONCE):
            self._start_next()

    def get(self, name: str) -> RunningDemo:
        while name not in self._running:  # when tests are chosen by name
            self._start_next()
        return self._running[name]

    def stop(self, name: str) -> None:
        self._running.pop(name).stop()
        self._start_next()

    def stop_all(self) -> None:
        self._waiting.clear()
        for name in list(self._running):
            self.stop(name)

    def _start_next(self) -> None:
        with contextlib.suppress(IndexError):
            name = self._waiting.popleft()
            self._running[name] = RunningDemo(name)


@pytest.mark.parametrize("name", ORDER)
def test_a_scenario_is_watched_to_its_end(demos: Demos, tabs: Any, name: str) -> None:
    scenario, demo = SCENARIOS[name], demos.get(name)
    page = tabs(demo.console(), accept_downloads=True).open()
    # Which version serves depends on whether the canary has been promoted by now.
    expect(page.locator(".route")).to_contain_text(re.compile("digits-(stable|canary)"))
    link = page.get_by_role("link", name="digits", exact=True)
    expect(link).to_be_visible(timeout=END_MS)
    link.click()
    expect(page.locator("h1")).to_contain_text("digits-canary")
    # A mark that a reload would lose.
    page.evaluate("window.opened = true")
    pill = page.locator(".verdict .pill")
    expect(pill).to_have_text(ended(scenario), timeout=END_MS)
    said = pill.inner_text().lower()
    phase = next(one for one in ("PROMOTED", "PAUSED", "ROLLED_BACK") if one.replace("_", " ").lower() in said)
    assert page.evaluate("window.opened") is True
    expect(page.locator(".fresh.live")).to_be_visible()
    if scenario.cause is None:
        expect(page.locator("tr.cause")).to_have_count(0)
        assert phase in HELD.get(name, scenario.ends)
    else:
        expect(page.locator("h1")).to_contain_text("digits-canary was rolled back: ")
        expect(page.locator(".story li").first).to_contain_text("automatically")
        expect(page.locator("tr.chosen.cause")).to_contain_text("decided")
        convicted = page.locator(".metrics tr.cause button").all_inner_texts()
        metrics = tuple(one.strip().replace(" ", "_") for one in convicted)
        assert as_expected(scenario, phase, metrics), metrics
        the_canary_is_worse(page, scenario.cause)
    expect(page.locator(".plot canvas")).to_have_count(3)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download report").click()
    report = download.value.path().read_text("utf-8")
    assert "digits-canary" in report and (scenario.cause or "") in report
    assert report.count("<svg") >= 3 and len(report.encode()) < 300_000
    demos.stop(name)


def test_streams_of_tokens_stand_side_by_side(tabs: Any) -> None:
    demo = RunningDemo("slow-tokens", "--llm")
    try:
        page = tabs(demo.console()).open()
        page.locator(".route a").first.click(timeout=END_MS)
        expect(page.locator(".verdict .pill")).to_have_text(re.compile("rolled back", re.IGNORECASE), timeout=END_MS)
        versions = page.locator(".compare").first
        row = versions.locator("tr").filter(has_text="Time per token")
        expect(row.locator("td")).to_have_count(2, timeout=END_MS)
        stable, canary = (milliseconds(text) for text in row.locator("td").all_inner_texts())
        assert canary > stable
        expect(versions).to_contain_text("Time to first token")
        expect(page.locator(".predictions")).to_contain_text("finish stop")
    finally:
        demo.stop()


def ended(scenario: Scenario) -> Any:
    """What the page calls the end."""
    ends = HELD.get(scenario.name, scenario.ends)
    return re.compile("|".join(one.replace("_", " ") for one in ends), re.IGNORECASE)


def the_canary_is_worse(page: Any, cause: str) -> None:
    """Both versions' numbers of the metric that decided stand side by side, and the canary's is the larger one."""
    row = page.locator(".compare tr.cause").first
    if cause == "latency":
        stable, canary = (milliseconds(text) for text in row.locator("td").all_inner_texts())
        assert canary > stable
        return
    row = page.locator(".compare tr.cause").filter(has_text=cause.replace("_", " ")).first
    stable, canary = (percent(text) for text in row.locator("td .of").all_inner_texts())
    assert canary > stable


def milliseconds(text: str) -> float:
    number, unit = text.split()
    return float(number.replace(",", "")) * {"µs": 1e-3, "ms": 1.0, "s": 1e3}[unit]


def percent(text: str) -> float:
    return float(text.replace("%", "").replace(",", "").strip())

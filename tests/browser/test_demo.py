"""The console beside real traffic: scenarios of the demo, watched from their start to their end without a reload."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

# What the page must say at the end, and of which metric.
SCENARIOS = {
    "good": ("digits-canary was promoted", ""),
    "errors": ("digits-canary was rolled back: errors", "errors"),
    "slow": ("digits-canary was rolled back: latency", "latency"),
}
END_MS = 120_000


class RunningDemo:
    """`gateway demo`, and where its console is."""

    def __init__(self, scenario: str) -> None:
        command = [sys.executable, "-m", "gateway", "demo", "--scenario", scenario, "--json"]
        options = ["--keep-running-s", "30", "--seed", "7", "--rate", "150"]
        self.process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
        self.url = ""
        self._known = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            if "console_url" in event:
                self.url = event["console_url"].rstrip("/")
                self._known.set()

    def console(self) -> str:
        assert self._known.wait(90), "the demo did not start"
        return self.url

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture(scope="module")
def demos() -> Iterator[dict[str, RunningDemo]]:
    """All scenarios at once: they wait most of the time."""
    running = {name: RunningDemo(name) for name in SCENARIOS}
    yield running
    for demo in running.values():
        demo.stop()


def test_each_scenario_is_watched_to_its_end(demos: dict[str, RunningDemo], tabs: Any, tmp_path: Path) -> None:
    pages = {}
    for name, demo in demos.items():
        page = tabs(demo.console(), accept_downloads=True).open()
        expect(page.locator(".route")).to_contain_text("digits-stable")
        link = page.get_by_role("link", name="digits", exact=True)
        expect(link).to_be_visible(timeout=END_MS)
        link.click()
        expect(page.locator("h1")).to_contain_text("digits-canary")
        # A mark that a reload would lose.
        page.evaluate("window.opened = true")
        pages[name] = page
    for name, (said, cause) in SCENARIOS.items():
        page = pages[name]
        expect(page.locator("h1")).to_contain_text(said, timeout=END_MS)
        assert page.evaluate("window.opened") is True
        expect(page.locator(".fresh.live")).to_be_visible()
        expect(page.locator(".plot canvas")).to_have_count(3)
        expect(page.locator(".story li").first).to_contain_text("promoted" if name == "good" else "rolled back")
        if cause:
            expect(page.locator("tr.chosen.cause")).to_contain_text(cause)
            expect(page.locator("tr.chosen")).to_contain_text("decided")
        with page.expect_download() as download:
            page.get_by_role("button", name="Download report").click()
        report = download.value.path().read_text("utf-8")
        assert said.replace(": ", " on digits: ") in report or "was promoted on digits" in report
        assert report.count("<svg") >= 3 and len(report.encode()) < 300_000

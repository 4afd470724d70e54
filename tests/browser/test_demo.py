"""The console beside real traffic: scenarios of the demo, watched from their start to their end without a reload."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.demo import RunningDemo

# What the page says at the end, and of which metric. A machine that is too busy for a proof in time holds the good one.
SCENARIOS = {
    "good": (re.compile("digits-canary was promoted|^Paused at"), ""),
    "errors": (re.compile("^digits-canary was rolled back: errors"), "errors"),
}
END_MS = 120_000


@pytest.fixture(scope="module")
def demos() -> Iterator[dict[str, RunningDemo]]:
    """All scenarios at once: they wait most of the time."""
    running = {name: RunningDemo(name) for name in SCENARIOS}
    yield running
    for demo in running.values():
        demo.stop()


def test_each_scenario_is_watched_to_its_end(demos: dict[str, RunningDemo], tabs: Any) -> None:
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
        expect(page.locator(".story li").first).to_contain_text("automatically")
        if cause:
            expect(page.locator("tr.chosen.cause")).to_contain_text(cause)
            expect(page.locator("tr.chosen")).to_contain_text("decided")
        with page.expect_download() as download:
            page.get_by_role("button", name="Download report").click()
        report = download.value.path().read_text("utf-8")
        assert "digits-canary" in report and (cause in report)
        assert report.count("<svg") >= 3 and len(report.encode()) < 300_000

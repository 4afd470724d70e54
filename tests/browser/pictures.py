"""The pictures of docs/pictures: the console and the report, as two runs of the demo look at their end.

.ci/browser --pictures
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import expect, sync_playwright

from tests.browser.demo import RunningDemo

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
END_MS = 180_000


def main() -> None:
    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ["GATEWAY_BROWSER"], args=["--no-sandbox"])
        for scenario in ("errors", "good"):
            demo = RunningDemo(scenario)
            try:
                _draw(browser, scenario, demo.console())
            finally:
                demo.stop()
        browser.close()


def _draw(browser: Any, scenario: str, url: str) -> None:
    context = browser.new_context(viewport={"width": 1240, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.goto(f"{url}/")
    page.get_by_role("link", name="digits", exact=True).click()
    if scenario == "good":
        expect(page.locator(".ladder .done")).to_have_count(2, timeout=END_MS)
        page.wait_for_timeout(3000)
        _save(page, "console-live.png", full=True)
    expect(page.locator("h1")).to_contain_text("was", timeout=END_MS)
    page.wait_for_timeout(8000)  # intervals and quantiles come a little later than a verdict
    if scenario == "errors":
        _save(page, "console-errors.png", full=True)
        with page.expect_download() as download:
            page.get_by_role("button", name="Download report").click()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "report.html"
            download.value.save_as(file)
            report = browser.new_context(viewport={"width": 940, "height": 900}).new_page()
            report.goto(file.as_uri())
            _save(report, "report-errors.png", full=True)
        page.get_by_role("button", name="Start rollout").click()
        page.wait_for_timeout(1000)
        _save(page, "console-dialog.png")
    else:
        phone = browser.new_context(viewport={"width": 360, "height": 780}, color_scheme="dark", device_scale_factor=2)
        small = phone.new_page()
        small.goto(page.url)
        expect(small.locator("h1")).to_contain_text("was")
        small.wait_for_timeout(2500)
        _save(small, "console-phone.png")
        page.goto(f"{url}/#/routes")
        page.wait_for_timeout(2500)
        _save(page, "console-routes.png")
    context.close()


def _save(page: Any, name: str, *, full: bool = False) -> None:
    page.screenshot(path=PICTURES / name, full_page=full)
    sys.stdout.write(f"docs/pictures/{name}\n")


if __name__ == "__main__":
    main()

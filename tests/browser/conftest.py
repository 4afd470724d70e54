"""Tests in a real browser: `.ci/browser` installs what they need and runs them.

GATEWAY_BROWSER names the browser's program. Without it nothing here is collected: the README's test command needs none.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

collect_ignore_glob = [] if "GATEWAY_BROWSER" in os.environ else ["*.py"]
# For what a busy machine takes; nothing waits longer than it must.
TIMEOUT_MS = 30_000


@pytest.fixture(scope="session")
def double() -> ModuleType:
    """The control plane in memory of tests/admin."""
    spec = importlib.util.spec_from_file_location(
        "admin_control_double", Path(__file__).parents[1] / "admin" / "control_double.py"
    )
    assert spec is not None and spec.loader is not None
    module = sys.modules["admin_control_double"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def served(double: ModuleType) -> Iterator[Any]:
    with double.Served() as served:
        yield served


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import expect, sync_playwright  # noqa: PLC0415  # it is there where these tests are collected

    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ["GATEWAY_BROWSER"], args=["--no-sandbox"])
        yield browser
        browser.close()


class Tab:
    """A page of its own, and everything that went wrong in it: errors, refused scripts, requests to elsewhere."""

    def __init__(self, browser: Any, base: str, **options: Any) -> None:
        self.base = base
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.context.set_default_timeout(TIMEOUT_MS)
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self._on_console)
        self.page.on("request", self._on_request)

    def open(self, path: str = "") -> Any:
        self.page.goto(f"{self.base}/{path}")
        return self.page

    def _on_console(self, message: Any) -> None:
        # A refused request is the gateway's answer, which the page shows; everything else is a fault of the page.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.faults.append(message.text)

    def _on_request(self, request: Any) -> None:
        if not request.url.startswith((self.base, "blob:", "data:")):
            self.faults.append(f"a request to {request.url}")


@pytest.fixture
def tabs(browser: Any) -> Iterator[Any]:
    """Opens tabs; at the end none of them may have had a fault."""
    opened: list[Tab] = []

    def make(base: str, **options: Any) -> Tab:
        opened.append(Tab(browser, base, **options))
        return opened[-1]

    yield make
    faults = [fault for tab in opened for fault in tab.faults]
    for tab in opened:
        tab.context.close()
    assert faults == []

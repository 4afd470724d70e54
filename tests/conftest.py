"""Rules for every test: nothing is skipped where it counts, and no property has a time limit."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

# The parent is hypothesis's own profile for CI where CI is set. Time limits measure the machine, not the code.
settings.register_profile(
    "house", parent=settings.default, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("house")

# Tests load onnxruntime themselves, and in child processes; it is not to report to its maker from any of them.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

IN_CI = os.environ.get("CI", "").lower() not in {"", "0", "false"}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped test has failed: the real part that it needs must be there."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", _objection(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for whole files that skip themselves, as by `pytest.importorskip`."""
    report = yield
    if IN_CI and report.skipped:
        report.outcome, report.longrepr = "failed", _objection(report)
    return report


def _objection(report: pytest.TestReport | pytest.CollectReport) -> str:
    reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
    return f"{report.nodeid}: skipped, which CI does not allow. {reason}"

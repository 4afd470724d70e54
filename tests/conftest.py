"""Rules for every test: nothing is skipped where it counts, no property has a time limit, and how many run at once.

With `-n auto --dist loadgroup` the tests of a file run one after the other in one process, and several files at a time.
Files that are marked `xdist_group("serial")` take turns as well. The longest begin first, by tests/durations.json.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]

# The parent is hypothesis's own profile for CI where CI is set. Time limits measure the machine, not the code.
settings.register_profile(
    "house", parent=settings.default, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("house")

# Tests load onnxruntime themselves, and in child processes; it is not to report to its maker from any of them.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# The tests start some thousand Python processes. Where bytecode is not to be written beside the source, it is kept
# elsewhere: otherwise each of those processes compiles all that it imports, which takes twice the time.
if sys.dont_write_bytecode:
    sys.dont_write_bytecode = False
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(ROOT / "build" / "bytecode")
    del os.environ["PYTHONDONTWRITEBYTECODE"]

# A run in the background of a script, or under nohup, inherits these as ignored, and so would all that it starts.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number is signal.SIGINT else signal.SIG_DFL)

IN_CI = os.environ.get("CI", "").lower() not in {"", "0", "false"}


def pytest_configure(config: pytest.Config) -> None:
    """Groups keep the order that `pytest_collection_modifyitems` gives them."""
    config.option.loadscopereorder = False


@pytest.hookimpl(optionalhook=True)  # also for those who run without xdist
def pytest_xdist_auto_num_workers() -> int:
    """Two for each core: every other test waits for a process or a clock."""
    return 2 * (os.cpu_count() or 1)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """For the processes of `--dist loadgroup`: a file is a group, and the longest group comes first."""
    if not config.getoption("loadgroup", default=False):
        return
    groups: dict[str, str] = {}  # of each file
    for item in items:
        file = item.nodeid.partition("::")[0]
        mark = item.get_closest_marker("xdist_group")
        groups[file] = mark.args[0] if mark else file
        if mark is None:
            item.add_marker(pytest.mark.xdist_group(file))
    lasted_s: Counter[str] = Counter()
    for file, seconds in json.loads((ROOT / "tests" / "durations.json").read_text(encoding="utf-8")).items():
        lasted_s[groups.get(file, file)] += seconds
    items.sort(key=lambda item: -lasted_s[groups[item.nodeid.partition("::")[0]]])


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

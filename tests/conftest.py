"""Rules for every test: nothing is skipped where it counts, no property has a time limit, and how many run at once.

With `-n auto` the tests of a file run one after the other in one process, and several files at a time. The files of a
group (`GROUPS`) share one process as well. The longest begin first, by tests/durations.json.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

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


# Files that run in one process, one after the other: they make load of their own.
GROUPS = {
    "tests/loadtests/test_chaos.py": "load",
    "tests/loadtests/test_compare.py": "load",
}


def group_of(nodeid: str) -> str:
    """The group of a test: its file, or what the file shares with others."""
    file = nodeid.partition("::")[0]
    return GROUPS.get(file, file)


class Grouped(LoadScopeScheduling):
    """Hands out whole groups, in the order in which the tests were collected."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def pytest_configure(config: pytest.Config) -> None:
    """Groups keep the order that `pytest_collection_modifyitems` gives them."""
    config.option.loadscopereorder = False


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Grouped:
    """By groups. The `loadgroup` of xdist 3.8 does not work: it names them in node ids, and pytest 9.2 shows others."""
    return Grouped(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two for each core: every other test waits for a process or a clock."""
    return 2 * (os.cpu_count() or 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest group comes first; within a group the order stays."""
    lasted_s: Counter[str] = Counter()
    durations = ROOT / "tests" / "durations.json"
    for file, seconds in (json.loads(durations.read_bytes()) if durations.exists() else {}).items():
        lasted_s[group_of(file)] += seconds
    place = {group: i for i, group in enumerate(dict.fromkeys(group_of(item.nodeid) for item in items))}
    items.sort(key=lambda item: (-lasted_s[group_of(item.nodeid)], place[group_of(item.nodeid)]))


def pytest_collection_finish() -> None:
    """What was collected stays: the garbage collector need not walk it again for every test that makes garbage."""
    gc.collect()
    gc.freeze()


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

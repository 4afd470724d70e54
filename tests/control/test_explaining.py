"""Intervals and forecasts come when scipy has been loaded on a thread; nothing waits for that."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import json, sys
import gateway.app.control
from gateway.control.decide import explaining
from gateway.core.analysis import AnalysisSpec, Evidence, fresh_state, judge
from gateway.core.stats import Counts, EpochCounts

spec = AnalysisSpec()
entry = EpochCounts("r", 1, 1_000, Counts(900, {"errors": 9}), Counts(100, {"errors": 2}))
state, analysis = judge(spec, fresh_state(spec), Evidence(1.0, (entry,)))
before = "scipy" in sys.modules
loader = explaining.prepare()
first = explaining.explained(state, analysis, forecast=True)
loader.join()
second = explaining.explained(state, analysis, forecast=True)
print(json.dumps({
    "before": before,
    "first": first.verdict,
    "second": "difference_low" in second.findings[0].details,
    "same": [one.metric for one in first.findings] == [one.metric for one in second.findings],
    "again": explaining.prepare() is None,
}))
"""


def test_an_analysis_is_shown_at_once_and_with_its_intervals_later() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert json.loads(done.stdout) == {
        "before": False,
        "first": "UNDECIDED",
        "second": True,
        "same": True,
        "again": True,
    }

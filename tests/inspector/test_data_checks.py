"""Windows of live data: rows by name, a validator in a process of its own, events of both versions, results kept."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.control.decide.data_results import EACH_MAX, DataResultLog
from gateway.core.predictions.settings import DATA_ROWS, DATA_WINDOWS, DataSettings, RouteWatch
from gateway.inspector.aggregator import Aggregator
from gateway.inspector.data_checks import DataChecks, DataVerdict, DataWindow
from gateway.inspector.flattening import flattened
from gateway.inspector.validators import ValidatorProcess
from gateway.runtime.clock import SystemClock
from gateway.runtime.samples import PREDICTIONS, Sample, Validated

NUMBERS = {"pixels.min": 1, "pixels.max": 6, "pixels.size": 3, "pixels.mean": 3}
OIP = {"inputs": [{"name": "pixels", "shape": [2, 3], "datatype": "FP32", "data": [1.0, 2.0, 6.0, 9, 9, 9]}]}

# Says of a window that rows over 10 are at fault; ends, hangs or talks where the rows say so.
VALIDATOR = """
import json, sys, time
for line in sys.stdin:
    values = [row["request.x"] for row in json.loads(line)["rows"]]
    if "end" in values: sys.exit(3)
    if "hang" in values: time.sleep(60)
    if "talk" in values: print("hello", flush=True); continue
    bad = sum(value > 10 for value in values)
    verdict = {"success": not bad, "failed_rows": bad, "failures": ["x"] * bool(bad), "result": {"bad": bad}}
    print(json.dumps(verdict), flush=True)
"""


@pytest.mark.parametrize(
    ("body", "row"),
    [
        (
            OIP,
            {
                "pixels.0": 1.0,
                "pixels.1": 2.0,
                "pixels.2": 6.0,
                "pixels.min": 1,
                "pixels.max": 6,
                "pixels.size": 3,
                "pixels.mean": 3,
            },
        ),
        ({"outputs": [{"name": "label", "shape": [1], "datatype": "INT64", "data": [4]}]}, {"label": 4}),
        ({"instances": [{"age": 3, "city": "Ulm"}, {"age": 4}]}, {"age": 3, "city": "Ulm"}),
        ({"predictions": [0.5, 0.25]}, {"predictions": 0.5}),
        ({"dataframe_split": {"columns": ["a", "b"], "data": [[1, None]]}}, {"a": 1, "b": None}),
        ({"user": {"id": "u", "tags": ["x"]}}, {"user.id": "u", "user.tags.0": "x"}),
        ([{"a": True}], {"": None}),
        ({"inputs": []}, {"inputs": None}),
        ({"outputs": [{"name": "x", "shape": [0], "data": []}]}, {"x": None}),
        ({"outputs": [{"name": "x", "shape": "?", "data": {"a": 1}}]}, {"x": None}),
    ],
)
def test_bodies_are_columns_by_name(body: Any, row: dict[str, Any]) -> None:
    found = flattened("request", json.dumps(body).encode())
    if isinstance(body, list):
        assert found == {"request.a": True}
    else:
        assert found == {f"request.{name}": value for name, value in row.items()}


@pytest.mark.parametrize("body", [b"", b"\xff\x00", b"<html>", b"[" * 5000, b'{"a": 1'])
def test_what_is_no_json_has_no_columns(body: bytes) -> None:
    assert flattened("request", body) == {}


def test_rows_are_bounded() -> None:
    wide = json.dumps({"a": list(range(5000)), "b": {str(index): index for index in range(5000)}}).encode()
    assert len(flattened("request", wide)) <= 1_000


def sample(value: Any, variant: int = 0, epoch: int = 7) -> Sample:
    request = None if value is None else json.dumps({"x": value}).encode()
    return Sample("r", epoch, 5000, variant, b'{"y": 1}', "application/json", "", "", PREDICTIONS, request=request)


def checks(
    rows: int = 2, command: tuple[str, ...] = (sys.executable, "-c", VALIDATOR), timeout_s: float = 600.0
) -> DataSettings:
    return DataSettings(command, timeout_s, rows)


def test_a_window_has_rows_of_one_version_and_one_epoch() -> None:
    one = DataChecks(checks())
    for value, variant, epoch in ((1, 0, 7), (2, 1, 7), (3, 0, 8), (4, 0, 8), (5, 1, 7)):
        one.take(sample(value, variant, epoch), b'{"y": 1}')
    windows = [one.next(), one.next(), one.next()]
    shown = [(w.of.variant, w.of.epoch, [row["request.x"] for row in w.rows]) for w in windows if w is not None]
    assert shown == [(0, 8, [3, 4]), (1, 7, [2, 5])]
    one.take(sample(None), b"{}")
    assert one.found.lost == {"without_request": 1}


def test_a_busy_validator_sees_both_versions() -> None:
    one = DataChecks(checks(rows=1))
    for _ in range(100):
        one.take(sample(1), b"{}")
    for _ in range(5):
        one.take(sample(1, variant=1), b"{}")
    taken = [window.of.variant for window in iter(one.next, None)]
    assert taken.count(0) == 16 and taken.count(1) == 5 and one.found.lost == {"busy": 84}


def test_verdicts_are_events_of_their_epoch_and_results_go_until_confirmed() -> None:
    aggregator = Aggregator("boot", lambda: 0.5)
    aggregator.watch({"r": RouteWatch(data=checks())})
    for value in (1, 2):
        aggregator.take(sample(value, variant=1), 0.0)
    one = aggregator.checks["r"]
    window = one.next()
    assert window is not None
    # However long it takes: its epoch is not forgotten.
    report = aggregator.report(1000.0)
    aggregator.confirm(report.report.seq)
    aggregator.judged(one, window, DataVerdict(success=False, failed_rows=1, failures=("mean of x",)), 1000.0)
    report = aggregator.report(1000.1)
    (counts,) = report.report.evidence
    assert (counts.epoch, counts.canary.trials, counts.canary.events) == (
        7,
        {DATA_WINDOWS: 1, DATA_ROWS: 2},
        {DATA_WINDOWS: 1, DATA_ROWS: 1},
    )
    assert report.meanings["r"] == {DATA_ROWS: "mean of x", DATA_WINDOWS: "mean of x"}
    assert [result.failures for result in report.data["r"].fresh] == [("mean of x",)]
    assert len(aggregator.report(1000.2).data["r"].fresh) == 1
    aggregator.confirm(report.report.seq)
    assert aggregator.report(1000.3).data["r"].fresh == []


def judged_by_process(
    settings: DataSettings, values: list[Any]
) -> tuple[DataChecks, list[tuple[Any, bool, int | None]]]:
    """What a validator's process says of windows of one row each, until none is left."""
    one = DataChecks(settings)
    verdicts: list[tuple[Any, ...]] = []

    def take(window: DataWindow, verdict: DataVerdict) -> None:
        one.judged(window, verdict)
        verdicts.append((window.rows[0]["request.x"], verdict.success, verdict.failed_rows))

    async def main() -> None:
        for value in values:
            one.take(sample(value), b"{}")
        task = asyncio.create_task(ValidatorProcess("r", one, take).run())
        async with asyncio.timeout(600):
            while one.found.judged[0] + one.found.lost.get("validator", 0) < len(values):
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    return one, verdicts


def test_a_validator_that_ends_loses_one_window_and_is_started_again() -> None:
    one, verdicts = judged_by_process(checks(1), [1, 11, "end", 2])
    assert verdicts == [(1, True, 0), (11, False, 1), (2, True, 0)]
    assert one.found.judged == (3, 0) and one.found.failed == (1, 0) and one.found.problem == ""


@pytest.mark.parametrize(
    ("command", "value", "timeout_s", "why"),
    [
        ((sys.executable, "-c", VALIDATOR), "hang", 0.2, "not judged within 0.2 s"),
        ((sys.executable, "-c", VALIDATOR), "talk", 600.0, "no verdict"),
        (("/nonexistent/validator",), 1, 600.0, "cannot be run: No such file or directory"),
        (("/bin/true",), 1, 600.0, "ended without an answer"),
    ],
)
def test_a_validator_that_fails_is_a_problem_with_its_reason(
    command: tuple[str, ...], value: Any, timeout_s: float, why: str
) -> None:
    one, verdicts = judged_by_process(checks(1, command, timeout_s), [value])
    assert verdicts == [] and why in one.found.problem and one.found.lost == {"validator": 1}


def test_results_are_kept_with_their_rollout(tmp_path: Path) -> None:
    async def main() -> None:
        log = DataResultLog(tmp_path, SystemClock())
        many = [Validated(index, 7, index % 2, index % 3 == 0, (), f'{{"n": {index}}}') for index in range(100)]
        for one in many:
            log.take("digits-1", [one])
        while log.writing:
            await asyncio.sleep(0.01)

    asyncio.run(main())
    found = DataResultLog(tmp_path, SystemClock()).results("digits-1").results
    assert len(found) == 4 * EACH_MAX and found[-1].result == {"n": 99}
    assert DataResultLog(tmp_path, SystemClock()).results("unknown").results == ()

"""The gateway's own access log as a recording: the same decisions as from counts, and one line for each error."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.stats.counts import Counts, merge
from gateway.core.stats.outcomes import NAMES
from gateway.core.traffic.table import Route
from gateway.replay.readers import open_recording
from gateway.replay.recording import RecordingError
from gateway.runtime.settings import AccessLogSettings
from tests.support.backend import Backend, answer
from tests.support.worker import RunningWorker, eventually, table

Run = Callable[..., Result]
BEGAN_S = 1_790_000_000.0


def line(at_s: float, **changes: Any) -> dict[str, Any]:
    """A line of a request that ended ``at_s`` after the beginning."""
    ts = datetime.fromtimestamp(BEGAN_S + at_s, UTC).isoformat(timespec="milliseconds")
    usual = {"ts": ts, "status": 200, "route": "r", "assigned": "stable", "variant": "stable", "epoch": 1}
    return usual | {"weight_percent": 10.0, "counted": "ok", "counted_ms": 12.5, "sampled": True} | changes


def text(*lines: dict[str, Any]) -> str:
    return "".join(json.dumps(one) + "\n" for one in lines)


def traffic(seed: int, seconds: int, stable: float, canary: float, percent: float = 20.0) -> Iterator[dict[str, Any]]:
    rng = random.Random(seed)
    for i in range(seconds * 48):
        arm = "canary" if rng.random() < percent / 100 else "stable"
        failed = rng.random() < (canary if arm == "canary" else stable)
        kind = "errors" if failed else "ok"
        yield line(i / 48, assigned=arm, counted=kind, weight_percent=percent, counted_ms=rng.uniform(5, 9))


def test_a_failing_canary_is_rolled_back_from_its_log(replay: Run) -> None:
    result = replay(text(*traffic(1, 120, 0.002, 0.2)), "--json", name="access.log")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["outcomes"][0]["decision"]["kind"] == "rollback"
    assert found["outcomes"][0]["after_s"] < 60
    assert found["recording"]["weights_recorded"] is True
    assert set(found["judged"]) == {*NAMES, "latency"}


def test_it_says_the_same_as_the_counts_of_its_intervals(replay: Run, tmp_path: Path) -> None:
    log = list(traffic(2, 60, 0.01, 0.05))
    others = [name for name in NAMES if name != "errors"]
    rows = [f"at_s,variant,requests,errors,{','.join(others)},weight_percent,latency_ms"]
    for quarter in range(4 * 60):
        for arm in ("stable", "canary"):
            here = [one for one in log[quarter * 12 : quarter * 12 + 12] if one["assigned"] == arm]
            errors = sum(one["counted"] == "errors" for one in here)
            latency = ";".join(f"{one['counted_ms']:.10f}:1" for one in here)
            rows.append(f"{(quarter + 1) / 4},{arm},{len(here)},{errors},{'0,' * len(others)}20,{latency}")
    by_log = json.loads(replay(text(*log), "--json", name="access.log").stdout)
    by_csv = json.loads(replay("\n".join(rows) + "\n", "--json").stdout)
    assert by_log["recording"] == by_csv["recording"]
    decided = [[one for one in found["outcomes"] if one["rule"] == "gateway"] for found in (by_log, by_csv)]
    assert decided[0][0]["decision"]["kind"] == decided[1][0]["decision"]["kind"]
    assert [one["after_s"] for one in decided[0]] == [one["after_s"] for one in decided[1]]


def test_what_is_no_evidence_is_left_out_and_weights_are_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(
        text(
            line(0.1),
            line(0.2, assigned="canary", counted="errors"),
            line(0.3, counted=None, counted_ms=None),
            line(0.2, counted="errors", sampled=False),
            line(0.2, weight_percent=50.0, assigned="canary", counted="overload"),
            line(0.6, counted="client_errors"),
            {"ts": line(0.7)["ts"], "status": 400, "fault": "bad_request", "extra": {"host": "x"}},
            line(9.0, assigned="canary"),
            line(1.0),
        )
    )
    found = list(open_recording(path).intervals())
    assert [(one.since_s, one.at_s, one.weight_bp) for one in found] == [
        (0.0, 0.125, 1000),
        (0.125, 0.25, 5000),
        (0.5, 0.75, 1000),
        (1.0, 1.25, 1000),
        (9.0, 9.25, 1000),
    ]
    stable, canary = merge(one.stable for one in found), merge(one.canary for one in found)
    assert (stable.requests, stable.of("errors"), stable.of("client_errors")) == (3, 0, 1)
    assert (canary.requests, canary.of("errors"), canary.of("overload")) == (3, 1, 1)


def test_lines_of_several_workers_may_be_a_little_out_of_order(tmp_path: Path) -> None:
    log = list(traffic(3, 40, 0.01, 0.05))
    rng = random.Random(3)
    shuffled = sorted(log, key=lambda one: datetime.fromisoformat(one["ts"]).timestamp() + rng.uniform(0, 4))
    assert shuffled != log
    recordings = []
    for name, lines in (("sorted", log), ("shuffled", shuffled)):
        (tmp_path / name).write_text(text(*lines))
        recordings.append(list(open_recording(tmp_path / name).intervals()))
    assert recordings[0] == recordings[1]


@pytest.mark.parametrize(
    ("content", "place", "says"),
    [
        ('{"ts": 1}\n', "1", "this line is not one of an access log: Expected `str`, got `int`"),
        ("{}\n", "1", "missing required field `ts`"),
        ("{\n", "1", "this line is not one of an access log"),
        ("[]\n" + text(line(1)), "1", "invalid header"),
        (text(line(1)) + "[]\n" * 9, "6", "this line is not one of an access log"),
        (text(line(1, ts="noon")), "1: ts", "'noon' is not a time with a time zone; write one as 2026-"),
        (text(line(1, ts="2026-01-31T12:00:00")), "1: ts", "is not a time with a time zone"),
        (text(line(1, counted="bad")), "1: counted", "'bad' is not an outcome class"),
        (text(line(1, assigned="blue")), "1: assigned", "'blue' in a line that was counted"),
        (text(line(1, weight_percent=101)), "1: weight_percent", "is not a canary share"),
        (text(line(1, counted_ms=-1)), "1: counted_ms", "-1.0 is not a latency"),
        (text(line(1, counted_ms=None)), "1: counted_ms", "null is not a latency"),
        (
            text(line(1), line(1, route="q")),
            "2: route",
            "the log holds the routes 'r' and 'q'; choose one with --route",
        ),
        (text(line(9000), line(1)), "2: ts", "is more than 3600 s before a line above it; sort the lines by ts"),
        (text(line(1, counted=None)), "", "no line is evidence; log a route with a canary"),
        ('{"ts": "' + "x" * 2_000_000 + '"}', "1", "longer than 1048576 bytes"),
    ],
)
def test_an_error_is_one_line_with_its_place_and_a_hint(replay: Run, content: str, place: str, says: str) -> None:
    result = replay(content, name="access.log")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"access.log:{place}: " if place else "access.log: "), result.stderr[:300]
    assert says in result.stderr and result.stderr.count("\n") == 1 and len(result.stderr) < 500


def test_a_route_is_chosen_without_a_configuration(replay: Run) -> None:
    log = text(*(one | {"route": route} for one in traffic(4, 20, 0.01, 0.01) for route in ("r", "q")))
    assert replay(log, name="access.log").exit_code == 2
    assert replay(log, "--route", "q", name="access.log").exit_code == 0
    missing = replay(log, "--route", "other", name="access.log")
    assert missing.exit_code == 2 and "no line of route 'other' is evidence" in missing.stderr


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.builds(
                lambda at, **k: json.dumps(line(at, **k)).encode(),
                st.floats(0, 50),
                weight_percent=st.sampled_from([0, 10.0, 100]),
            ),
        )
    )
)
def test_any_bytes_give_intervals_or_a_recording_error(lines: list[bytes]) -> None:
    import tempfile  # noqa: PLC0415  # hypothesis and tmp_path do not go together

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        path.write_bytes(b"\n".join([b'{"ts":"2026-01-01T00:00:00Z"}', *lines]))
        try:
            found = list(open_recording(path).intervals())
        except RecordingError as error:
            assert "\n" not in str(error)
            return
    assert found and all(a.at_s <= b.since_s and a.at_s < b.at_s for a, b in itertools.pairwise(found))


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_log_that_the_gateway_wrote_holds_just_what_it_counted(tmp_path: Path, anyio_backend: str) -> None:
    path = tmp_path / "access.log"
    route = Route("r", "/", stable="a", canary="b", weight_bp=3_000, forced_header="x-v")
    async with Backend() as a, Backend(answer(500)) as b:
        log = AccessLogSettings(path=str(path))
        async with RunningWorker(table(route, a=a.port, b=b.port), access_log=log) as w:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{w.port}") as client:
                for i in range(200):
                    await client.get("/", headers={"x-v": "canary"} if i % 10 == 0 else {})
            await eventually(lambda: path.exists() and len(path.read_bytes().splitlines()) == 200, "all are logged")
            await eventually(lambda: sum(w.counts()[::2]) == 180, "all are counted")
            counted = w.evidence()
    found = list(open_recording(path).intervals())
    for arm in ("stable", "canary"):
        ours = merge(getattr(one, arm) for one in found)
        theirs: Counts = merge(getattr(one, arm) for one in counted)
        assert (ours.requests, ours.of("errors")) == (theirs.requests, theirs.of("errors"))
        assert ours.latency == theirs.latency
    assert {one.weight_bp for one in found} == {3_000}

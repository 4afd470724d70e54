"""Whatever a recording holds: an answer, or one line that says where the error is and how to fix it."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.replay.intervals import RecordedInterval
from gateway.replay.readers import open_recording
from gateway.replay.recording import RecordingError

Run = Callable[..., Result]
HEAD = "at_s,variant,requests,errors"
GOOD = f"{HEAD}\n1,stable,90,1\n1,canary,10,0\n2,canary,10,0\n2,stable,90,0\n"


def rows(*lines: str, head: str = HEAD) -> str:
    return "\n".join([head, *lines]) + "\n"


@pytest.mark.parametrize(
    ("content", "place", "says"),
    [
        ("", "1", "the file is empty; begin the file with a header"),
        ("\n\n", "1", "the file is empty"),
        (rows(), "1", "nothing follows the header; add two rows"),
        ("1,stable,90,1\n1,canary,10,0\n", "1", "invalid header"),
        ("at_s,variant,requests\n", "1: errors", "this column is missing"),
        (rows(head=HEAD + ",eror"), "1: 'eror'", "unknown column; the columns are at_s,"),
        (rows(head=HEAD + ",errors"), "1: errors", "this column occurs twice"),
        (rows("1,stable,90"), "2", "3 cells under 4 columns"),
        (rows("1,stable,90,1,1"), "2", "5 cells under 4 columns"),
        (rows("1,stable,-9,1"), "2: requests", "'-9' is not a count; write a whole number"),
        (rows("1,stable,9.5,1"), "2: requests", "'9.5' is not a count"),
        (rows("1,stable,9,nan"), "2: errors", "'nan' is not a count"),
        (rows("1,stable,9,"), "2: errors", "'' is not a count"),
        (rows("1,stable,9,²"), "2: errors", "is not a count"),
        (rows("1,stable,9999999999999,0"), "2: requests", "is over 1000000000000"),
        (rows("1,stable,10,11"), "2: errors", "11 of 10 requests; count each request once"),
        (rows("nan,stable,10,1"), "2: at_s", "'nan' is not a finite number"),
        (rows("1e999,stable,10,1"), "2: at_s", "is not a finite number"),
        (rows("1_0,stable,10,1"), "2: at_s", "is not a finite number"),
        (rows("1e300,stable,10,1"), "2: at_s", "is beyond 1e+15"),
        (rows("noon,stable,10,1"), "2: at_s", "'noon' is not a finite number"),
        (rows("1,baseline,10,1"), "2: variant", "'baseline' is not a variant; write stable or canary"),
        (rows("1,stable,10,1"), "2: variant", "the interval 1 has no row of canary"),
        (rows("1,stable,10,1", "2,canary,10,1"), "2: variant", "the interval 1 has no row of canary"),
        (rows("1,canary,10,1", "2,stable,10,1"), "2: variant", "the interval 1 has no row of stable"),
        (rows("1,stable,10,1", "1,stable,10,1"), "3: variant", "two rows of stable"),
        (rows("1,stable,9,1", "1,canary,9,1", "1,canary,9,1"), "4: at_s", "has a third row"),
        (rows("2,stable,9,1", "2,canary,9,1", "1,canary,9,1"), "4: at_s", "time goes backwards, from 2 to 1; sort"),
        (rows("2,stable,9,1", "1,canary,9,1"), "3: at_s", "time goes backwards"),
        (
            rows("1,stable,9,1,5", head=HEAD + ",overload")[:-2] + "10\n",
            "2: overload",
            "10, 11 with the classes before it, of 9 requests",
        ),
        (rows("1,stable,9,1,101", head=HEAD + ",weight_percent"), "2: weight_percent", "is not a canary share"),
        (rows("1,stable,9,1,0.001", head=HEAD + ",weight_percent"), "2: weight_percent", "steps of 0.01"),
        (rows("1,stable,9,1,5", "1,canary,9,1,6", head=HEAD + ",weight_percent"), "3: weight_percent", "rows differ"),
        (rows("1,stable,9,1,12", head=HEAD + ",latency_ms"), "2: latency_ms", "'12' is not ms:count; write pairs"),
        (rows("1,stable,9,1,-1:2", head=HEAD + ",latency_ms"), "2: latency_ms", "'-1' is not a latency"),
        (rows("1,stable,9,1,5:1.5", head=HEAD + ",latency_ms"), "2: latency_ms", "'1.5' is not a count"),
        (rows("1,stable,9,1,5:9;6:1", head=HEAD + ",latency_ms"), "2: latency_ms", "holds 10 of 9 requests"),
        (rows('1,"stable,10,1'), "2", "this line is not CSV: unexpected end of data"),
        (rows('1,"sta"ble,10,1'), "2", "this line is not CSV"),
        (rows("1,stable,10,1").encode() + b"1,can\xffary,10,1\n", "3", "not UTF-8 text; save the file as UTF-8"),
        (b"\xff\xfea\x00t\x00", "1", "not UTF-8 text"),
        (rows("1,stable,10," + "1" * 2_000_000), "2", "longer than 1048576 bytes"),
        (rows('1,stable,10,"' + "1" * 200_000 + '"'), "2", "field larger than field limit"),
        (rows("1,stable,10,\x00"), "2: errors", "is not a count"),
        (rows("1,stable,10,\x1b[31m"), "2: errors", r"'\x1b[31m' is not a count"),
    ],
)
def test_an_error_is_one_line_with_its_place_and_a_hint(
    replay: Run, content: str | bytes, place: str, says: str
) -> None:
    result = replay(content)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"recording.csv:{place}: "), result.stderr[:300]
    assert says in result.stderr and "; " in result.stderr
    assert result.stderr.count("\n") == 1 and len(result.stderr) < 400 and "\x1b" not in result.stderr


def test_an_error_after_every_decision_is_still_found(replay: Run) -> None:
    lines = [f"{at},{arm},100,{errors}" for at in range(1, 100) for arm, errors in (("stable", 0), ("canary", 90))]
    assert replay(rows(*lines)).exit_code == 0
    result = replay(rows(*lines, "100,stable,10,11"))
    assert result.exit_code == 2 and "recording.csv:200: errors" in result.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--beside", "flagger,spinnaker"], "'spinnaker' is not a rule; the rules are flagger, argo, kayenta, or none"),
        (["--beside", ""], "is not a rule"),
        (["--set", "flagger"], "is not a setting; write one such as flagger.threshold=5"),
        (["--set", "flagger.thresold=1"], "flagger has no parameter 'thresold'; it has interval_s, threshold"),
        (["--set", "flagger.threshold=0"], "Expected `int` >= 1"),
        (["--set", "flagger.threshold=many"], "Expected `int`"),
        (["--set", "kayenta.confidence=1"], "Expected `float` < 1"),
        (["--set", "argo.interval_s=nan"], "cannot be used"),
        (["--set", "argo.interval_s=1e999"], "cannot be used"),
        (["--set", "argo.count=" + "9" * 5000], "cannot be used"),
        (["--set", "argo.interval_s=0"], "Expected `float` >= 0.001"),
        (["--alpha", "0.6"], "--alpha"),
        (["--alpha", "nan"], "alpha_rollback must be from 1e-12 to 0.5, not nan"),
        (["--alpha-promote", "0"], "--alpha-promote"),
        (["--route", "model"], "give the file with --config"),
        (["--config", "nowhere.yaml"], "no such file"),
    ],
)
def test_a_wrong_command_line_is_2_and_says_why(replay: Run, options: list[str], says: str) -> None:
    result = replay(GOOD, *options)
    assert (result.exit_code, result.stdout) == (2, "") and says in result.stderr


def test_what_is_no_file_is_2(replay: Run, tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="no such file"):
        open_recording(tmp_path / "nowhere.csv")
    with pytest.raises(RecordingError, match="not a regular file"):
        open_recording(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(RecordingError, match="save the recording to a file"):
        open_recording(tmp_path / "fifo")


def test_forms_that_spreadsheets_write_are_read(replay: Run) -> None:
    plain = replay(GOOD, "--json")
    assert plain.exit_code == 0
    quoted = GOOD.replace("stable", '"stable"').replace("\n", "\r\n\r\n").replace(",", ", ").replace(', "', ',"')
    assert replay(b"\xef\xbb\xbf" + quoted.encode(), "--json").stdout == plain.stdout


CELLS = st.sampled_from(["1", "2", "3", "0", "-1", "nan", "1e9", "stable", "canary", "5:1;7:2", "", '"', "é", "999"])
LINES = st.lists(CELLS, min_size=1, max_size=6).map(",".join)
TEXTS = st.lists(LINES, max_size=8).map(lambda lines: "\n".join([HEAD, *lines]).encode())


@given(st.one_of(st.binary(max_size=200), TEXTS, TEXTS.flatmap(lambda t: st.binary(max_size=20).map(lambda b: t + b))))
@example(GOOD.encode())
@example(rows("1e15,stable,1,1", "1e15,canary,1,1", "1.1e15,stable,1,1").encode())
@settings(max_examples=150)
def test_any_bytes_give_intervals_or_a_recording_error(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.csv"
        path.write_bytes(data)
        found: list[RecordedInterval] = []
        try:
            found.extend(open_recording(path).intervals())
        except RecordingError as error:
            assert "\n" not in str(error) and str(error).startswith(str(path))
            return
    assert found
    for interval in found:
        assert interval.since_s <= interval.at_s and 0 <= interval.weight_bp <= 10_000
        for counts in (interval.stable, interval.canary):
            assert 0 <= counts.of("errors") <= counts.requests and sum(counts.latency.values()) <= counts.requests
    assert all(a.at_s < b.at_s for a, b in itertools.pairwise(found))

"""Recordings as they come: torn, compressed, put together, with a clock that was set, without weights, of two versions.

All of it is read, and said; nothing of it is judged for what it is not.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from gateway.core.stats.counts import merge
from gateway.replay.readers import open_recording
from tests.replay import traffic
from tests.replay.test_log import line, text
from tests.replay.test_log import traffic as logged

Run = Callable[..., Result]
HEAD = "at_s,variant,requests,errors"
SEED = 20_261


def rows(intervals: int, canary_errors: int = 5, *, head: str = HEAD, shift_s: float = 0.0) -> str:
    """Interval after interval of 10 s, 90 requests of stable and 10 of the canary."""
    both = (("stable", 90, 0), ("canary", 10, canary_errors))
    lines = [f"{10 * n + 10 + shift_s:g},{arm},{n_},{bad}" for n in range(intervals) for arm, n_, bad in both]
    return "\n".join([head, *lines]) + "\n"


def found(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    body: dict[str, Any] = json.loads(result.stdout)
    return body


def verdict(body: dict[str, Any]) -> str:
    kind: str = body["outcomes"][0]["decision"]["kind"]
    return kind


def single(weights: bool = False) -> Iterator[str]:
    """One request in each interval; the canary fails all of its 573."""
    rng = random.Random(SEED)
    yield HEAD
    canaries = at_s = 0
    while canaries < 573:
        at_s += 1
        ours = rng.random() < 0.1
        canaries += ours
        yield f"{at_s},stable,{1 - ours},0"
        yield f"{at_s},canary,{int(ours)},{int(ours)}"


def test_one_request_in_an_interval_and_no_weights_is_judged_by_the_inferred_split(replay: Run) -> None:
    content = "\n".join(single()) + "\n"
    body = found(replay(content, "--beside", "none", "--json"))
    assert body["recording"]["canary_errors"] == 573 and body["recording"]["weights_recorded"] is False
    assert verdict(body) == "rollback", body["outcomes"]
    (weight,) = [entry["text"] for entry in body["timeline"] if entry["what"] == "weight"]
    assert float(weight.removesuffix(" %")) == pytest.approx(10, abs=2)
    assert "weights: not recorded, inferred from each version's share of requests" in replay(content).stdout


def test_a_log_without_weights_is_judged_by_the_inferred_split(replay: Run) -> None:
    log = [one | {"weight_percent": None} for one in logged(1, 60, 0.002, 0.3)]
    body = found(replay(text(*log), "--json", name="access.log"))
    assert verdict(body) == "rollback" and body["recording"]["weights_recorded"] is False


def test_steps_without_weights_are_inferred_one_by_one(tmp_path: Path) -> None:
    arm = traffic.Arm(0.0)
    trace = traffic.recorded(SEED, arm, arm, traffic.ramp((0, 0), (100, 5), (200, 25), (300, 100)), duration_s=400)
    path = tmp_path / "steps.csv"
    path.write_text("\n".join(row.rpartition(",")[0] for row in trace) + "\n")
    weights = [one.weight_bp for one in open_recording(path).intervals()]
    assert weights[0] == 0 and weights[-1] == 10_000
    assert {round(bp / 100) for bp in weights} <= {0, 5, 25, 26, 24, 100}, set(weights)


def test_requests_outside_of_an_experiment_are_said(replay: Run) -> None:
    content = HEAD + ",weight_percent\n" + "".join(f"{n},stable,0,0,100\n{n},canary,611,1,100\n" for n in (1, 2))
    body = found(replay(content, "--json"))
    reason = body["outcomes"][0]["decision"]["reason"]
    assert "1,222 canary requests were answered, all of them forced or at a weight of 0 or 100 %" in reason, reason


@pytest.mark.parametrize("weights", [True, False])
def test_a_recording_without_requests_of_stable_says_that_it_is_stable_who_has_none(replay: Run, weights: bool) -> None:
    head = "at_s,variant,requests,errors" + ",weight_percent" * weights
    rows = [f"{at_s},{arm}{',10' * weights}" for at_s in range(10, 110, 10) for arm in ("stable,0,0", "canary,10,10")]
    shown = replay("\n".join([head, *rows]) + "\n").stdout
    assert "gateway: stable has no requests in the recording: " in shown, shown
    few = ["--set", "kayenta.interval_s=50", "--set", "kayenta.step_s=10"]
    shown = replay("\n".join([head, *rows]) + "\n", "--beside", "kayenta", *few).stdout
    assert "kayenta: the last run had 0 points of stable and 10 of the canary, 50 are required" in shown, shown


def two_versions(good_first: bool = False) -> list[dict[str, Any]]:
    """v2 fails and goes; then v3, which is well. Lines of two workers mix where one follows the other."""
    bad = [one | {"stable": "v1", "canary": "v2"} for one in logged(1, 60, 0.002, 0.3)]
    well = [one | {"stable": "v1", "canary": "v3"} for one in logged(2, 120, 0.002, 0.002)]
    first, second = (well, bad) if good_first else (bad, well)
    moved = [one | {"ts": line(121 + n / 48)["ts"]} for n, one in enumerate(second)]
    return [*first[:-5], *moved[:5], *first[-5:], *moved[5:]] if good_first else [*first, *moved]


@pytest.mark.parametrize("good_first", [False, True])
def test_two_versions_in_one_log_are_judged_apart(replay: Run, good_first: bool) -> None:
    log = two_versions(good_first)
    body = found(replay(text(*log), "--json", name="access.log"))
    kinds = {one["versions"]: verdict(one) for one in body["split"]}
    assert set(kinds) == {"canary 'v2' against stable 'v1'", "canary 'v3' against stable 'v1'"}
    assert kinds["canary 'v2' against stable 'v1'"] == "rollback"
    assert kinds["canary 'v3' against stable 'v1'"] != "rollback"
    shown = replay(text(*log), name="access.log").stdout
    assert "access.log holds 2 trials, each is judged by itself: canary 'v" in shown.splitlines()[0]


def test_a_version_that_is_tried_again_is_another_trial_and_no_canary_is_none(replay: Run) -> None:
    log = [
        *(one | {"stable": "v1", "canary": "v2"} for one in logged(1, 30, 0.0, 0.0)),
        *(one | {"stable": "v1", "canary": None, "ts": line(60 + n)["ts"]} for n, one in enumerate(logged(2, 1, 0, 0))),
        *(
            one | {"stable": "v1", "canary": "v3", "ts": line(200 + n)["ts"]}
            for n, one in enumerate(logged(3, 2, 0, 0))
        ),
        *(
            one | {"stable": "v1", "canary": "v2", "ts": line(400 + n)["ts"]}
            for n, one in enumerate(logged(4, 2, 0, 0))
        ),
    ]
    body = found(replay(text(*log), "--json", name="access.log"))
    assert [one["versions"][:11] for one in body["split"]] == ["canary 'v2'", "canary 'v3'", "canary 'v2'"]
    assert all("48 requests at a time without a canary, left out" in " ".join(one["notes"]) for one in body["split"])


# torn, compressed, put together


@pytest.mark.parametrize("tail", ["210,sta", "210,stable,90,0\n210,canary,10", "210,stable,90,0\n210,canary,1,"])
def test_a_torn_end_of_counts_is_skipped_and_said(replay: Run, tail: str) -> None:
    whole, torn = found(replay(rows(20), "--json")), found(replay(rows(20) + tail, "--json"))
    assert torn["outcomes"] == whole["outcomes"] and torn["recording"] == whole["recording"]
    assert "1 incomplete last line, skipped, first at line 4" in torn["notes"][0], torn["notes"]


def test_a_last_interval_of_one_row_is_skipped_and_said(replay: Run) -> None:
    body = found(replay(rows(20) + "210,stable,90,0\n", "--json"))
    assert body["recording"]["intervals"] == 20
    assert body["notes"] == ["1 last interval with only one row, skipped, first at line 42"]


@pytest.mark.parametrize(
    ("noise", "said"),
    [
        (b'{"ts": "2026-', "incomplete last line, skipped, first at line"),
        (b"{}\n", "lines that are not of an access log, skipped, first at line"),
        (b"\xff\xfe\x00\n", "lines that are not of an access log"),
        (b'{"ts": "' + b"x" * 10_000_000 + b'"}\n', "longer than 1048576 bytes"),
        (HEAD.encode() + b"\n1,stable,1,1\n", "2 lines that are not of an access log"),
        (b"\n\r\n  \n", ""),
    ],
)
def test_noise_in_a_log_is_skipped_and_said(replay: Run, noise: bytes, said: str) -> None:
    log = text(*logged(1, 60, 0.002, 0.3)).encode()
    whole, noisy = (found(replay(data, "--json", name="access.log")) for data in (log, log + noise))
    assert noisy["outcomes"] == whole["outcomes"]
    assert said in " ".join(noisy["notes"]) and bool(noisy["notes"]) == bool(said)
    assert all(note.isprintable() for note in noisy["notes"])


@pytest.mark.parametrize("name", ["recording.csv.gz", "access.log.gz"])
def test_gzip_is_read_of_one_or_several_members_and_torn(replay: Run, name: str) -> None:
    plain = (rows(20) if "csv" in name else text(*logged(1, 60, 0.002, 0.3))).encode()
    cut = plain.index(b"\n", len(plain) // 2) + 1
    whole = found(replay(plain, "--json", name=name.removesuffix(".gz")))
    for packed in (gzip.compress(plain), gzip.compress(plain[:cut]) + gzip.compress(plain[cut:])):
        body = found(replay(packed, "--json", name=name))
        assert body["outcomes"] == whole["outcomes"] and not body["notes"]
    torn = found(replay(gzip.compress(plain)[:-20], "--json", name=name))
    assert "gzip stream broken or truncated" in torn["notes"][0]
    assert 0 < torn["recording"]["intervals"] <= whole["recording"]["intervals"]


def test_other_archives_and_an_empty_gzip_say_so(replay: Run) -> None:
    for data, says in (
        (b"\x28\xb5\x2f\xfd" + bytes(20), "this is a zstd file; unpack it first, or use gzip"),
        (b"PK\x03\x04" + bytes(20), "this is a zip file"),
        (gzip.compress(b""), "the file is empty"),
        (b"\x1f\x8b", "the file is empty"),
    ):
        result = replay(data)
        assert result.exit_code == 2 and says in result.stderr and result.stderr.count("\n") == 1, result.stderr


def test_files_put_together_are_read(replay: Run) -> None:
    parts = rows(10).splitlines(), rows(10, shift_s=100.0).splitlines()
    body = found(replay("\n".join([*parts[0], *parts[1]]) + "\n", "--json"))
    assert body["recording"]["intervals"] == 20
    assert body["notes"] == ["1 repeated header, skipped, first at line 22"]


@pytest.mark.parametrize("count", ["90.0", "90.", "90.000"])
def test_whole_numbers_that_are_written_as_floats_are_counts(replay: Run, count: str) -> None:
    plain = replay(rows(20), "--json").stdout
    assert replay(rows(20).replace(",90,", f",{count},"), "--json").stdout == plain


def test_columns_in_another_order_and_a_mark_and_crlf_are_the_same(replay: Run) -> None:
    plain = rows(20)
    turned = "\r\n".join(",".join(reversed(row.split(","))) for row in plain.splitlines())
    assert replay(b"\xef\xbb\xbf" + turned.encode(), "--json").stdout == replay(plain, "--json").stdout


# clocks


def test_a_clock_that_is_set_back_moves_on(replay: Run) -> None:
    log = list(logged(1, 60, 0.002, 0.3))
    set_back = [one if n < 1000 else one | {"ts": line(n / 48 - 30)["ts"]} for n, one in enumerate(log)]
    body = found(replay(text(*set_back), "--json", name="access.log"))
    assert verdict(body) == "rollback"
    assert body["recording"]["stable_requests"] + body["recording"]["canary_requests"] == len(log)
    assert body["notes"] == ["1 step of the clock back, by 30 s: later times were shifted, first at line 1001"]


def test_a_clock_that_is_set_back_in_counts_moves_on(replay: Run) -> None:
    body = found(replay(rows(20) + rows(20, shift_s=170.0).partition("\n")[2], "--json"))
    assert body["recording"]["intervals"] == 40
    assert body["recording"]["at_s"] - body["recording"]["since_s"] == pytest.approx(400)
    assert body["notes"] == ["1 step of the clock back, by 30 s: later times were shifted, first at line 42"]


# what was not looked at


def test_what_came_after_the_decision_is_said(replay: Run) -> None:
    result = replay(rows(200, canary_errors=9), "--beside", "none")
    assert " requests of the " in result.stdout and "s after that were not analysed" in result.stdout
    undecided = replay(rows(2, canary_errors=0), "--beside", "none")
    assert "not analysed" not in undecided.stdout


def test_events_of_the_configuration_are_named_as_not_recorded(replay: Run, tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(
        """
backends: {a: {endpoints: ["http://127.0.0.1:1"]}, b: {endpoints: ["http://127.0.0.1:2"]}}
routes:
  - {name: r, match: {path_prefix: /}, stable: a, canary: b,
     analysis: {events: [{name: fallback, header: x-fallback, mode: decide}]}}
"""
    )
    body = found(replay(rows(20), "--config", str(config), "--json"))
    assert "fallback" in body["not_recorded"]


def test_no_request_is_lost_or_counted_twice_whatever_is_adjusted(tmp_path: Path) -> None:
    log = two_versions()
    path = tmp_path / "log"
    path.write_text(text(*log))
    for one in open_recording(path).versions():
        counts = [merge((interval.stable, interval.canary)) for interval in one.intervals()]
        name = "v2" if "v2" in one.title else "v3"
        assert sum(c.requests for c in counts) == sum(entry["canary"] == name for entry in log)


def dated(content: str) -> str:
    """Moments in the place of seconds."""
    lines = [row.split(",", 1) for row in content.splitlines()]
    moments = [f"2026-01-31T{int(at) // 3600:02}:{int(at) // 60 % 60:02}:{int(at) % 60:02}Z" for at, _ in lines[1:]]
    return "\n".join([content.splitlines()[0], *(f"{a},{b[1]}" for a, b in zip(moments, lines[1:], strict=True))])


@pytest.mark.parametrize(
    "written",
    [
        lambda content: content.replace(",", ";"),
        lambda content: content.replace(",", "\t"),
        lambda content: "\n".join(";".join(f'"{cell}"' for cell in row.split(",")) for row in content.splitlines()),
        lambda content: content.replace("at_s,variant", "At_S,Variant").replace("canary", "Canary"),
        dated,
    ],
    ids=["semicolons", "tabs", "quotes", "capitals", "dates"],
)
def test_tables_as_other_programs_write_them_are_read(replay: Run, written: Callable[[str], str]) -> None:
    plain = found(replay(rows(60), "--json", "--beside", "none"))
    assert verdict(plain) == "rollback"
    other = found(replay(written(rows(60)), "--json", "--beside", "none"))
    began_s = other["recording"]["since_s"]
    assert other["recording"] | {"since_s": 0.0, "at_s": other["recording"]["at_s"] - began_s} == plain["recording"]
    assert verdict(other) == verdict(plain)


def test_what_the_canary_let_through_is_of_every_class(replay: Run) -> None:
    """Of a canary that was rolled back for 404s it is no good to say that it let nothing bad through."""
    both = "\n".join(f"{n},stable,90,0,0\n{n},canary,10,1,4" for n in range(1, 61))
    outcome = found(replay(f"{HEAD},not_found\n{both}\n", "--json", "--beside", "none"))["outcomes"][0]
    assert outcome["decision"]["kind"] == "rollback"
    assert outcome["canary_failures"] == 5 * outcome["canary_errors"] == outcome["canary_requests"] // 2

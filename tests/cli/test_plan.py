"""``gateway plan``: what it prints, what it answers to machines, how it ends."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config" / "gateway.yaml"
ASKED = ("plan", "--rate", "50", "--base-rate", "0.01")
NEED = {"canary_requests", "time_s"}
ESTIMATE = {"limit", "engine"}
JOURNEY = {"outcome", "at_s", "step", "entered_s", "proven_at_s", "proven_in_step"}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command line in this process: it starts nothing, and there are many."""

    def run(*arguments: str, **env: str) -> tuple[int, str, str]:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def of(run: Any, *arguments: str) -> tuple[int, Any]:
    status, out, err = run(*ASKED, "--json", *arguments)
    assert err == ""
    return status, json.loads(out)


def test_json_has_every_number_under_its_name(run: Any) -> None:
    status, body = of(run, "--deadline", "10m", "--regression", "5x")
    assert status == 3 and body["decidable"] is False
    assert set(body) == {
        "decidable", "r_detect", "r_prove", "question", "steps", "limit", "engine", "problems", "proposals",
        "bake", "reach", "moments",
    }  # fmt: skip
    assert body["question"]["steps"][0] == {"percent": 1.0, "min_time_s": 60.0, "min_requests": 100}
    assert [step["percent"] for step in body["steps"]] == [1, 5, 25, 50]
    for step in body["steps"]:
        assert set(step) == {
            "percent", "floor_s", "detect", "prove", "latency_convict", "latency_prove",
            "detects_within_floor", "proves_within_floor",
        }  # fmt: skip
        assert all(set(step[name]) == ESTIMATE and set(step[name]["engine"]) == NEED for name in ("detect", "prove"))
        assert set(step["latency_prove"]["engine"]) == {"slices", "time_s"}
    assert all(set(body[steps][canary]) == JOURNEY for steps in ESTIMATE for canary in ("healthy", "regressed"))
    assert body["problems"] == ["promotion_too_late"]
    for proposal in body["proposals"]:
        assert set(proposal) == {
            "changes", "steps", "margin_ratio", "margin_delta", "deadline_s", "ladder", "options",
        }  # fmt: skip


def test_a_plan_that_can_be_decided_is_0(run: Any) -> None:
    status, body = of(run, "--regression", "5x", "--deadline", "2h")
    assert (status, body["decidable"], body["problems"], body["proposals"]) == (0, True, [], [])


def test_what_never_happens_is_null_in_json(run: Any) -> None:
    status, body = of(run, "--margin-ratio", "1", "--margin-delta", "0")
    assert status == 3 and body["problems"][0] == "promotion_never"
    assert body["engine"]["healthy"]["at_s"] is None


def test_the_options_of_every_proposal_lead_to_a_plan_that_can_be_decided(run: Any) -> None:
    asked = ("--deadline", "10m", "--regression", "5x", "--steps", "1:30s:20,7.5,40")
    _, body = of(run, *asked)
    assert [proposal["changes"] for proposal in body["proposals"]] == [["weights"], ["margin"], ["deadline"]]
    for proposal in body["proposals"]:
        status, again = of(run, *asked, *proposal["options"])
        assert status == 0 and again["engine"] == proposal["ladder"]


def test_the_ways_to_name_a_regression_agree(run: Any) -> None:
    rates = [of(run, "--regression", text)[1]["question"]["regression_rate"] for text in ("3x", "+0.02", "0.03")]
    assert rates == pytest.approx([0.03, 0.03, 0.03])


def test_a_configuration_is_used_and_options_override_it(run: Any, tmp_path: Path) -> None:
    text = CONFIG.read_text(encoding="utf-8").replace("alpha_rollback: 0.01", "alpha_rollback: 0.002")
    text = text.replace(
        "{percent: 1, min_time_s: 60, min_requests: 100,", "{percent: 2, min_time_s: 90, min_requests: 7,"
    )
    config = tmp_path / "gateway.yaml"
    config.write_text(text, encoding="utf-8")
    _, body = of(run, "--config", str(config), "--route", "digits")
    assert body["question"]["spec"]["alpha_rollback"] == 0.002
    assert body["question"]["steps"][0] == {"percent": 2.0, "min_time_s": 90.0, "min_requests": 7}
    changes = ("--alpha", "0.03", "--alpha-promote", "0.1", "--min-time", "2m", "--min-requests", "9", "--no-latency")
    _, body = of(run, "--config", str(config), *changes, "--margin-ratio", "2", "--margin-delta", "0.02")
    spec = body["question"]["spec"]
    assert (spec["alpha_rollback"], spec["alpha_promote"], spec["latency"]["mode"]) == (0.03, 0.1, "advise")
    assert (spec["errors"]["margin_ratio"], spec["errors"]["margin_delta"]) == (2.0, 0.02)
    assert spec["overload"]["margin_ratio"] == 1.5
    assert body["question"]["steps"][0] == {"percent": 2.0, "min_time_s": 120.0, "min_requests": 9}
    assert body["steps"][0]["latency_prove"] is None


def test_a_configuration_of_another_machine_a_bake_and_a_sticky_route(run: Any, tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    backends = "backends: {a: {endpoints: [http://127.0.0.1:1]}, b: {endpoints: [http://127.0.0.1:2]}}"
    route = "  - {name: %s, match: {path_prefix: /%s}, stable: a, canary: b, %s}\n"
    routes = route % ("baked", "baked", "plan: {bake_s: 600}") + route % ("sticky", "sticky", "sticky: {header: X-U}")
    config.write_text(f"admin: {{token_env: GATEWAY_PLAN_TEST_UNSET}}\n{backends}\nroutes:\n{routes}")
    baked, plain = (of(run, *options)[1] for options in (("--config", str(config), "--route", "baked"), ()))
    assert baked["question"]["spec"]["bake_share"] == 0.2
    assert [one["holdout_percent"] for one in baked["bake"]] == [5, 1, 2, 10, 20] and plain["bake"] == []
    said = run(*ASKED, "--config", str(config), "--route", "baked")[1]
    assert "In the bake of 10 min, with 5 % of requests left to stable, the regression" in " ".join(said.split())
    times_s = [body["steps"][0]["detect"]["engine"]["time_s"] for body in (baked, plain)]
    assert times_s[0] > times_s[1]
    # The name of the file is in the text, so where its lines break depends on where the test runs.
    asked = [*ASKED, "--config", str(config), "--route", "sticky"]
    sticky, without = (" ".join(run(*words)[1].split()) for words in (asked, ASKED))
    assert "sessions per second" in sticky and "sessions per second" not in without


def test_without_a_file_the_defaults_of_the_configuration_hold(run: Any, tmp_path: Path) -> None:
    """The example with all defaults written out, but for the predictions that it watches and the defaults do not."""
    lines = CONFIG.read_text(encoding="utf-8").splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if line.startswith("      predictions:"))
    last = next(i for i, line in enumerate(lines) if line.startswith("      labels:"))
    config = tmp_path / "gateway.yaml"
    config.write_text("".join([*lines[:first], *lines[last:]]), encoding="utf-8")
    _, from_options = of(run)
    _, from_file = of(run, "--config", str(config))
    assert from_options == from_file


@pytest.mark.parametrize("more", [("--deadline", "10m"), ("--regression", "1.2x"), ("--margin-ratio", "1"), ()])
def test_people_read_it_in_80_columns(run: Any, more: tuple[str, ...]) -> None:
    status, out, err = run(*ASKED, *more, COLUMNS="80")
    assert status in (0, 3) and err == ""
    assert all(len(line) <= 80 for line in out.splitlines()), out
    assert "…" not in out and "A canary as good as stable" in out and "A canary with the regression" in out
    assert ("OK: this traffic can decide the plan" in out) == (status == 0)
    assert ("WARNING: this plan cannot be decided" in out) == (status == 3)


def test_people_see_what_would_have_to_change(run: Any) -> None:
    status, out, _ = run(*ASKED, "--regression", "3x", "--margin-delta", "0.005", "--steps", "5", "--deadline", "20m")
    reported = re.sub(r"\s+", " ", out)
    assert status == 3
    assert re.search(
        r"margin_delta 0\.005 a healthy canary needs \d+ min starting at 5 %, the deadline is 20 min", reported
    )
    assert re.search(r"With weights \d+ %: promoted after [\d.]+ min", reported)
    assert "--steps=" in reported and "--margin-delta=0.0" in reported and "--deadline=" in reported


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rate", "0"], "more than 0 requests per second, not 0: give"),
        (["--rate", "-5"], "more than 0 requests per second, not -5: give"),
        (["--rate", "many"], "--rate 'many' is not a number: give one such as 50"),
        (["--rate", "nan"], "--rate 'nan' is not a number"),
        (["--base-rate", "1"], "base rate must lie between 0 and 1, not 1: give"),
        (["--base-rate", "0"], "base rate must lie between 0 and 1, not 0: give"),
        (["--regression", "0.5x"], "is not worse than the base rate 0.01: give"),
        (["--regression", "-0.01"], "regression's rate must lie between 0 and 1"),
        (["--regression", "200x"], "regression's rate must lie between 0 and 1"),
        (["--regression", "x"], "is not a number: give one such as 2x, +0.01 or 0.03"),
        (["--steps", "0,5"], "between 0 and 100 %, not 0:"),
        (["--steps", "5,100"], "100 % follows the last step by itself"),
        (["--steps", "5,1"], "put the weights in rising order"),
        (["--steps", "5,"], "--steps '' is not a number: give one such as 1,5,25,50"),
        (["--steps", "0.001"], "steps of 0.01"),
        (["--steps", "5:soon"], "--steps 'soon' is not a time: give"),
        (["--steps", "5:1m:9:9"], "too many parts: give"),
        (["--min-requests", "-1"], "--min-requests '-1' is not a whole number"),
        (["--min-time", "-1"], "--min-time '-1' is not a time"),
        (["--deadline", "0"], "deadline must be more than 0"),
        (["--deadline", "soon"], "--deadline 'soon' is not a time: give"),
        (["--alpha", "2"], "alpha_rollback must be from"),
        (["--alpha-promote", "0"], "alpha_promote must be from"),
        (["--margin-ratio", "0.5"], "margin_ratio must be from 1"),
        (["--margin-delta", "-1"], "margin_delta must be from 0"),
        (["--route", "digits"], "give its file with --config"),
        (["--config", str(CONFIG), "--route", "digit"], "has no route 'digit': give --route, one of digits"),
        (["--config", "/no/such/file.yaml"], "no such file"),
    ],
)
def test_bad_input_is_2_and_one_line_that_says_how_to_fix_it(run: Any, arguments: list[str], says: str) -> None:
    status, out, err = run(*ASKED, *arguments)
    assert (status, out) == (2, "")
    assert says in err and len(err.splitlines()) == 1


def test_what_must_be_given_is_named(run: Any) -> None:
    status, out, err = run("plan", "--rate", "50")
    assert (status, out) == (2, "") and "--base-rate" in err


def test_as_a_process_it_ends_with_its_status() -> None:
    command = [sys.executable, "-m", "gateway", *ASKED, "--deadline", "1s"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (3, "") and "WARNING" in done.stdout


# a running gateway


def test_a_running_gateway_knows_the_traffic_the_failures_and_the_plan_of_a_route(run: Any, api: Any) -> None:
    status, out, err = run("plan", "digits", "--url", api.url)
    assert (status in (0, 3), err) == (True, "")
    said = " ".join(out.split())
    assert "50 requests/s, 1 % of stable's with errors. To be caught: 2 %." in said
    assert "Stable has 12 bad moments an hour, 1.4 s long on average and at most 2.3 s (watched for 60 min)" in said
    assert "As often as stable has them, moments of up to 4.6 s convict nobody" in said
    status, out, err = run("plan", "digits", "--url", api.url, "--json", "--rate", "200", "--base-rate", "0.02")
    body = json.loads(out)
    assert (body["question"]["requests_per_s"], body["question"]["base_rate"]) == (200.0, 0.02)
    assert (body["moments"]["burst_s"], body["moments"]["excused_s"]) == (0.0, 4.6) and body["question"]["weather"][
        "moments"
    ] == 12.0


def test_what_neither_is_given_nor_known_is_asked_for(run: Any, api: Any) -> None:
    said = (
        "how often stable fails with errors is not known: give --base-rate, or the name of a route of a running gateway"
    )
    assert run("plan", "plain", "--url", api.url) == (2, "", f"Error: {said}\n")
    status, _, err = run("plan", "--base-rate", "0.01")
    assert (status, "the route's traffic is not known: give --rate" in err) == (2, True)
    status, _, err = run("plan", "nothing", "--url", api.url)
    assert (status, "no route is named 'nothing'" in err) == (1, True)

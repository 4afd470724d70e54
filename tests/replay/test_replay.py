"""The whole command: the gateway's own decision, the recorded traces, what is printed."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import pytest
from click.testing import Result

from gateway.config.build import plan as plan_of
from gateway.config.routes import MatchConfig, RouteConfig
from gateway.core.analysis import AnalysisSpec, Evidence, Verdict, fresh_state, judge
from gateway.core.rollout import OnDeadline, Plan, Step
from gateway.core.stats.counts import Counts, EpochCounts
from gateway.replay import policy as own
from gateway.replay.intervals import DecisionKind, RecordedInterval
from gateway.replay.policy import EPOCHS_KEPT, Entry, Policy
from gateway.replay.readers import open_recording
from tests.replay import traffic

Run = Callable[..., Result]
ROOT = Path(__file__).parents[2]
GOLDENS = ROOT / "tests" / "golden" / "replay"
TRACES: dict[str, Callable[[], Iterable[str]]] = {
    "good": traffic.good,
    "sparse": traffic.sparse,
    "bursty": traffic.bursty,
}
UPDATE = bool(os.environ.get("UPDATE_GOLDENS"))
PLAN = plan_of(RouteConfig(name="r", match=MatchConfig(path_prefix="/"), stable="s", canary="c"))


def lines(trace: Iterable[str]) -> str:
    return "\n".join(trace) + "\n"


@pytest.mark.parametrize("name", TRACES)
def test_a_recorded_trace_is_replayed_as_its_golden_says(replay: Run, name: str) -> None:
    result = replay(lines(TRACES[name]()), name=f"{name}.csv")
    assert (result.exit_code, result.stderr) == (0, "")
    golden = GOLDENS / f"{name}.txt"
    if UPDATE:
        golden.write_text(result.stdout)
    assert result.stdout == golden.read_text(), f"read the diff; if it is right: UPDATE_GOLDENS=1 pytest {__file__}"


def test_the_document_shows_what_its_example_prints(replay: Run) -> None:
    document = ROOT / "docs" / "replay.md"
    content = (ROOT / "docs" / "examples" / "sparse-errors.csv").read_text()
    assert content == lines(traffic.sparse())
    (Path.cwd() / "docs" / "examples").mkdir(parents=True)
    shown = re.compile(r"(?<=\$ )(gateway replay (docs/examples/\S+)([^\n]*))\n(.*?)(?=```)", re.DOTALL)
    blocks = list(shown.finditer(document.read_text()))
    assert blocks
    for block in blocks:
        result = replay(content, *block[3].split(), name=block[2])
        assert result.exit_code == 0, result.stderr
        if UPDATE:
            document.write_text(document.read_text().replace(block[0], f"{block[1]}\n{result.stdout}"))
        else:
            assert result.stdout == block[4]


def test_sparse_errors_are_caught_by_the_gateway_long_before_the_rules(tmp_path: Path) -> None:
    path = tmp_path / "sparse.csv"
    path.write_text(lines(traffic.sparse()))
    recording = open_recording(path)
    policy = Policy(own.spec_for(AnalysisSpec(), recording.metrics), PLAN)
    assert own.decide(recording.intervals(), policy).kind is DecisionKind.ROLLBACK


# the gateway's own decision


def directly(intervals: Iterable[RecordedInterval], spec: AnalysisSpec) -> list[tuple[float, Verdict]]:
    """The judge's verdicts on the same traffic, its evidence built from nothing but sums for each weight."""
    state, epochs, out = fresh_state(spec), dict[int, EpochCounts](), []
    for interval in intervals:
        epoch = epochs.setdefault(
            interval.weight_bp, EpochCounts("r", 1 + len(epochs), interval.weight_bp, Counts(), Counts())
        )
        for total, part in ((epoch.stable, interval.stable), (epoch.canary, interval.canary)):
            total.requests += part.requests
            total.enter("errors", part.of("errors"))
            for bucket, many in part.latency.items():
                total.latency[bucket] = total.latency.get(bucket, 0) + many
        state, analysis = judge(spec, state, Evidence(interval.at_s, tuple(epochs.values())))
        out.append((interval.at_s, analysis.verdict))
    return out


@pytest.mark.parametrize("name", TRACES)
def test_the_decision_is_the_judges_own(tmp_path: Path, name: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(lines(TRACES[name]()))
    recording = open_recording(path)
    spec = own.spec_for(AnalysisSpec(), recording.metrics)
    # Steps without floors: the first PASS promotes, so that the judge alone decides.
    policy = Policy(spec, Plan((Step(100, min_time_s=0.0, min_requests=0),)))
    decision = own.decide(recording.intervals(), policy)
    verdicts = directly(recording.intervals(), spec)
    decisive = [(at_s, v) for at_s, v in verdicts if v in (Verdict.PASS, Verdict.FAIL)]
    assert decisive and decision.at_s == decisive[0][0]
    assert decision.kind is (DecisionKind.PROMOTE if decisive[0][1] is Verdict.PASS else DecisionKind.ROLLBACK)


def test_a_metric_that_was_not_recorded_does_not_decide() -> None:
    spec = own.spec_for(AnalysisSpec(), frozenset({"errors", "overload"}))
    assert [name for name in own.METRICS if getattr(spec, name).decides] == ["errors", "overload"]


def test_at_the_deadline_the_policy_of_the_plan_acts(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(lines(traffic.good()))
    intervals = list(open_recording(path).intervals())[:4]
    spec = own.spec_for(AnalysisSpec(), frozenset({"errors"}))
    steps = (Step(100, min_time_s=1e6),)
    entries: list[Entry] = []
    held = own.decide(intervals, Policy(spec, Plan(steps, deadline_s=10.0)), entries.append)
    assert held.kind is DecisionKind.HOLD and held.reason.startswith("held, deadline of 10 s reached")
    assert [entry.at_s for entry in entries if entry.what == "rollout"] == [10.0]
    back = own.decide(intervals, Policy(spec, Plan(steps, 10.0, OnDeadline.ROLLBACK)))
    assert (back.kind, back.at_s) == (DecisionKind.ROLLBACK, 10.0)
    assert own.decide(intervals, Policy(spec, Plan(steps))).kind is DecisionKind.UNDECIDED
    assert own.decide([], Policy(spec, Plan(steps))).kind is DecisionKind.UNDECIDED


def test_a_rollback_is_decided_when_it_begins_and_a_closed_gate_holds() -> None:
    spec = own.spec_for(AnalysisSpec(), frozenset({"errors"}))
    dying = [
        RecordedInterval(at_s - 1.0, at_s, 1000, Counts(900, {"errors": 2}), Counts(100, {"errors": 60}))
        for at_s in range(1, 20)
    ]
    entries: list[Entry] = []
    slowly = Plan((Step(1000),), rollback_ramp_s=600.0)
    decision = own.decide(dying, Policy(spec, slowly), entries.append)
    assert (decision.kind, [entry.what for entry in entries].count("rollout")) == (DecisionKind.ROLLBACK, 1)
    good = [RecordedInterval(at_s - 1.0, at_s, 1000, Counts(900, {"errors": 2}), Counts(100)) for at_s in range(1, 90)]
    held = own.decide(good, Policy(spec, Plan((Step(1000),), promotion_gate="manual")))
    assert held.kind is DecisionKind.HOLD and "the gate 'manual' before the promotion is closed" in held.reason


def test_between_requests_the_gateway_looks_too() -> None:
    def at(*ends: float) -> list[RecordedInterval]:
        return [RecordedInterval(end - 0.25, end, 1000, Counts(9), Counts(1, {"errors": 1})) for end in ends]

    seen = list(own.looks(at(1.0, 1.25, 2.0, 9.0)))
    assert [look.at_s for look in seen] == [1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0, 8.75, 9.0]
    assert all(look.since_s == before.at_s for before, look in itertools.pairwise(seen))
    assert [look.at_s for look in seen if look.canary.requests] == [1.0, 1.25, 2.0, 9.0]
    # A recording in which the quiet time was written down decides the same.
    spec = own.spec_for(AnalysisSpec(), frozenset({"errors"}))
    sparse = at(*(0.25 + 2.0 * n for n in range(1, 40)))
    plan = Plan((Step(1000),))
    decided = own.decide(sparse, Policy(spec, plan))
    assert decided.kind is DecisionKind.ROLLBACK
    assert decided == own.decide(own.looks(sparse), Policy(spec, plan))


def test_what_a_warm_up_served_is_no_evidence() -> None:
    spec = own.spec_for(AnalysisSpec(), frozenset({"errors"}))
    good = [RecordedInterval(at_s - 1.0, at_s, 1000, Counts(900, {"errors": 2}), Counts(100)) for at_s in range(1, 90)]
    plain, warmed = (Plan((Step(1000, 10.0, 100),), warmup_s=warmup_s) for warmup_s in (0.0, 30.0))
    at_s = [own.decide(good, Policy(spec, one)).at_s for one in (plain, warmed)]
    # The first interval after the warm-up is evidence for the step, whose floor begins with the step.
    assert at_s[0] is not None and at_s[1] is not None and at_s[1] >= at_s[0] + 30.0
    assert f"{100 * round(at_s[1] - 30.0)} canary requests" in own.decide(good, Policy(spec, warmed)).reason


def test_weights_that_change_all_the_time_take_bounded_evidence() -> None:
    book = own.CumulativeEvidence()
    for tick in range(1, 1000):
        book.add(RecordedInterval(tick - 1, tick, 1 + tick % 9000, Counts(90), Counts(10)))
        assert len(book.at(tick).epochs) == min(tick, EPOCHS_KEPT)
    book.add(RecordedInterval(999, 1000, 10_000, Counts(0), Counts(100)))
    assert all(0 < epoch.weight_bp < 10_000 for epoch in book.at(1000).epochs)


def test_without_weights_they_are_inferred_and_the_decision_stays(replay: Run) -> None:
    with_weights = lines(traffic.sparse())
    without = re.sub(r",(weight_percent|10)$", "", with_weights, flags=re.MULTILINE)
    result = replay(without, "--beside", "none", "--json")
    body = msgspec.json.decode(result.stdout)
    assert body["recording"]["weights_recorded"] is False
    assert [outcome["rule"] for outcome in body["outcomes"]] == ["gateway"]
    assert body["outcomes"][0]["decision"]["kind"] == "rollback"
    weights = [entry["text"] for entry in body["timeline"] if entry["what"] == "weight"]
    assert weights == ["9.99 %"], "one weight, though no two intervals have the same share"


# what is printed


def test_json_holds_what_the_text_shows(replay: Run) -> None:
    content = lines(traffic.sparse())
    body = msgspec.json.decode(replay(content, "--json").stdout)
    text = replay(content).stdout
    assert [outcome["rule"] for outcome in body["outcomes"]] == ["gateway", "flagger", "argo", "kayenta"]
    for outcome in body["outcomes"]:
        row = next(line for line in text.splitlines() if re.match(rf"{outcome['rule']} +\w+ ", line)).split()
        assert row[1] == outcome["decision"]["kind"]
        assert row[-3:] == [f"{outcome[key]:,}" for key in ("requests", "canary_requests", "canary_failures")]
    classes, answers = body["not_recorded"][: len(own.METRICS) - 1], body["not_recorded"][len(own.METRICS) - 1 :]
    assert body["judged"] == ["errors"] and classes == [*own.METRICS[1:]]
    assert {"model_errors", "unreadable", "class_0"} <= set(answers), "what only answers show is not recorded either"


def test_a_configured_route_brings_its_analysis_and_plan(replay: Run, tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    backends = "backends: {a: {endpoints: [http://127.0.0.1:1]}, b: {endpoints: [http://127.0.0.1:2]}}"
    route = "{name: %s, match: {path_prefix: /%s}, stable: a, canary: b, analysis: {alpha_rollback: 0.002}}"
    admin = "admin: {token_env: GATEWAY_REPLAY_TEST_UNSET}"
    config.write_text(f"{admin}\n{backends}\nroutes:\n  - {route % ('one', 'one')}\n  - {route % ('two', 'two')}\n")
    content = lines(traffic.sparse())
    result = replay(content, "--config", str(config), "--route", "two", "--json")
    assert result.exit_code == 0 and msgspec.json.decode(result.stdout)["alpha_rollback"] == 0.002
    result = replay(content, "--config", str(config), "--route", "two", "--alpha", "0.03", "--json")
    assert msgspec.json.decode(result.stdout)["alpha_rollback"] == 0.03
    for options, says in (([], "say which route with --route"), (["--route", "x"], "'x' is not a route")):
        refused = replay(content, "--config", str(config), *options)
        assert refused.exit_code == 2 and says in refused.stderr and "one, two" in refused.stderr
    config.write_text(config.read_text().replace("stable: a", "stable: nobody"))
    refused = replay(content, "--config", str(config), "--route", "two")
    assert refused.exit_code == 2 and f"{config}:4" in refused.stderr


@pytest.mark.parametrize(("interval_s", "hidden"), [(5.0, True), (0.5, False)])
def test_intervals_that_hide_bursts_are_named(replay: Run, interval_s: float, hidden: bool) -> None:
    arm = traffic.Arm(0.01)
    trace = traffic.recorded(1, arm, arm, traffic.ramp((0, 10)), duration_s=20.0, interval_s=interval_s)
    content = lines(trace)
    assert msgspec.json.decode(replay(content, "--json").stdout)["bursts_hidden"] is hidden
    assert ("bursts: not seen, the intervals are longer than 3 s" in replay(content).stdout) is hidden


def test_a_sticky_route_is_not_judged_by_requests(replay: Run, tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    backends = "backends: {a: {endpoints: [http://127.0.0.1:1]}, b: {endpoints: [http://127.0.0.1:2]}}"
    route = "{name: one, match: {path_prefix: /}, stable: a, canary: b, sticky: {header: X-User}}"
    config.write_text(f"admin: {{token_env: GATEWAY_REPLAY_TEST_UNSET}}\n{backends}\nroutes:\n  - {route}\n")
    refused = replay(lines(traffic.sparse()), "--config", str(config))
    assert (refused.exit_code, refused.stdout) == (2, "") and "counted by session" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_a_bake_has_its_part_of_alpha_and_tests_of_its_own() -> None:
    def interval(at_s: int, canary_errors: int, weight_bp: int) -> RecordedInterval:
        canary = 1000 * weight_bp // 10_000
        return RecordedInterval(
            at_s - 1.0, at_s, weight_bp, Counts(1000 - canary, {"errors": 5}), Counts(canary, {"errors": canary_errors})
        )

    # Proven at 10 %, long healthy in the bake at 90 %, then a third of the canary's requests fails.
    intervals = [interval(at_s, 0 if at_s % 2 else 1, 1000) for at_s in range(1, 200)]
    intervals += [interval(at_s, 9, 9000) for at_s in range(200, 900)]
    intervals += [interval(at_s, 300, 9000) for at_s in range(900, 960)]
    spec = own.spec_for(AnalysisSpec(burst_s=0.0), frozenset({"errors"}))
    entries: list[own.Entry] = []
    plan = Plan((Step(1000, 10.0, 100),), 86_400.0, bake_s=3600.0)
    decision = own.decide(intervals, Policy(spec, plan), entries.append)
    assert decision.kind is DecisionKind.ROLLBACK and decision.at_s is not None and 900 <= decision.at_s <= 904
    # A fifth of alpha_rollback (1 %) is the bake's.
    assert "(needs 500)" in decision.reason and "at the bake" in decision.reason
    assert any("(needs 125)" in entry.text for entry in entries)
    # What the bake says is never PASS.
    baking = next(entry.at_s for entry in entries if entry.what == "rollout" and "passed" in entry.text)
    assert not any(entry.text.startswith("PASS") for entry in entries if entry.at_s > baking)


def test_a_setting_changes_a_rule(replay: Run) -> None:
    content = lines(traffic.sparse())
    options = ("--beside", "flagger", "--set", "flagger.threshold=1", "--set", "flagger.success_percent_min=99.9")
    body = msgspec.json.decode(replay(content, *options, "--json").stdout)
    assert body["outcomes"][1]["decision"] | {"reason": ""} == {"kind": "rollback", "at_s": 60.0, "reason": ""}


def test_a_single_interval_is_a_recording(replay: Run) -> None:
    result = replay("at_s,variant,requests,errors\n5,stable,9,0\n5,canary,1,0\n")
    assert result.exit_code == 0 and "1 intervals over 0 s" in result.stdout


def test_a_name_that_is_no_text_breaks_no_output(replay: Run) -> None:
    content = "at_s,variant,requests,errors\n5,stable,9,0\n5,canary,1,0\n"
    for options in ([], ["--json"]):
        result = replay(content, *options, name="odd\udcff\x1b.csv")
        assert result.exit_code == 0 and "\x1b" not in result.stdout and "odd" in result.stdout

"""Nothing to compare is no proof: such metrics neither pass nor convict, and say what was seen and what would help."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest

from gateway.core.analysis import (
    AnalysisSpec,
    EventSpec,
    Evidence,
    LatencySpec,
    Look,
    Mode,
    fresh_state,
    look,
    with_new_events,
)
from gateway.core.analysis.metrics.events import EVENTS
from gateway.core.analysis.types import Finding, Worse
from gateway.core.stats import EpochCounts
from gateway.core.types import Unjudged, Why

MIX = tuple(
    EventSpec(name, worse=Worse.DIFFERENT, tolerance_delta=0.05, margin_ratio=1.0, margin_delta=0.1, group="answers")
    for name in ("class_0", "class_1", "class_other")
)
SPEC = AnalysisSpec(latency=LatencySpec(mode=Mode.OFF), events=(*MIX, EventSpec("odd")))
AUTO = msgspec.structs.replace(
    SPEC, events=tuple(msgspec.structs.replace(event, mode=Mode.AUTO) for event in SPEC.events)
)
GONE = (*AUTO.events, EventSpec("gone", mode=Mode.AUTO))
UNREADABLE = Unjudged("2,000 of 2,000 answers could not be read; `predictions: {protocol: json}`", Why.NEVER)
Draw = Callable[[random.Random], str]


def always(name: str) -> Draw:
    return lambda _: name


def mostly(_: random.Random) -> str:
    return _.choice(("class_0", "class_0", "class_1"))


def run(
    stable: Draw,
    canary: Draw,
    unjudged: dict[str, Unjudged] | None = None,
    *,
    odd: bool = False,
    ticks: int = 120,
    spec: AnalysisSpec = SPEC,
) -> Look:
    """The last look, or the first one that is a FAIL; ``odd`` canary answers have the other event."""
    draw = random.Random(20_261)
    state, entry = fresh_state(spec), EpochCounts("r", 1, 3_333)
    seen: Look | None = None
    for tick in range(1, ticks + 1):
        for i in range(60):
            arm, of = (entry.canary, canary) if i % 3 == 0 else (entry.stable, stable)
            arm.requests += 1
            arm.label("odd", odd and arm is entry.canary)
            label = of(draw)
            for event in MIX:
                arm.label(event.name, event.name == label)
        evidence = Evidence(0.1 * tick, (entry,), unjudged=unjudged or {})
        state, seen = look(spec, state, evidence)
        if seen.verdict == "FAIL":
            break
    assert seen is not None
    return seen


def finding(seen: Look, metric: str) -> Finding:
    (one,) = [one for one in seen.analysis.findings if one.metric == metric]
    return one


def test_classes_that_vary_alike_are_proven() -> None:
    seen = run(mostly, mostly)
    assert seen.verdict == "PASS" and not seen.silent, seen.reason


@pytest.mark.parametrize("name", ["class_1", "class_other", "none"])
def test_one_class_on_both_sides_is_no_proof(name: str) -> None:
    seen = run(always(name), always(name))
    assert seen.verdict == "UNDECIDED"
    assert set(seen.silent) == {event.name for event in MIX}
    one = finding(seen, "class_1")
    assert one.verdict == "NODATA" and one.decides
    what = "are the same" if name == "none" else f"all answers of both versions are {name}"
    assert what in one.reason and "(4,800 of stable, 2,400 of canary)" in one.reason, one.reason
    assert "nothing is proven" in one.reason and "`predictions: {mode: advise}`" in one.reason
    assert one.reason in seen.reason.replace("class_0, class_1, class_other", "class_1")


def test_before_many_answers_it_may_be_chance() -> None:
    seen = run(always("class_1"), always("class_1"), ticks=2)
    assert finding(seen, "class_1").verdict == "NODATA" and not seen.silent


@pytest.mark.parametrize("stable", [mostly, always("class_1")])
def test_a_canary_that_alone_falls_to_one_class_is_convicted(stable: Draw) -> None:
    seen = run(stable, always("class_0"))
    assert seen.verdict == "FAIL" and set(seen.causes) & {"class_0", "class_1"}


def test_a_canary_that_varies_beside_a_constant_stable_is_convicted() -> None:
    assert run(always("class_0"), mostly).verdict == "FAIL"


def test_what_cannot_be_judged_neither_passes_nor_convicts() -> None:
    names = ("class_0", "class_1", "class_other", "odd")
    for seen in (
        run(mostly, mostly, dict.fromkeys(names, UNREADABLE)),
        run(mostly, always("class_0"), dict.fromkeys(names, UNREADABLE), odd=True),
    ):
        assert seen.verdict == "UNDECIDED", seen.reason
        assert set(seen.silent) == set(names)
        assert f"class_0, class_1, class_other, odd cannot be judged: {UNREADABLE.reason}" in seen.reason
        one = finding(seen, "odd")
        assert (one.verdict, one.log_e_bad <= 0.0, one.log_e_ok <= 0.0) == ("NODATA", True, True)


def test_other_metrics_convict_beside_it() -> None:
    seen = run(mostly, always("class_0"), {"odd": UNREADABLE})
    assert seen.verdict == "FAIL" and "odd" not in seen.causes


def test_what_a_route_has_nothing_of_holds_no_promotion_up() -> None:
    seen = run(mostly, mostly, {"odd": Unjudged("the answers hold no confidence", Why.ABSENT)})
    assert seen.verdict == "PASS" and not seen.silent
    assert not finding(seen, "odd").decides and "no confidence" in finding(seen, "odd").reason


def test_what_may_come_yet_holds_and_is_no_alarm() -> None:
    seen = run(mostly, mostly, {"odd": Unjudged("no label so far", Why.WAITS)})
    assert seen.verdict == "UNDECIDED" and not seen.silent and "odd cannot be judged: no label so far" in seen.reason


# In mode auto: nobody has asked for it.


def test_in_auto_nothing_to_compare_is_silent() -> None:
    names = ("class_0", "class_1", "class_other", "odd")
    for seen in (
        run(always("class_1"), always("class_1"), spec=AUTO),
        run(mostly, mostly, dict.fromkeys(names, UNREADABLE), spec=AUTO),
    ):
        assert seen.verdict == "PASS" and not seen.silent, seen.reason
        one = finding(seen, "class_0")
        assert (one.verdict, one.decides) == ("NODATA", False) and "cannot be judged" in one.reason


def test_in_auto_what_is_compared_decides() -> None:
    assert run(mostly, mostly, spec=AUTO).verdict == "PASS"
    seen = run(mostly, always("class_0"), spec=AUTO)
    assert seen.verdict == "FAIL" and set(seen.causes) <= {"class_0", "class_1"}
    seen = run(always("class_1"), always("class_0"), spec=AUTO)
    assert seen.verdict == "FAIL", "each version has one class, and not the same one"


def test_in_auto_what_is_being_learnt_holds_and_what_may_never_come_does_not() -> None:
    seen = run(mostly, mostly, {"odd": Unjudged("stable's first answers", Why.LEARNING)}, spec=AUTO)
    assert seen.verdict == "UNDECIDED" and not seen.silent and "odd cannot be judged: stable's first" in seen.reason
    seen = run(
        mostly, mostly, {"gone": Unjudged("0 so far", Why.WAITS)}, spec=msgspec.structs.replace(AUTO, events=GONE)
    )
    assert seen.verdict == "PASS", seen.reason


def test_requests_outside_of_the_experiment_are_named() -> None:
    _, seen = look(SPEC, fresh_state(SPEC), Evidence(1.0, (), outside=1_222))
    assert seen.verdict == "NODATA"
    assert "1,222 canary requests were answered, all of them forced or at a weight of 0 or 100 %" in seen.reason
    _, seen = look(SPEC, fresh_state(SPEC), Evidence(1.0, ()))
    assert seen.reason == "no canary request of the experiment has been answered yet"


def test_the_version_that_is_missing_is_named() -> None:
    for variant, missing in (("stable", "no canary"), ("canary", "no stable")):
        entry = EpochCounts("r", 1, 3_333)
        arm = getattr(entry, variant)
        arm.requests += 1
        arm.label("odd", happened=False)
        _, seen = look(SPEC, fresh_state(SPEC), Evidence(1.0, (entry,)))
        assert finding(seen, "errors").reason.endswith(f"{missing} requests yet")
        assert finding(seen, "odd").reason.endswith(f"{missing} trials yet")


def test_events_that_mean_something_else_are_proven_anew_and_what_speaks_against_the_canary_stays() -> None:
    draw = random.Random(20_261)
    state, entry = fresh_state(SPEC), EpochCounts("r", 1, 3_333)
    for i in range(6_000):
        arm = entry.canary if i % 3 == 0 else entry.stable
        arm.requests += 1
        arm.label("odd", happened=False)
        label = mostly(draw)
        for event in MIX:
            arm.label(event.name, event.name == label)
        if i % 60 == 59:
            state, _ = look(SPEC, state, Evidence(i / 600, (entry,)))
    before = EVENTS.own(state).by_request["class_0"].metrics[0]
    anew = with_new_events(state, "answers")
    after = EVENTS.own(anew).by_request["class_0"].metrics[0]
    assert after.bad == before.bad and after.ok != before.ok
    assert EVENTS.own(anew).by_request["odd"] == EVENTS.own(state).by_request["odd"]
    _, seen = look(SPEC, anew, Evidence(10.0, (entry,)))
    assert seen.verdict == "UNDECIDED" and finding(seen, "class_0").stable_trials == 0
    assert finding(seen, "odd").verdict == "PASS"

"""Labels find their requests: once, in time, in bounded memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.predictions.labels import EARLY_S, Join, LabelSettings, Trial
from gateway.core.types import Variant

SETTINGS = LabelSettings({"click": True, "right": False}, window_s=10.0, requests_max=3)
STABLE, CANARY = Variant.STABLE, Variant.CANARY


def trials(join: Join, now_s: float) -> list[tuple[int, Variant, str, bool | float]]:
    return [(t.epoch, t.variant, t.event, t.value) for t in join.expire(now_s)]


def test_every_request_is_a_trial_of_a_click_and_labelled_ones_of_a_label() -> None:
    join = Join(SETTINGS)
    join.served("a", 1, STABLE, 0.0)
    join.served("b", 2, CANARY, 0.0)
    join.label("b", "click", True, 1.0)
    join.label("b", "right", False, 2.0)
    assert trials(join, 9.9) == [], "nothing is counted before the window is over, not even a yes"
    assert trials(join, 10.1) == [(1, STABLE, "click", False), (2, CANARY, "click", True), (2, CANARY, "right", False)]
    assert trials(join, 99.0) == []


def test_a_label_counts_once_and_in_time() -> None:
    join = Join(SETTINGS)
    join.served("a", 1, CANARY, 0.0)
    join.label("a", "click", True, 1.0)
    join.label("a", "click", False, 1.0)
    join.label("a", "right", True, 10.5)
    assert trials(join, 10.6) == [(1, CANARY, "click", True)]
    join.label("a", "click", True, 11.0)
    assert join.results["click"] | {} == {
        "matched": 1,
        "pending": 0,
        "late": 1,
        "duplicate": 1,
        "unknown": 0,
        "evicted": 0,
        "repeated_id": 0,
    }
    assert join.results["right"]["late"] == 1


def test_a_label_may_overtake_the_news_of_its_request() -> None:
    join = Join(SETTINGS)
    join.label("a", "click", True, 0.0)
    join.label("a", "click", True, 0.0)
    join.served("a", 1, CANARY, 0.1)
    assert trials(join, 11.0) == [(1, CANARY, "click", True)]
    assert (
        join.results["click"]["pending"] == join.results["click"]["matched"] == join.results["click"]["duplicate"] == 1
    )


def test_a_label_of_no_request_is_given_up() -> None:
    join = Join(SETTINGS)
    join.label("a", "click", True, 0.0)
    assert trials(join, EARLY_S + 0.1) == [] and join.results["click"]["unknown"] == 1
    join.served("a", 1, CANARY, 6.0)
    assert trials(join, 17.0) == [(1, CANARY, "click", False)]


def test_an_id_that_comes_again_is_the_first_requests() -> None:
    join = Join(SETTINGS)
    join.served("a", 1, STABLE, 0.0)
    join.served("a", 1, CANARY, 1.0)
    assert trials(join, 12.0) == [(1, STABLE, "click", False)]
    assert join.results["click"]["repeated_id"] == 1


def test_the_oldest_requests_give_way() -> None:
    join = Join(SETTINGS)
    for number in range(5):
        join.served(str(number), 1, STABLE, 0.0)
    join.label("0", "click", True, 1.0)
    assert len(trials(join, 11.0)) == 3
    assert join.results["click"]["evicted"] == 2 and join.results["click"]["late"] == 1


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("served"), st.sampled_from("abcdef"), st.sampled_from(Variant)),
        st.tuples(st.just("label"), st.sampled_from("abcdef"), st.sampled_from(["click", "right"]), st.booleans()),
        st.tuples(st.just("wait"), st.floats(0.0, 8.0)),
    ),
    max_size=60,
)


@given(_STEPS)
def test_no_request_is_evidence_twice_and_no_label_is_lost_from_the_books(steps: list[tuple]) -> None:
    join, now_s, served, labels = Join(SETTINGS), 0.0, 0, {"click": 0, "right": 0}
    out: list[Trial] = []
    for step in steps:
        match step:
            case ("served", request_id, variant):
                join.served(request_id, 1, variant, now_s)
                served += 1
            case ("label", request_id, event, happened):
                join.label(request_id, event, happened, now_s)
                labels[event] += 1
            case (_, seconds):
                now_s += seconds
                out += join.expire(now_s)
    out += join.expire(now_s + 1000.0)
    clicks = [trial for trial in out if trial.event == "click"]
    results = join.results
    assert len(clicks) == served - results["click"]["repeated_id"] - results["click"]["evicted"]
    assert sum(trial.event == "right" for trial in out) <= results["right"]["matched"]
    for event, given_labels in labels.items():
        ends = ("matched", "late", "duplicate", "unknown")
        assert sum(results[event][end] for end in ends) == given_labels, event

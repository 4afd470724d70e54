"""Answers as events: what is looked for, what it is called, and that stable's past alone decides what it means."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.predictions.events import (
    FAULTS,
    LOW_CONFIDENCE,
    PAST_MAX,
    QUANTILE_NAMES,
    WARM_UP,
    ModelKind,
    Watch,
    WatchSettings,
    mix_names,
)
from gateway.core.predictions.layout import Layout, choose
from gateway.core.predictions.outputs import Output
from gateway.core.predictions.reading import read
from gateway.core.types import Variant


def classified(label: Any, *scores: float) -> list[Output]:
    """An answer of a classifier: a label and, maybe, scores."""
    outputs = [Output("label", (1,), [label])]
    return [*outputs, Output("probabilities", (1, len(scores)), list(scores))] if scores else outputs


def valued(*values: float) -> list[Output]:
    return [Output("price", (len(values), 1), list(values))]


def warmed(wanted: WatchSettings | None = None, first: list[list[Output]] | None = None) -> Watch:
    """A watch whose stable has answered ten digits in turn, surely."""
    watch = Watch(wanted or WatchSettings())
    answers = first or [classified(i % 10, *(0.91 if j == i % 10 else 0.01 for j in range(10))) for i in range(WARM_UP)]
    for answer in answers:
        tried, happened = watch.take(Variant.STABLE, answer, 0.5)
        assert tried == list(FAULTS) and happened == []
    return watch


def happened(watch: Watch, answer: list[Output] | None, variant: Variant = Variant.CANARY) -> set[str]:
    tried, out = watch.take(variant, answer, 0.5)
    assert set(out) <= set(tried)
    return set(out)


# layouts


def test_outputs_are_known_by_what_stable_sends() -> None:
    assert choose([classified(3, 0.25, 0.75)] * 5, {}).layout == Layout("label", "probabilities", None, softmax=False)
    assert choose([classified("cat")] * 5, {}).layout == Layout("label")
    assert choose([[Output("logits", (1, 3), [-1.0, 2.0, 0.5])]] * 5, {}).layout == Layout(
        None, "logits", None, softmax=True
    )
    assert choose([valued(1.5)] * 5, {}, values=True).layout == Layout(value="price")
    assert choose([[]] * 5, {}).layout == Layout()
    assert choose([classified(3, 0.25, 0.75)] * 5, {"label": "probabilities"}).layout.label == "probabilities"


def test_an_output_that_comes_and_goes_is_no_part_of_the_layout() -> None:
    assert choose([classified(1)] * 6 + [classified(1, 0.5, 0.5)] * 4, {}).layout == Layout("label")


def test_the_highest_score_is_the_class_where_there_is_no_label() -> None:
    reading = read([Output("logits", (1, 3), [0.0, math.log(2.0), 0.0])], Layout(scores="logits", softmax=True), 0.0)
    assert reading.label == "1" and reading.confidence == pytest.approx(0.5)


def test_a_batch_speaks_through_one_item() -> None:
    labels = [Output("label", (4,), [5, 6, 7, 8])]
    assert [read(labels, Layout("label"), draw).label for draw in (0.0, 0.25, 0.6, 0.999999)] == ["5", "6", "7", "8"]


def test_scores_of_one_dimension_are_one_items() -> None:
    assert read([Output("s", (3,), [0.1, 0.2, 0.7])], Layout(scores="s"), 0.9).label == "2"


# events


def test_classes_keep_their_numbers() -> None:
    watch = warmed()
    assert happened(watch, classified(4, *([0.01] * 4), 0.91, *([0.01] * 5))) == {"class_4"}
    assert happened(watch, classified(11)) == {"unreadable"}, "the scores that stable sends are missing"
    assert watch.meanings["class_4"] == "class 4"


def test_classes_that_are_texts_are_numbered_in_their_order_and_the_rare_ones_pooled() -> None:
    names = ["dog"] * 50 + ["cat"] * 40 + ["emu"] * 10
    watch = warmed(WatchSettings(classes_max=2), [classified(name) for name in names])
    assert [happened(watch, classified(name)) for name in ("cat", "dog", "emu", "yak")] == [
        {"class_0"},
        {"class_1"},
        {"class_other"},
        {"class_other"},
    ]
    assert watch.meanings == {"class_0": "class cat", "class_1": "class dog"}


def test_low_confidence_is_stables_own_lowest_tenth() -> None:
    first = [classified(1, 0.5 + i / 250, 0.5 - i / 250) for i in range(WARM_UP)]
    watch = warmed(first=first)
    assert LOW_CONFIDENCE in happened(watch, classified(1, 0.53, 0.47))
    assert LOW_CONFIDENCE not in happened(watch, classified(1, 0.55, 0.45))


def test_low_confidence_may_be_configured() -> None:
    watch = warmed(WatchSettings(low_confidence=0.95))
    assert LOW_CONFIDENCE in happened(watch, classified(1, 0.94, 0.06))


def test_numbers_are_classed_by_stables_quantiles() -> None:
    watch = warmed(WatchSettings(ModelKind.VALUES), [valued(float(i)) for i in range(WARM_UP)])
    tried, _ = watch.take(Variant.CANARY, valued(50.5), 0.0)
    assert set(tried) == {*FAULTS, *QUANTILE_NAMES}
    assert happened(watch, valued(-1.0)) == set()
    assert happened(watch, valued(50.5)) == set(QUANTILE_NAMES[:3])
    assert happened(watch, valued(1e300)) == set(QUANTILE_NAMES)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_an_event(bad: float) -> None:
    watch = warmed()
    assert happened(watch, classified(4, *([bad] * 10))) == {"nan", "class_4"}
    assert "nan" in happened(Watch(WatchSettings()), valued(1.0, bad))


def test_finite_numbers_whose_sum_overflows_are_no_nan() -> None:
    assert happened(Watch(WatchSettings()), [Output("y", (3,), [1.7e308, 1.7e308, 10**400])]) == set()


def test_an_empty_answer_is_an_event() -> None:
    watch = warmed()
    assert happened(watch, []) == {"empty"}
    assert happened(watch, [Output("label", (0,), []), Output("probabilities", (0, 10), [])]) == {"empty"}


def test_an_undecodable_answer_and_a_missing_output_are_unreadable() -> None:
    watch = warmed()
    assert happened(watch, None) == {"unreadable"}
    assert happened(watch, [Output("other", (1,), [3])]) == {"unreadable"}


def test_nothing_is_tried_where_stable_shows_nothing_to_compare() -> None:
    """The metric must stay without data: it would else be proven by answers that nobody understands."""
    watch = warmed(WatchSettings(ModelKind.CLASSES), [valued(1.0)] * WARM_UP)
    assert watch.take(Variant.CANARY, valued(1.0), 0.5)[0] == list(FAULTS)


def test_the_canary_teaches_nothing() -> None:
    def history(canary: list[list[Output]]) -> list[set[str]]:
        watch = warmed(WatchSettings(ModelKind.VALUES), [valued(float(i)) for i in range(WARM_UP)])
        seen = []
        for i in range(3 * WARM_UP):
            watch.take(Variant.CANARY, canary[i % len(canary)], 0.5)
            seen.append(happened(watch, valued(float(i % 150)), Variant.STABLE))
        return seen

    assert history([valued(0.0)]) == history([valued(1e9), [], classified("x")])


def test_the_past_is_bounded_and_forgets() -> None:
    watch = warmed(WatchSettings(ModelKind.VALUES), [valued(0.0)] * WARM_UP)
    for _ in range(PAST_MAX + WARM_UP):
        watch.take(Variant.STABLE, valued(100.0), 0.5)
    assert happened(watch, valued(99.0)) == set()


# As `outputs.checked` lets them through: numbers, flags or texts, not mixed.
_VALUES = (
    st.lists(st.floats() | st.integers() | st.none(), max_size=4)
    | st.lists(st.booleans(), max_size=4)
    | st.lists(st.text(max_size=3), max_size=4)
)
_OUTPUTS = st.lists(
    st.builds(
        lambda name, values: Output(name, (len(values),), values),
        st.sampled_from(["label", "probabilities", "price"]),
        _VALUES,
    ),
    max_size=3,
)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from(Variant), st.none() | _OUTPUTS), max_size=30),
    st.sampled_from(ModelKind),
    st.integers(0, 2**32),
)
def test_any_answers_whatever_become_known_events(
    answers: list[tuple[Variant, list[Output] | None]], kind: ModelKind, seed: int
) -> None:
    draw = random.Random(seed).random
    wanted = WatchSettings(kind)
    known = {*FAULTS, *mix_names(wanted), LOW_CONFIDENCE}
    for watch in (Watch(wanted), warmed(wanted)):
        for variant, outputs in answers * 5:
            tried, out = watch.take(variant, outputs, draw())
            assert len(tried) == len(set(tried)) and len(out) == len(set(out))
            assert set(out) <= set(tried) <= known

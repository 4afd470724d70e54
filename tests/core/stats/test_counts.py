"""Counts merge like numbers, and the difference of two cumulative counts is what happened between them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import EvidenceError
from gateway.core.stats.counts import HISTOGRAMS, PER_REQUEST, VALUE_CELLS, Counts, check, delta, merge
from gateway.core.stats.histogram import BUCKET_MAX
from gateway.core.stats.outcomes import NAMES

histograms = st.dictionaries(st.integers(0, BUCKET_MAX), st.integers(1, 1000), max_size=6)


@st.composite
def counts(draw: st.DrawFn) -> Counts:
    """Counts that can be true."""
    found = {name: draw(histograms) for name in HISTOGRAMS}
    requests = draw(st.integers(0, 1000)) + max(sum(found[name].values()) for name in PER_REQUEST)
    classes = draw(st.dictionaries(st.sampled_from(NAMES), st.integers(1, 100), max_size=4))
    requests += sum(classes.values())
    trials = draw(st.dictionaries(st.sampled_from("abc"), st.integers(1, 1000), max_size=3))
    labelled = {name: draw(st.integers(1, n)) for name, n in trials.items() if draw(st.booleans())}
    assigned = draw(st.just(0) | st.integers(requests, requests + 5000))
    cells = st.dictionaries(st.integers(0, VALUE_CELLS), st.integers(1, 100), min_size=1, max_size=4)
    us = draw(st.integers(0, 10**12))
    made = Counts(requests, classes, assigned=assigned, trials=trials, events=labelled, lasted_us=us)
    made.values = draw(st.dictionaries(st.sampled_from("xy"), cells, max_size=2))
    for name, histogram in found.items():
        setattr(made, name, histogram)
    return made


@given(st.lists(counts(), max_size=5), st.randoms())
def test_merge_does_not_depend_on_order(parts: list[Counts], random: object) -> None:
    shuffled = list(parts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis's random is untyped
    assert merge(shuffled) == merge(parts)


@given(counts(), counts(), counts())
def test_merge_is_associative_and_has_a_zero(a: Counts, b: Counts, c: Counts) -> None:
    assert merge([merge([a, b]), c]) == merge([a, merge([b, c])])
    assert merge([a]) == merge([a, Counts()]) == a


@given(counts(), counts())
def test_merge_leaves_its_parts_alone(a: Counts, b: Counts) -> None:
    before = a.copy(), b.copy()
    merge([a, b])
    assert (a, b) == before


@given(counts(), counts())
def test_delta_undoes_merge(old: Counts, added: Counts) -> None:
    assert delta(merge([old, added]), old) == added


@given(counts(), counts(), counts())
def test_deltas_add_up_whatever_was_skipped(a: Counts, b: Counts, c: Counts) -> None:
    first, last = merge([a, b]), merge([a, b, c])
    assert merge([delta(first, a), delta(last, first)]) == delta(last, a)


@given(counts())
def test_a_copy_is_not_touched_by_later_increments(original: Counts) -> None:
    copy = original.copy()
    original.requests += 1
    original.enter("redirects")
    original.latency[0] = original.latency.get(0, 0) + 1
    original.label("a", True)
    assert copy.requests == original.requests - 1
    assert copy.of("redirects") == original.of("redirects") - 1
    assert copy.events.get("a", 0) == original.events["a"] - 1
    assert copy.latency.get(0, 0) == original.latency[0] - 1


@given(counts())
def test_counts_that_can_be_true_pass_the_check(true: Counts) -> None:
    check(true)


@pytest.mark.parametrize(
    ("new", "old"),
    [
        (Counts(4), Counts(5)),
        (Counts(5, {"errors": 1}), Counts(5, {"errors": 2})),
        (Counts(5, {"overload": 0}), Counts(5, {"overload": 1})),
        (Counts(5, latency={3: 1}), Counts(5, latency={3: 2})),
        (Counts(5), Counts(5, latency={3: 2})),
        (Counts(5), Counts(5, duration={3: 2})),
        (Counts(5, assigned=8), Counts(5, assigned=9)),
        (Counts(5, gap={3: 1}), Counts(5, gap={3: 2})),
        (Counts(5), Counts(5, aborted={3: 2})),
        (Counts(5, trials={"a": 1}), Counts(5, trials={"a": 2})),
        (Counts(5, trials={"a": 2}), Counts(5, trials={"a": 2}, events={"a": 1})),
    ],
)
def test_counts_that_went_backwards_are_refused(new: Counts, old: Counts) -> None:
    with pytest.raises(EvidenceError):
        delta(new, old)


@pytest.mark.parametrize(
    "false",
    [
        Counts(-1),
        Counts(2, {"errors": 3}),
        Counts(2, {"client_errors": -1}),
        Counts(2, {"errors": 1, "not_found": 2}),
        Counts(2, {"ok": 1}),
        Counts(2, {"": 0}),
        Counts(2, latency={5: 3}),
        Counts(2, latency={5: -1, 6: 2}),
        Counts(2, duration={BUCKET_MAX + 1: 1}),
        Counts(2, duration={-1: 1}),
        Counts(2, gap={1: 3}),
        Counts(2, aborted={1: -1}),
        Counts(2, aborted={BUCKET_MAX + 1: 1}),
        Counts(2, assigned=-1),
        Counts(2, trials={"a": 1}, events={"a": 2}),
        Counts(2, trials={"a": -1}),
        Counts(2, trials={"a": 1}, events={"a": -1}),
        Counts(2, events={"a": 1}),
        Counts(2, values={"x": {VALUE_CELLS + 1: 1}}),
        Counts(2, values={"x": {-1: 1}}),
        Counts(2, values={"x": {3: -1}}),
        Counts(2, values={"": {3: 1}}),
        Counts(2, trials={"": 1}),
        Counts(2, trials={"a" * 65: 1}),
        Counts(2, trials={str(i): 1 for i in range(257)}),
    ],
)
def test_counts_that_cannot_be_true_are_refused(false: Counts) -> None:
    with pytest.raises(EvidenceError):
        check(false)


def test_a_label_enters_its_trial_and_its_event_in_one_step() -> None:
    found = Counts()
    for happened in (True, False, True):
        found.label("clicked", happened)
    assert (found.trials, found.events) == ({"clicked": 3}, {"clicked": 2})


def test_more_clients_may_leave_than_requests_have_an_outcome() -> None:
    check(Counts(2, aborted={5: 9}))

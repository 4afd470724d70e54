"""Counts merge like numbers, and the difference of two cumulative counts is what happened between them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import EvidenceError
from gateway.core.stats.counts import Counts, check, delta, merge
from gateway.core.stats.histogram import BUCKET_MAX

histograms = st.dictionaries(st.integers(0, BUCKET_MAX), st.integers(1, 1000), max_size=6)


@st.composite
def counts(draw: st.DrawFn) -> Counts:
    """Counts that can be true."""
    latency, duration = draw(histograms), draw(histograms)
    requests = draw(st.integers(0, 1000)) + max(sum(latency.values()), sum(duration.values()))
    events = st.integers(0, requests)
    return Counts(requests, draw(events), draw(events), draw(events), latency, duration)


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
    original.latency[0] = original.latency.get(0, 0) + 1
    assert copy.requests == original.requests - 1
    assert copy.latency.get(0, 0) == original.latency[0] - 1


@given(counts())
def test_counts_that_can_be_true_pass_the_check(true: Counts) -> None:
    check(true)


@pytest.mark.parametrize(
    ("new", "old"),
    [
        (Counts(4), Counts(5)),
        (Counts(5, 1), Counts(5, 2)),
        (Counts(5, overload=0), Counts(5, overload=1)),
        (Counts(5, latency={3: 1}), Counts(5, latency={3: 2})),
        (Counts(5), Counts(5, latency={3: 2})),
        (Counts(5), Counts(5, duration={3: 2})),
    ],
)
def test_counts_that_went_backwards_are_refused(new: Counts, old: Counts) -> None:
    with pytest.raises(EvidenceError):
        delta(new, old)


@pytest.mark.parametrize(
    "false",
    [
        Counts(-1),
        Counts(2, errors=3),
        Counts(2, client_errors=-1),
        Counts(2, latency={5: 3}),
        Counts(2, latency={5: -1, 6: 2}),
        Counts(2, duration={BUCKET_MAX + 1: 1}),
        Counts(2, duration={-1: 1}),
    ],
)
def test_counts_that_cannot_be_true_are_refused(false: Counts) -> None:
    with pytest.raises(EvidenceError):
        check(false)

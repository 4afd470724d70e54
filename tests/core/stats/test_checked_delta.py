"""What was gained, told at a glance, is what a closer look finds; and what is not true is never told."""

from __future__ import annotations

import copy
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import EvidenceError
from gateway.core.stats.checked_delta import COUNT_MAX, gained
from gateway.core.stats.counts import HISTOGRAMS, Counts, check, delta
from gateway.core.stats.histogram import BUCKET_MAX

LABELS = ("one", "two", "three")


def answered(counts: Counts, rng: random.Random, requests: int) -> Counts:
    """These counts after some more requests."""
    more = counts.copy()
    more.assigned += requests
    for _ in range(requests):
        more.requests += 1
        more.enter("errors", rng.random() < 0.2)
        for name in HISTOGRAMS:
            histogram = getattr(more, name)
            bucket = rng.randrange(40)
            histogram[bucket] = histogram.get(bucket, 0) + 1
        more.label(rng.choice(LABELS), rng.random() < 0.3)
    return more


def shuffled(counts: Counts, rng: random.Random) -> Counts:
    """The same counts, as another merge of the workers' reports orders them."""
    out = counts.copy()
    for name in (*HISTOGRAMS, "trials", "events"):
        items = list(getattr(out, name).items())
        rng.shuffle(items)
        setattr(out, name, dict(items))
    return out


@given(st.integers(0, 10**6), st.integers(0, 60), st.integers(0, 60), st.booleans())
def test_what_was_gained_is_the_difference_in_the_order_of_the_new_counts(
    seed: int, before: int, more: int, mixed: bool
) -> None:
    rng = random.Random(seed)
    old = answered(Counts(), rng, before)
    new = answered(old, rng, more)
    new = shuffled(new, rng) if mixed else new
    found, expected = gained(new, old), delta(new, old)
    assert found == expected
    for name in (*HISTOGRAMS, "trials", "events"):
        assert list(getattr(found, name)) == list(getattr(expected, name)), (seed, name)


def test_what_is_not_read_is_checked_and_left_out() -> None:
    rng = random.Random(3)
    old = answered(Counts(), rng, 30)
    new = answered(old, rng, 5)
    old.duration = {}
    found = gained(new, old, ("duration",))
    assert found is not None and found.duration == {} and sum(found.latency.values()) == 5
    for wrong in ({-1: 1}, {BUCKET_MAX + 1: 1}, {3: -1, 4: 2}, {3: 0.5}, {3: 1000}, {"3": 1}, [3]):
        new.duration = wrong  # type: ignore[assignment]  # what a wire may bring
        assert gained(new, old, ("duration",)) is None, wrong


FAULTS = {
    "a count went backwards": lambda c: c.latency.update({next(iter(c.latency)): 0}),
    "a bucket vanished": lambda c: c.latency.pop(next(iter(c.latency))),
    "a negative count": lambda c: c.duration.update({39: -1}),
    "no whole number": lambda c: c.gap.update({1: 2.5}),
    "no number": lambda c: c.gap.update({1: "2"}),
    "an endless number": lambda c: c.aborted.update({1: float("nan")}),
    "a bucket below all": lambda c: c.aborted.update({-1: 1}),
    "a bucket beyond all": lambda c: c.aborted.update({BUCKET_MAX + 1: 1}),
    "a bucket that is none": lambda c: c.aborted.update({"x": 1}),
    "a known bucket as a float": lambda c: c.gap.update({float(b := next(iter(c.gap))): c.gap.pop(b)}),
    "more latencies than requests": lambda c: c.latency.update({1: 10**6}),
    "more errors than requests": lambda c: c.enter("errors", c.requests),
    "requests went backwards": lambda c: setattr(c, "requests", 1),
    "fewer assigned than answered": lambda c: setattr(c, "assigned", 1),
    "no whole requests": lambda c: setattr(c, "requests", float(c.requests)),
    "too many to tell apart": lambda c: setattr(c, "assigned", COUNT_MAX + 1),
    "more events than trials": lambda c: c.events.update({"one": 10**6}),
    "an event without trials": lambda c: c.events.update({"four": 1}),
    "a label that is no text": lambda c: c.trials.update({5: 1}),
    "a label without end": lambda c: c.trials.update({"x" * 65: 1}),
    "labels without end": lambda c: c.trials.update({f"n{i}": 1 for i in range(300)}),
    "no histogram": lambda c: setattr(c, "latency", [1]),
    "an empty list": lambda c: setattr(c, "gap", []),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_may_be_untrue_is_left_to_a_closer_look(fault: str) -> None:
    rng = random.Random(fault)
    old = answered(Counts(), rng, 40)
    new = answered(old, rng, 10)
    assert gained(new, old) is not None
    hurt = copy.deepcopy(new)
    FAULTS[fault](hurt)
    assert gained(hurt, old) is None


def test_nothing_untrue_passes_that_a_closer_look_refuses() -> None:
    rng = random.Random(11)
    refused = 0
    for _ in range(2_000):
        old = answered(Counts(), rng, rng.randrange(8))
        new = answered(old, rng, rng.randrange(8))
        histogram = getattr(new, rng.choice((*HISTOGRAMS, "trials", "events")))
        if histogram:
            name = rng.choice(list(histogram))
            histogram[name] += rng.choice((-2, -1, 1, 2))
        new.enter("errors", rng.choice((-1, 0, 0, 1, 3)))
        try:
            check(new)
            expected = delta(new, old)
            check(expected)
        except EvidenceError:
            refused += 1
            assert gained(new, old) is None
        else:
            assert gained(new, old) in (expected, None)
    assert refused > 200

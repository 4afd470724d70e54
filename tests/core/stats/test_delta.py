"""What is new between two counts of one source; what cannot be true is refused, there or when it was decoded."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import EvidenceError
from gateway.core.stats.counts import COUNT_MAX, HISTOGRAMS, Counts, EpochCounts, check, check_entry, delta, merge
from gateway.core.stats.histogram import BUCKET_MAX

LABELS = ("one", "two", "three")


def answered(counts: Counts, rng: random.Random, requests: int) -> Counts:
    """These counts after some more requests."""
    more = counts.copy()
    more.assigned += requests
    for _ in range(requests):
        more.requests += 1
        if rng.random() < 0.2:
            more.enter("errors")
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
def test_what_is_new_makes_the_new_counts_again_in_their_order(seed: int, before: int, more: int, mixed: bool) -> None:
    rng = random.Random(seed)
    old = answered(Counts(), rng, before)
    new = answered(old, rng, more)
    new = shuffled(new, rng) if mixed else new
    found = delta(new, old)
    check(found)
    assert merge([old, found]) == new
    for name in (*HISTOGRAMS, "trials", "events"):
        grown = [key for key in getattr(new, name) if key in getattr(found, name)]
        assert list(getattr(found, name)) == grown, (seed, name)


def test_what_is_not_read_is_left_out() -> None:
    rng = random.Random(3)
    old = answered(Counts(), rng, 30)
    new = answered(old, rng, 5)
    old.duration = {}
    found = delta(new, old, ("duration",))
    assert found.duration == {} and sum(found.latency.values()) == 5


FAULTS = {
    "a count went backwards": lambda c: c.latency.update({next(iter(c.latency)): 0}),
    "a bucket vanished": lambda c: c.latency.pop(next(iter(c.latency))),
    "a negative count": lambda c: c.duration.update({39: -1}),
    "no whole number": lambda c: c.gap.update({1: 2.5}),
    "no number": lambda c: c.gap.update({1: "2"}),
    "an endless number": lambda c: c.aborted.update({1: float("nan")}),
    "a bucket below all": lambda c: c.aborted.update({-1: 1}),
    "a bucket beyond all": lambda c: c.aborted.update({BUCKET_MAX + 1: 1}),
    "an unknown bucket": lambda c: c.aborted.update({"x": 1}),
    "a known bucket as a float": lambda c: c.gap.update({float(b := next(iter(c.gap))): c.gap.pop(b)}),
    "more latencies than requests": lambda c: c.latency.update({1: 10**6}),
    "more errors than requests": lambda c: c.enter("errors", c.requests),
    "requests went backwards": lambda c: setattr(c, "requests", 1),
    "fewer assigned than answered": lambda c: setattr(c, "assigned", 1),
    "no whole requests": lambda c: setattr(c, "requests", float(c.requests)),
    "too many to count": lambda c: setattr(c, "assigned", COUNT_MAX + 1),
    "more events than trials": lambda c: c.events.update({"one": 10**6}),
    "an event without trials": lambda c: c.events.update({"four": 1}),
    "a label that is no text": lambda c: c.trials.update({5: 1}),
    "a label without end": lambda c: c.trials.update({"x" * 65: 1}),
    "labels without end": lambda c: c.trials.update({f"n{i}": 1 for i in range(300)}),
    "no histogram": lambda c: setattr(c, "latency", [1]),
    "an empty list": lambda c: setattr(c, "gap", []),
}


def received(new: Counts, old: Counts) -> Counts:
    """What is new, as control finds it: decoded, checked, compared."""
    frame = msgspec.msgpack.encode(EpochCounts("r", 1, 500, new))
    entry = msgspec.msgpack.decode(frame, type=EpochCounts)
    check_entry(entry)
    return delta(entry.stable, old)


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_is_untrue_is_refused_when_it_is_decoded_or_when_it_is_taken(fault: str) -> None:
    rng = random.Random(fault)
    old = answered(Counts(), rng, 40)
    new = answered(old, rng, 10)
    FAULTS[fault](new)
    with pytest.raises((EvidenceError, msgspec.ValidationError)):
        received(new, old)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (EpochCounts("r", -1, 500), "-1 is not an epoch"),
        (EpochCounts("r", COUNT_MAX + 1, 500), "is not an epoch"),
        (EpochCounts("r", 1, 10_001), "epoch 1 has a weight of 10001 basis points"),
        (EpochCounts("r", 1, -1), "a weight of -1"),
        (EpochCounts("r", 7, 500, Counts(2, {"errors": 3})), "epoch 7: outcome classes hold 3 of 2 requests"),
        (EpochCounts("r", 7, 500, Counts(), Counts(9, assigned=8)), "epoch 7: 9 requests of 8 assigned"),
        (EpochCounts("r", 7, 0, Counts(2, latency={5: 3})), "epoch 7: latency histogram holds 3 of 2 requests"),
        (EpochCounts("r", 7, 500, Counts(COUNT_MAX + 1)), "over the largest possible count"),
        (EpochCounts("r", 7, 500, Counts(aborted={1: COUNT_MAX, 2: 1})), "over the largest possible count"),
    ],
)
def test_an_epoch_that_cannot_be_is_refused_with_its_number(entry: EpochCounts, said: str) -> None:
    with pytest.raises(EvidenceError, match=said):
        check_entry(entry)


@given(st.integers(0, 10**6))
def test_a_changed_count_is_refused_or_makes_counts_that_can_be_true(seed: int) -> None:
    rng = random.Random(seed)
    old = answered(Counts(), rng, rng.randrange(8))
    new = answered(old, rng, rng.randrange(8))
    histogram = getattr(new, rng.choice((*HISTOGRAMS, "trials", "events")))
    if histogram:
        histogram[rng.choice(list(histogram))] += rng.choice((-2, -1, 1, 2))
    new.enter("errors", rng.choice((-1, 0, 0, 1, 3)))
    try:
        check(new)
        found = delta(new, old)
    except EvidenceError:
        return
    check(found)

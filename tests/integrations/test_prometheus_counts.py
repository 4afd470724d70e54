"""From scraped samples to counts: resets, gaps, late scrapes, series that appear; and under which split they arose."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from gateway.core.stats.counts import Counts, check
from gateway.core.stats.histogram import lower_us, upper_us
from gateway.core.stats.outcomes import by_status
from gateway.integrations.prometheus.counters import CounterReader, Increment, ScrapedSeries
from gateway.integrations.prometheus.counting import SPLIT_CHANGED, UNKNOWN_STATUS, Counted, Splits

APART = {"le", "code"}


def series(*samples: tuple[float, float], code: str = "200", pod: str = "a", **labels: str) -> ScrapedSeries:
    found = {"code": code, "pod": pod} | labels
    return ScrapedSeries(frozenset(found.items()), samples)


def gained(increments: list[Increment]) -> list[tuple[float, float, int]]:
    return sorted((one.began_s, one.ended_s, one.gained) for one in increments)


def started(*first: ScrapedSeries) -> CounterReader:
    reader = CounterReader(APART)
    assert reader.take(first) == [], "counting begins at the first look"
    return reader


def test_each_sample_counts_once_however_windows_overlap() -> None:
    reader = started(series((0, 100), (15, 110)))
    assert gained(reader.take([series((0, 100), (15, 110), (30, 125))])) == [(15, 30, 15)]
    assert reader.take([series((15, 110), (30, 125))]) == []
    assert gained(reader.take([series((30, 125), (45, 125), (60, 130))])) == [(45, 60, 5)]


def test_a_counter_that_began_anew_counts_all_that_it_has() -> None:
    reader = started(series((0, 100)))
    assert gained(reader.take([series((15, 7), (30, 9))])) == [(0, 15, 7), (15, 30, 2)]


def test_a_gap_is_one_long_increment_and_a_late_sample_counts_when_it_comes() -> None:
    reader = started(series((0, 100)))
    assert reader.take([]) == []
    assert gained(reader.take([series((300, 190))])) == [(0, 300, 90)]
    assert reader.take([series((285, 170), (300, 190))]) == [], "what is older than that was counted with it"


def test_the_first_error_of_a_server_that_is_known_counts_from_zero() -> None:
    reader = started(series((0, 100)))
    found = reader.take([series((15, 110), (30, 120)), series((30, 4), code="500")])
    assert gained([one for one in found if one.label("code") == "500"]) == [(15, 30, 4)]


def test_a_server_that_appears_begins_where_it_is() -> None:
    reader = started(series((0, 100)))
    found = reader.take([series((15, 5_000_000), (30, 5_000_003), pod="b"), series((15, 9), code="500", pod="b")])
    assert gained(found) == [(15, 30, 3)], "another Prometheus, or another label, is no traffic"


def test_values_that_are_no_counts_are_left_out() -> None:
    reader = started(series((0, 100)))
    assert gained(reader.take([series((15, float("nan")), (30, 103), (45, float("inf")))])) == [(0, 30, 3)]


@pytest.mark.parametrize("seed", [11])
def test_no_reading_of_any_windows_counts_more_than_there_was(seed: int) -> None:
    """Of a truth with restarts, scraped irregularly and read in overlapping windows, nothing is counted twice."""
    dice = random.Random(seed)
    for run in range(50):
        samples, value, truth, at_s = [(0.0, 1000.0)], 1000.0, 0, 0.0
        for _ in range(60):
            at_s += dice.choice((5.0, 15.0, 120.0))
            added = dice.randrange(20)
            if dice.random() < 0.1:
                value = 0.0
            value, truth = value + added, truth + added
            samples.append((at_s, value))
        reader, found, read = CounterReader(APART), 0, 1
        reader.take([series(*samples[:1])])
        while read < len(samples):
            read = min(len(samples), read + dice.randrange(4))
            found += sum(one.gained for one in reader.take([series(*samples[dice.randrange(read) : read])]))
        assert found <= truth, f"seed {seed}, run {run}"
        # What a restart hides between two scrapes is all that is missing.
        hidden = sum(1 for before, now in itertools.pairwise(samples) if now[1] < before[1])
        assert hidden or found == truth, f"seed {seed}, run {run}"


def splits(*changes: tuple[int, int, float]) -> Splits:
    found = Splits()
    for epoch, weight_bp, at_s in changes:
        found.begin(epoch, weight_bp, at_s)
    return found


def counted(increments: list[Increment], known: Splits, label: str | None = "code") -> Counted:
    found = Counted(by_status(), label, 1e6)
    found.requests(increments, known)
    return found


def increment(began_s: float, ended_s: float, count: int, **labels: str) -> Increment:
    return Increment(frozenset(labels.items()), began_s, ended_s, count)


def test_an_increment_counts_under_the_split_of_its_whole_time() -> None:
    known = splits((5, 500, 0.0), (6, 2500, 100.0))
    known.end(200.0)
    found = counted(
        [increment(began_s, began_s + 15, 10, code="200") for began_s in (0, 85, 95, 100, 190, 300)],
        known,
    )
    assert {epoch: counts.requests for epoch, counts in found.take().items()} == {5: 20, 6: 10}
    assert found.dropped == {SPLIT_CHANGED: 30}


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *(("503", "overload"), ("500", "errors"), ("5xx", "errors"), ("5", "errors"), ("5XX", "errors")),
        *(("404", "not_found"), ("4xx", "client_errors"), ("3", "redirects"), ("204", "no_content")),
        *(("200", ""), ("2xx", ""), ("2", ""), ("0", "errors")),
    ],
)
def test_a_status_is_one_whether_whole_or_its_class(status: str, outcome: str) -> None:
    counts = counted([increment(0, 1, 3, code=status)], splits((1, 500, 0.0))).take()[1]
    assert (counts.requests, counts.outcomes) == (3, {outcome: 3} if outcome else {})


@pytest.mark.parametrize("status", ["", "OK", "1000", "5xxx", "-1", "²"])
def test_what_is_no_status_counts_for_nothing_and_is_said(status: str) -> None:
    found = counted([increment(0, 1, 3, code=status)], splits((1, 500, 0.0)))
    assert found.take() == {} and found.dropped == {UNKNOWN_STATUS: 3}


def test_without_a_label_all_are_answered_well() -> None:
    assert counted([increment(0, 1, 3)], splits((1, 500, 0.0)), None).take()[1] == Counts(3)


def buckets(count_of: dict[str, int], **labels: Any) -> list[Increment]:
    return [increment(0, 1, count, le=bound, **labels) for bound, count in count_of.items()]


def test_a_histogram_is_read_bucket_by_bucket_and_waits_for_its_requests() -> None:
    found, known = Counted(by_status(), "code", 1e6), splits((1, 500, 0.0))
    found.latencies(buckets({"0.1": 4, "0.5": 7, "+Inf": 9}), known)
    assert found.take() == {}, "Prometheus had the one counter sooner than the other"
    found.requests([increment(0, 1, 9, code="200")], known)
    counts = found.take()[1]
    check(counts)
    bounds = {0.1: 4, 0.5: 3, 1.0: 2}
    read = {(lower_us(bucket) / 1e6, upper_us(bucket) / 1e6): count for bucket, count in counts.latency.items()}
    assert sorted(read.values()) == sorted(bounds.values())
    assert all(any(low <= bound < high for low, high in read) for bound in bounds), read

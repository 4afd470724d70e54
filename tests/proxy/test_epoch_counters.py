"""Counters of one route: an ordinary request has one entry, and a report says the same of it as six would."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.stats.histogram import LATENCY_US_MAX
from gateway.core.stats.outcomes import OK
from gateway.core.traffic.table import Route
from gateway.core.types import Variant
from gateway.proxy.counting.counters import WorkerCounters
from gateway.proxy.counting.epoch_counters import EpochCounters
from gateway.runtime.wire import RouteTotals

TIMES_US = st.integers(0, 2 * LATENCY_US_MAX)
SIZES = st.integers(0, 1 << 40)
REQUESTS = st.lists(
    st.tuples(st.sampled_from([200, 201, 304]), TIMES_US, TIMES_US, SIZES, SIZES, st.booleans()), max_size=60
)


def counters() -> EpochCounters:
    return EpochCounters(
        Route("r", "/", stable="a"), 1, (RouteTotals("r", Variant.STABLE), RouteTotals("r", Variant.CANARY))
    )


@given(REQUESTS)
def test_one_entry_for_a_request_says_what_an_entry_for_each_count_says(
    requests: list[tuple[int, int, int, int, int, bool]],
) -> None:
    short, long = counters(), counters()
    one, other = short.of(Variant.CANARY), long.of(Variant.CANARY)
    for status, first_byte_us, duration_us, received, sent, report in requests:
        one.answered_well(status, first_byte_us, duration_us, received, sent)
        other.answered(status)
        other.sized(received, sent)
        other.tried(OK, first_byte_us, duration_us)
        other.count(OK, first_byte_us, duration_us)
        if report:
            one.settle()
    one.settle()
    other.settle()
    assert short.arms == long.arms
    assert short.totals == long.totals


def test_a_route_that_was_removed_may_come_back() -> None:
    counts = WorkerCounters("boot")
    kept, late = Route("kept", "/", stable="a"), Route("late", "/late", stable="a", canary="b")
    for epoch, routes in enumerate(((kept, late), (kept,), (kept, late), (), (late,)), 1):
        assert set(counts.enter_table(epoch, routes)) == {route.name for route in routes}
        assert set(counts.recent) == {route.name for route in routes}


def test_a_route_keeps_its_recent_answers_as_long_as_its_backends_do() -> None:
    counts = WorkerCounters("boot")
    counts.enter_table(1, (Route("r", "/", stable="a", canary="b"),))
    before = counts.recent["r"]
    counts.enter_table(2, (Route("r", "/", stable="a", canary="b", weight_bp=500),))
    assert counts.recent["r"] is before
    counts.enter_table(3, (Route("r", "/", stable="a", canary="c"),))
    assert counts.recent["r"] is not before


def test_the_times_of_a_stream_are_evidence_and_totals_and_what_had_none_is_no_total() -> None:
    made = counters()
    for variant, lasted_us in ((Variant.STABLE, 1_000), (Variant.CANARY, 30_000), (Variant.CANARY, 50_000)):
        made.first_token(variant, lasted_us, left=False)
    made.first_token(Variant.CANARY, 9_000_000, left=True)
    made.streamed(Variant.CANARY, 0.5, 0.02, left=False)
    (stable, canary), counted = made.totals, made.arms[Variant.CANARY]
    assert canary.first_token == counted.first_token and canary.per_token == counted.time_per_event
    assert (stable.first_token_us_sum, canary.first_token_us_sum, canary.per_token_us_sum) == (1_000, 80_000, 20_000)
    assert sum(counted.first_token_left.values()) == 1

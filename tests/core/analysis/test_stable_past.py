"""What is learnt of stable's bad moments (bursts/past.py), with a simulated clock."""

from __future__ import annotations

import random

import msgspec
import pytest

from gateway.core.analysis.bursts.past import LONGEST_S, StablePast, add, weather


def serve(
    past: StablePast, seconds: float, per_s: float, bad: list[tuple[float, float]], seed: int = 1, share: float = 1.0
) -> StablePast:
    """Stable at 10 looks a second; it fails in the moments ``bad``, else one request in 500."""
    rng, begin_s = random.Random(seed), past.at_s or 0.0
    for tick in range(1, round(seconds * 10) + 1):
        at_s = begin_s + tick / 10
        requests = int(per_s / 10) + (rng.random() < per_s / 10 % 1)
        rate = share if any(since < at_s - begin_s <= since + length for since, length in bad) else 0.002
        past = add(past, at_s, requests, sum(rng.random() < rate for _ in range(requests)))
    return past


@pytest.mark.parametrize("per_s", [15.0, 200.0])
@pytest.mark.parametrize("share", [1.0, 0.4])
def test_moments_are_counted_and_measured(per_s: float, share: float) -> None:
    known = weather(serve(StablePast(), 300.0, per_s, [(50.0, 2.0), (120.0, 1.0), (250.0, 3.0)], share=share))
    assert known.moments == 3
    assert known.known_s == pytest.approx(300.0, rel=0.01)
    assert 3.0 <= known.longest_s <= 4.6
    assert 1.5 < known.mean_s < 3.0
    assert 66.0 < known.apart_s < 70.0


def test_failures_by_chance_are_no_moments_and_make_the_usual_rate() -> None:
    past = serve(StablePast(), 300.0, 200.0, [])
    assert weather(past).moments == 0
    assert past.rate == pytest.approx(0.002, rel=0.5)


def test_the_usual_rate_leaves_moments_out() -> None:
    past = serve(StablePast(), 300.0, 200.0, [(float(second), 1.0) for second in range(10, 300, 20)])
    assert weather(past).moments == 15
    assert past.rate < 0.004


def test_an_outage_excuses_nobody_and_becomes_usual() -> None:
    past = serve(StablePast(), 200.0, 50.0, [(20.0, 2.0), (60.0, 5 * LONGEST_S)])
    assert weather(past).moments == 1
    assert weather(past).longest_s <= 3.2
    assert past.rate > 0.2


def test_nothing_is_known_of_time_without_requests_or_looks() -> None:
    past = serve(StablePast(), 60.0, 50.0, [(20.0, 1.0)])
    past = serve(past, 600.0, 0.0, [])
    assert past.at_s is not None
    later = add(past, past.at_s + 3600.0, 5, 5)
    later = serve(later, 30.0, 50.0, [])
    assert weather(later).known_s == pytest.approx(90.0, abs=2.0)
    assert weather(later).moments == 1
    earlier = serve(add(later, 5.0, 3, 0), 30.0, 50.0, [])
    assert weather(earlier).known_s == pytest.approx(120.0, abs=3.0)


def test_it_is_a_small_value_that_survives_the_journal() -> None:
    past = serve(StablePast(), 30.0, 100.0, [(10.0, 1.0), (29.5, 1.0)])
    assert past.stretch is not None
    data = msgspec.json.encode(past)
    assert len(data) < 700
    assert msgspec.json.decode(data, type=StablePast) == past

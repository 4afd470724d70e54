"""Sticky sessions are counted once, failures at once, in bounded memory, by one worker each."""

from __future__ import annotations

import pytest

from gateway.core.stats.counts import RETURNING, SESSION_EVENTS, check
from gateway.core.stats.outcomes import NAMES
from gateway.core.traffic import Route, Sticky, bucket_of_key
from gateway.core.types import Variant
from gateway.proxy.counting import sticky_sessions as module
from gateway.proxy.counting.counters import WorkerCounters
from gateway.proxy.counting.epoch_counters import EpochCounters
from gateway.proxy.counting.sticky_sessions import WELL_AGAIN_S, WINDOW_S, StickySessions
from tests.support.backend import Backend, answer
from tests.support.worker import RunningWorker, eventually, table

pytestmark = pytest.mark.anyio

ERRORS = SESSION_EVENTS["errors"]


def route(weight_bp: int = 1000) -> Route:
    return Route("r", "/", "a", "b", weight_bp, sticky=Sticky(header="x-session"))


def tally_of(weight_bp: int = 1000) -> tuple[WorkerCounters, EpochCounters]:
    whole = WorkerCounters("boot")
    return whole, whole.enter_table(1, (route(weight_bp),))["r"]


def points(n: int) -> list[float]:
    return [bucket_of_key(str(i).encode(), "salt") for i in range(n)]


def entered(tally: EpochCounters, variant: Variant) -> tuple[int, int]:
    counts = tally.arms[variant]
    check(counts)
    return counts.trials.get(ERRORS, 0), counts.events.get(ERRORS, 0)


def test_a_session_is_one_trial_however_often_it_comes() -> None:
    whole, tally = tally_of()
    sessions = whole.sessions["r"]
    for second in range(20):
        for unit in points(50):
            sessions.outcome(unit, tally, Variant.CANARY, "ok", float(second))
        whole.sweep_sessions(float(second))
    whole.sweep_sessions(20.0 + WINDOW_S)
    assert entered(tally, Variant.CANARY) == (50, 0) and tally.open == 0


def test_a_failure_is_entered_at_once_and_a_success_when_the_window_ends() -> None:
    whole, tally = tally_of()
    sessions = whole.sessions["r"]
    good, bad, late = points(3)
    for unit in (good, bad, late):
        sessions.outcome(unit, tally, Variant.STABLE, "ok", 0.0)
    assert tally.open == 3 and entered(tally, Variant.STABLE) == (0, 0)
    sessions.outcome(bad, tally, Variant.STABLE, "errors", 1.0)
    assert entered(tally, Variant.STABLE) == (1, 1)
    whole.sweep_sessions(WINDOW_S - 0.01)
    assert entered(tally, Variant.STABLE) == (1, 1)
    whole.sweep_sessions(WINDOW_S)
    sessions.outcome(late, tally, Variant.STABLE, "errors", WINDOW_S + 1.0)
    assert entered(tally, Variant.STABLE) == (3, 1) and tally.open == 0


def test_a_success_in_another_form_waits_for_a_failure_that_says_more() -> None:
    whole, tally = tally_of()
    sessions = whole.sessions["r"]
    created, failing, plain = points(3)
    for unit, kinds in (
        (created, ("ok", "other_success", "ok")),
        (failing, ("other_success", "errors")),
        (plain, ("ok",)),
    ):
        for kind in kinds:
            sessions.outcome(unit, tally, Variant.STABLE, kind, 0.0)
    assert entered(tally, Variant.STABLE) == (1, 1), "what fails is entered at once"
    whole.sweep_sessions(WINDOW_S)
    counts = tally.arms[Variant.STABLE]
    assert counts.trials == dict.fromkeys(SESSION_EVENTS.values(), 3) and tally.open == 0
    assert counts.events == {SESSION_EVENTS["errors"]: 1, SESSION_EVENTS["other_success"]: 1}


def test_classes_are_distinguished() -> None:
    whole, tally = tally_of()
    sessions = whole.sessions["r"]
    for unit, kind in zip(points(len(NAMES)), NAMES, strict=True):
        sessions.outcome(unit, tally, Variant.CANARY, kind, 0.0)
    whole.sweep_sessions(WINDOW_S)
    counts = tally.arms[Variant.CANARY]
    assert counts.trials == dict.fromkeys(SESSION_EVENTS.values(), len(NAMES))
    assert counts.events == dict.fromkeys(SESSION_EVENTS.values(), 1)


def returned(tally: EpochCounters, variant: Variant = Variant.CANARY) -> tuple[int, int]:
    counts = tally.arms[variant]
    check(counts)
    return counts.trials.get(RETURNING, 0), counts.events.get(RETURNING, 0)


def test_a_session_that_was_well_fails_once_when_it_comes_back() -> None:
    whole, tally = tally_of()
    sessions, (unit,) = whole.sessions["r"], points(1)

    def request(kind: str, at_s: float) -> None:
        whole.sweep_sessions(at_s)
        sessions.outcome(unit, tally, Variant.CANARY, kind, at_s)

    request("ok", 0.0)
    request("ok", 10.0)
    assert returned(tally) == (0, 0), "its window is open"
    request("ok", 20.0)
    assert returned(tally) == (1, 0)
    request("errors", 24.0)
    assert returned(tally) == (2, 1), "at once"
    for at_s in range(25, 300):
        request("errors", float(at_s))
    request("ok", 300.0)
    request("ok", 310.0)
    assert returned(tally) == (2, 1) and entered(tally, Variant.CANARY) == (1, 0), "and once, however often"
    request("ok", 299.0 + WELL_AGAIN_S)
    request("errors", 300.0 + WELL_AGAIN_S)
    assert returned(tally) == (3, 2), "it had been well again"
    assert tally.open == 0


def test_a_session_whose_requests_always_fail_never_returns() -> None:
    whole, tally = tally_of()
    for second in range(1000):
        whole.sweep_sessions(float(second))
        whole.sessions["r"].outcome(points(1)[0], tally, Variant.CANARY, "errors", float(second))
    assert entered(tally, Variant.CANARY) == (1, 1) and returned(tally) == (0, 0)


def test_a_window_of_a_returning_session_keeps_its_epoch_open() -> None:
    whole, first = tally_of()
    sessions, (unit,) = whole.sessions["r"], points(1)
    sessions.outcome(unit, first, Variant.STABLE, "ok", 0.0)
    whole.sweep_sessions(10.0)
    sessions.outcome(unit, first, Variant.STABLE, "ok", 10.0)
    assert first.open == 1
    second = whole.enter_table(2, (route(5000),))["r"]
    sessions.outcome(unit, second, Variant.CANARY, "errors", 11.0)
    assert first.open == second.open == 0
    assert returned(first, Variant.STABLE) == (0, 0) and returned(second) == (1, 1), "it failed where it was"


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNITS_MAX", 100)
    whole, tally = tally_of()
    sessions = whole.sessions["r"]
    for second, unit in enumerate(points(5000)):
        sessions.outcome(unit, tally, Variant.STABLE, "ok" if second % 3 else "errors", second / 100)
        whole.sweep_sessions(second / 100)
        assert len(sessions) <= 200


def test_each_session_belongs_to_one_worker() -> None:
    owners = [0] * 3
    for unit in points(300):
        for index in range(3):
            _, tally = tally_of()
            StickySessions(index, 3).outcome(unit, tally, Variant.STABLE, "errors", 0.0)
            owners[index] += entered(tally, Variant.STABLE)[0]
    assert sum(owners) == 300 and min(owners) > 60


def test_an_epoch_with_an_open_session_is_not_final_and_keeps_it() -> None:
    """A session that moves to the canary under the next epoch stays the stable session that it was."""
    whole, first = tally_of()
    sessions = whole.sessions["r"]
    (unit,) = points(1)
    sessions.outcome(unit, first, Variant.STABLE, "ok", 0.0)
    second = whole.enter_table(2, (route(5000),))["r"]
    assert whole.sessions["r"] is sessions
    sessions.outcome(unit, second, Variant.CANARY, "errors", 1.0)
    whole.acknowledged(whole.report(2, 0, 0, 0).seq)
    assert len(whole.report(2, 0, 0, 0).evidence) == 2
    whole.sweep_sessions(WINDOW_S)
    assert entered(first, Variant.STABLE) == (1, 0) and entered(second, Variant.CANARY) == (0, 0)
    whole.acknowledged(whole.report(2, 0, 0, 0).seq)
    assert len(whole.report(2, 0, 0, 0).evidence) == 1


def test_a_new_experiment_knows_no_session() -> None:
    whole, tally = tally_of()
    (unit,) = points(1)
    sessions = whole.sessions["r"]
    sessions.outcome(unit, tally, Variant.STABLE, "ok", 0.0)
    whole.enter_table(2, (route(0),))
    assert "r" not in whole.sessions
    assert entered(tally, Variant.STABLE) == (1, 0) and tally.open == 0
    again = whole.enter_table(3, (route(),))["r"]
    sessions = whole.sessions["r"]
    sessions.outcome(unit, again, Variant.STABLE, "errors", 0.0)
    assert entered(again, Variant.STABLE) == (1, 1)


async def test_a_worker_counts_its_sessions_over_real_connections() -> None:
    """Ten sessions of three requests each; the canary fails: its sessions are entered at once, once each."""
    sticky = Route("r", "/", "a", "b", 5000, sticky=Sticky(header="x-session"), salt="s")
    expected = sum(bucket_of_key(str(i).encode(), "s") < 5000 for i in range(10))
    async with Backend(answer()) as a, Backend(answer(500)) as b, RunningWorker(table(sticky, a=a.port, b=b.port)) as w:
        for request in range(30):
            await w.raw(b"GET /m HTTP/1.1\r\nHost: h\r\nX-Session: %d\r\nConnection: close\r\n\r\n" % (request % 10))
        await eventually(lambda: sum(w.counts()[::2]) == 30, "all requests are reported")
        await eventually(lambda: w.evidence()[-1].canary.events.get(ERRORS) == expected, "the sessions are reported")
        entry = w.evidence()[-1]
    assert entry.canary.of("errors") == 3 * expected and entry.canary.trials[ERRORS] == expected
    # Stable's sessions are still in their first seconds.
    assert entry.stable.trials == {}

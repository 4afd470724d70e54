"""Requests that were not let in: limited by address, counted, and an alarm that ends by itself."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin import auth_failures
from gateway.admin.auth_failures import ALARM, ALARM_PER_MINUTE, BURST, PER_MINUTE, AuthFailures
from gateway.admin.connections import Connections
from gateway.admin.listener_metrics import listener_metrics
from gateway.runtime.clock import SystemClock
from tests.admin.control_double import Served
from tests.support.control import ManualClock


class AlarmRecorder:
    """The alarm as it stands, and how often it was reported."""

    def __init__(self) -> None:
        self.standing = ""
        self.times = 0

    def __call__(self, what: str, why: str) -> None:
        assert what == ALARM
        self.standing = why
        self.times += 1


def test_an_address_may_fail_so_often_and_another_is_not_held_to_it() -> None:
    clock = ManualClock()
    made = AuthFailures(clock)
    assert [made.fail("192.0.2.7", "invalid") for _ in range(BURST + 3)] == [True] * BURST + [False] * 3
    assert made.fail("192.0.2.8", "missing")
    clock.now_s += 60 / PER_MINUTE
    assert made.fail("192.0.2.7", "invalid") and not made.fail("192.0.2.7", "invalid")
    assert made.failed == {"missing": 1, "invalid": BURST + 1, "cross_origin": 0, "forbidden": 0, "limited": 4}
    families = {family.name: family for family in listener_metrics(Connections(4), made)}
    samples = families["gateway_admin_auth_failures"].samples
    assert {sample.labels["reason"]: sample.value for sample in samples} == made.failed


def test_a_valid_token_without_the_scope_counts_for_the_alarm_and_takes_nothing_of_the_limit() -> None:
    clock, reported = ManualClock(), AlarmRecorder()
    made = AuthFailures(clock, reported)
    for _ in range(2 * BURST):
        made.forbid("192.0.2.7")
    assert made.failed == {"missing": 0, "invalid": 0, "cross_origin": 0, "forbidden": 2 * BURST, "limited": 0}
    assert "192.0.2.7" in reported.standing
    assert made.fail("192.0.2.7", "invalid"), "another client at this address may still fail"


def test_one_customers_addresses_count_as_one() -> None:
    made = AuthFailures(ManualClock())
    for n in range(BURST):
        assert made.fail(f"2001:db8::{n:x}", "invalid")
    assert not made.fail("2001:db8::ffff", "invalid")
    assert made.fail("2001:db8:0:1::1", "invalid")
    for _ in range(BURST):
        made.fail("192.0.2.7", "invalid")
    assert not made.fail("::ffff:192.0.2.7", "invalid"), "an address on a dual-stack socket is the same one"


def test_the_alarm_names_the_address_and_is_over_after_a_quiet_minute() -> None:
    clock, reported = ManualClock(), AlarmRecorder()
    made = AuthFailures(clock, reported)
    for _ in range(ALARM_PER_MINUTE - 1):
        made.fail("192.0.2.7", "invalid")
        clock.now_s += 1
    assert reported.times == 0
    made.fail("192.0.2.8", "invalid")
    assert "192.0.2.7" in reported.standing and str(ALARM_PER_MINUTE) in reported.standing
    made.fail("192.0.2.7", "invalid")
    assert reported.times == 1, "it is reported once"
    clock.now_s += 61
    made.look()
    assert (reported.standing, reported.times) == ("", 2)


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 5000)), max_size=300))
def test_whatever_comes_the_memory_is_bounded_and_no_count_is_lost(fails: list[tuple[float, int]]) -> None:
    clock = ManualClock()
    made = AuthFailures(clock)
    for wait_s, address in fails:
        clock.now_s += wait_s
        made.fail(f"10.0.{address // 256}.{address % 256}", "missing")
    assert sum(made.failed.values()) == len(fails)


def test_old_addresses_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth_failures, "_ADDRESSES_MAX", 3)
    made = AuthFailures(ManualClock())
    for _ in range(BURST):
        made.fail("192.0.2.1", "invalid")
    for n in (2, 3):
        made.fail(f"192.0.2.{n}", "invalid")
    assert not made.fail("192.0.2.1", "invalid"), "it is remembered, and is now the newest"
    for n in (4, 5, 6):
        made.fail(f"192.0.2.{n}", "invalid")
    assert made.fail("192.0.2.1", "invalid"), "three others came since"


def test_who_guesses_has_to_wait_and_who_has_the_token_has_not() -> None:
    with Served(token="right", auth_failures=AuthFailures(SystemClock(), burst=3)) as api:
        with httpx.Client(base_url=api.url) as client:
            wrong = [client.get("/api/v1/routes", headers={"authorization": "Bearer wrong"}) for _ in range(6)]
            assert [answer.status_code for answer in wrong] == [401] * 3 + [429] * 3
            assert wrong[-1].headers["retry-after"] == "3" and "too-many-failures" in wrong[-1].json()["type"]
            right = {"authorization": "Bearer right"}
            assert client.get("/api/v1/routes", headers=right).status_code == 200
            assert client.get("/readyz").status_code == 200
            trail = client.get("/api/v1/audit", headers=right).json()["entries"]
            assert [entry["status"] for entry in trail].count(401) == 3, "the audit trail does not grow with an attack"
            assert 429 not in [entry["status"] for entry in trail]

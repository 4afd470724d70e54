"""What becomes of a failed attempt, as a table: no socket, no clock."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.proxy.exchange import retry
from gateway.proxy.exchange.retry import Failed, decide

NAMES = {getattr(retry, name): name.lower() for name in ("RELAY", "FRESH", "NEXT", "AGAIN", "RESCUE", "ANSWER")}

# case: (how it failed, on the canary?, what differs from a request of which all may be tried) -> what happens, and why
STABLE, CANARY = False, True
TABLE: dict[str, tuple[int, bool, dict[str, Any], str, str]] = {
    "a stale connection is free": (retry.STALE, STABLE, {"retry_budget": False}, "fresh", ""),
    "and so on the canary": (retry.STALE, CANARY, {"rescue_budget": False}, "fresh", ""),
    "but once": (retry.STALE, STABLE, {"fresh": True}, "answer", "no_endpoint"),
    "a stale connection of what may not be sent twice": (
        *(retry.STALE, STABLE, {"replayable": False}, "answer", "not_replayable"),
    ),
    "stable's reset": (retry.BROKEN, STABLE, {}, "next", ""),
    "stable's reset without a budget": (retry.BROKEN, STABLE, {"retry_budget": False}, "answer", "budget"),
    "the rescue budget is another": (retry.BROKEN, STABLE, {"rescue_budget": False}, "next", ""),
    "no other endpoint": (retry.BROKEN, STABLE, {"untried": False}, "again", ""),
    "no other endpoint, after a pause": (
        retry.BROKEN,
        STABLE,
        {"untried": False, "paused": True},
        "answer",
        "no_endpoint",
    ),
    "a pause takes a token": (retry.BROKEN, STABLE, {"untried": False, "retry_budget": False}, "answer", "budget"),
    "the answer has begun": (retry.BROKEN, STABLE, {"begun": True}, "answer", "answer_begun"),
    "the canary's answer has begun": (retry.BROKEN, CANARY, {"begun": True}, "answer", "answer_begun"),
    "may not be sent twice": (retry.BROKEN, CANARY, {"replayable": False}, "answer", "not_replayable"),
    "may not be sent twice, and was not sent": (
        *(retry.BROKEN, CANARY, {"replayable": False, "sent": False}, "rescue", ""),
    ),
    "the body is gone": (retry.BROKEN, CANARY, {"kept": False}, "answer", "body_not_kept"),
    "the canary's reset": (retry.BROKEN, CANARY, {}, "rescue", ""),
    "a rescue takes a token": (retry.BROKEN, CANARY, {"rescue_budget": False}, "answer", "budget"),
    "the retry budget is another": (retry.BROKEN, CANARY, {"retry_budget": False}, "rescue", ""),
    "a canary without a stable": (retry.BROKEN, CANARY, {"has_stable": False}, "next", ""),
    "a canary without a stable, all tried": (
        *(retry.BROKEN, CANARY, {"has_stable": False, "untried": False, "paused": True}, "answer", "no_stable"),
    ),
    "a status of stable's": (retry.STATUS, STABLE, {}, "next", ""),
    "a status of stable's, all tried": (retry.STATUS, STABLE, {"untried": False}, "relay", "no_endpoint"),
    "a status of the canary's": (retry.STATUS, CANARY, {}, "rescue", ""),
    "a status of the canary's without a budget": (retry.STATUS, CANARY, {"rescue_budget": False}, "relay", "budget"),
    "a status of the canary's without the body": (retry.STATUS, CANARY, {"kept": False}, "relay", "body_not_kept"),
    "no time at all": (retry.BROKEN, CANARY, {"left_s": 0.0}, "answer", "no_time"),
    "nowhere to send it": (retry.UNSERVED, STABLE, {"sent": False}, "answer", "no_endpoint"),
    "nowhere to send it but to stable": (retry.UNSERVED, CANARY, {"sent": False}, "rescue", ""),
    # never the same slow work twice: 15 s for the first byte, 300 s in all, answers that take 17 s
    "stable is quick": (
        *(retry.TIMED_OUT, CANARY, {"usual_s": 0.1, "spent_s": 15, "first_byte_s": 15, "left_s": 285}, "rescue", ""),
    ),
    "stable is as slow": (
        *(
            retry.TIMED_OUT,
            CANARY,
            {"usual_s": 17, "spent_s": 15, "first_byte_s": 15, "left_s": 285},
            "answer",
            "no_time",
        ),
    ),
    "stable is quick, and there is less time yet": (
        *(retry.TIMED_OUT, CANARY, {"usual_s": 2, "spent_s": 15, "first_byte_s": 15, "left_s": 1}, "answer", "no_time"),
    ),
    "nothing is known of stable": (
        *(retry.TIMED_OUT, CANARY, {"spent_s": 15.02, "first_byte_s": 15, "left_s": 285}, "rescue", ""),
    ),
    "nothing is known of stable, and as much time is not left": (
        *(retry.TIMED_OUT, CANARY, {"spent_s": 15, "first_byte_s": 15, "left_s": 14}, "answer", "no_time"),
    ),
    "stable has not answered yet": (
        *(retry.TIMED_OUT, CANARY, {"spent_s": 15, "left_s": 285, "silent": True}, "answer", "no_time"),
    ),
    "an endpoint hangs": (
        *(retry.TIMED_OUT, STABLE, {"usual_s": 0.1, "spent_s": 15, "first_byte_s": 15, "left_s": 285}, "next", ""),
    ),
    "the only endpoint hangs": (retry.TIMED_OUT, STABLE, {"usual_s": 0.1, "untried": False}, "answer", "no_endpoint"),
    "what broke off may take its time again": (retry.BROKEN, CANARY, {"usual_s": 17, "left_s": 3}, "rescue", ""),
}


@pytest.mark.parametrize("case", TABLE)
def test_what_becomes_of_an_attempt(case: str) -> None:
    cause, canary, changes, action, refused = TABLE[case]
    failed = Failed(cause, canary=canary, has_stable=changes.get("has_stable", True))
    for name, value in changes.items():
        setattr(failed, name, value)
    decision = decide(failed)
    assert (NAMES[decision.action], decision.refused) == (action, refused)

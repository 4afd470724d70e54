"""What becomes of an attempt that failed: tried again, given to stable, or over. One pure function, read as a table.

Rules, in the order in which they are looked at:

1. A kept connection that the backend closed under the request is no failure: once more, on a fresh connection.
2. Nothing is tried again after a byte of an answer has reached the client, without the whole of the request's body, or
   when the route's requests may not be sent twice; the last is no obstacle as long as nothing was sent.
3. Never the same slow work twice. After a time-out the next attempt must be able to do better in the time that is left:
   a backend whose answers are known to take longer is not asked. Of one that nothing is known of, the same is assumed
   as of the attempt that timed out, unless it has requests under way and answers none: then it is slow as well.
4. A canary's failure is given to stable (a *rescue*). Without a stable backend it is retried as stable's are.
5. What failed is tried on another endpoint of its backend; an answer by its status only where the route says so.
6. A backend whose endpoints have all been tried is asked once more after a moment, when the last connection was refused
   or broke off: that is what a restart looks like.
7. Each of these takes a token: rescues of the rescue budget, retries of the retry budget.

The first failure of a request is its variant's failure, whatever comes after it.
"""

from __future__ import annotations

from typing import Final

# What to do.
RELAY: Final = 0  # the answer goes to the client as it is
FRESH: Final = 1  # the same endpoint, on a new connection
NEXT: Final = 2  # another endpoint of the backend
AGAIN: Final = 3  # the same endpoints, after a moment
RESCUE: Final = 4  # stable's turn
ANSWER: Final = 5  # the gateway's error names what failed

# How an attempt failed.
STALE: Final = 0  # its kept connection had been closed
BROKEN: Final = 1  # refused, reset, malformed
TIMED_OUT: Final = 2
STATUS: Final = 3  # answered, with a status that may be retried
UNSERVED: Final = 4  # never sent, for a want of the gateway's: no endpoint, no room in the queue, no descriptors

# Why nothing more is tried; the label `reason` of two metrics.
ANSWER_BEGUN: Final = "answer_begun"
NOT_REPLAYABLE: Final = "not_replayable"
BODY_NOT_KEPT: Final = "body_not_kept"
NO_TIME: Final = "no_time"
NO_STABLE: Final = "no_stable"
NO_ENDPOINT: Final = "no_endpoint"
BUDGET: Final = "budget"


class Failed:
    """An attempt that failed, and what there is to go on with. Times in seconds; ``usual_s`` is 0 where it is unknown.

    ``spent_s`` is what this attempt took, ``left_s`` what is left of the exchange's time, ``usual_s`` what the backend
    that would be asked next usually takes at most, ``silent`` whether that one has requests under way and answers none.
    """

    __slots__ = (
        "begun",
        "canary",
        "cause",
        "first_byte_s",
        "fresh",
        "has_stable",
        "kept",
        "left_s",
        "paused",
        "replayable",
        "rescue_budget",
        "retry_budget",
        "sent",
        "silent",
        "spent_s",
        "untried",
        "usual_s",
    )

    def __init__(self, cause: int, *, canary: bool = False, has_stable: bool = True) -> None:
        self.cause = cause
        self.canary = canary
        self.has_stable = has_stable
        # Of the request: whether it was sent at all, may be sent twice, can be, and has been answered in part.
        self.sent = self.replayable = self.kept = True
        self.begun = False
        # Whether a fresh connection, or a pause, was this request's lot already.
        self.fresh = self.paused = False
        # Whether its backend has an endpoint left that was not tried.
        self.untried = True
        self.rescue_budget = self.retry_budget = True
        self.spent_s = self.usual_s = 0.0
        self.first_byte_s = self.left_s = 1.0
        self.silent = False


class RetryDecision:
    """What to do; ``refused`` says why it is no more than RELAY or ANSWER, and is empty otherwise."""

    __slots__ = ("action", "refused")

    def __init__(self, action: int, refused: str = "") -> None:
        self.action = action
        self.refused = refused


def decide(failed: Failed) -> RetryDecision:
    """The rules above."""
    over = RELAY if failed.cause == STATUS else ANSWER
    if failed.begun:
        return RetryDecision(over, ANSWER_BEGUN)
    if failed.sent and not failed.replayable:
        return RetryDecision(over, NOT_REPLAYABLE)
    if not failed.kept:
        return RetryDecision(over, BODY_NOT_KEPT)
    if failed.cause == STALE and not failed.fresh:
        return RetryDecision(FRESH)
    if failed.left_s <= 0.0 or (failed.cause == TIMED_OUT and not _has_time(failed)):
        return RetryDecision(over, NO_TIME)
    if failed.canary and failed.has_stable:
        return RetryDecision(RESCUE) if failed.rescue_budget else RetryDecision(over, BUDGET)
    return _retried(failed, over)


def _has_time(failed: Failed) -> bool:
    if failed.usual_s > 0.0:
        return failed.usual_s <= min(failed.first_byte_s, failed.left_s)
    return failed.spent_s <= failed.left_s and not failed.silent


def _retried(failed: Failed, over: int) -> RetryDecision:
    none = NO_STABLE if failed.canary else NO_ENDPOINT
    if failed.cause in (STALE, UNSERVED):
        return RetryDecision(over, none)
    if failed.untried:
        action = NEXT
    elif failed.cause == BROKEN and not failed.paused:
        action = AGAIN
    else:
        return RetryDecision(over, none)
    return RetryDecision(action) if failed.retry_budget else RetryDecision(over, BUDGET)

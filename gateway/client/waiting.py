"""Waiting for a rollout's end, as steps that a client carries out: calls, and pauses in seconds. No I/O, no clock.

Rules:

1. One long poll after the other: nothing is asked more often than something is decided, or once a minute.
2. A gateway that is away may come back, and its journal remembers the rollout: restarts, broken connections, proxies
   that answer 502 are waited out for ``away_s_max``. Any other refusal ends the wait.
3. Every state is seen once and in order; those between two answers may be skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

from gateway.api_types import RolloutBody
from gateway.client import calls
from gateway.client.calls import Call
from gateway.client.errors import ApiError, WaitTimeoutError

AWAY_S_MAX = 120.0
_ASK_AGAIN_S = 0.2
_ASK_AGAIN_S_MAX = 5.0

OnEvent = Callable[[RolloutBody], object]
Waiting = Generator[Call[RolloutBody] | float, "RolloutBody | ApiError | None", RolloutBody]


def waiting(
    rollout: RolloutBody | str,
    timeout_s: float | None,
    on_event: OnEvent | None,
    now: Callable[[], float],
    away_s_max: float = AWAY_S_MAX,
) -> Waiting:
    """What is to be done until it has ended; it is returned then. Raises WaitTimeoutError, and refusals.

    A call is answered by its result (None: nothing has changed), or by the error that it ended in; a number by None
    after so many seconds.
    """
    deadline_s = None if timeout_s is None else now() + timeout_s
    seen = rollout if isinstance(rollout, RolloutBody) else None
    if seen is not None and on_event is not None:
        on_event(seen)
    away_since_s: float | None = None
    pause_s = _ASK_AGAIN_S
    while seen is None or not seen.ended:
        left_s = float("inf") if deadline_s is None else deadline_s - now()
        if left_s <= 0 and seen is not None and timeout_s is not None:
            raise WaitTimeoutError(seen, timeout_s)
        answer = yield calls.rollout(str(rollout)) if seen is None else calls.changed(seen, left_s)
        if isinstance(answer, ApiError):
            away_since_s = now() if away_since_s is None else away_since_s
            if not answer.passing or now() - away_since_s >= away_s_max or left_s <= 0:
                raise answer
            yield max(0.0, min(pause_s, left_s))
            pause_s = min(2 * pause_s, _ASK_AGAIN_S_MAX)
            continue
        away_since_s, pause_s = None, _ASK_AGAIN_S
        if answer is None:
            continue
        if on_event is not None and (seen is None or answer.revision != seen.revision):
            on_event(answer)
        seen = answer
    return seen

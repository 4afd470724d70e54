"""Answers that many clients ask for at once: made and encoded once, and given to all of them for a moment.

Rules:

1. An answer serves everybody for `KEPT_S`; so however many consoles are open, each view is made that often at most.
2. Of different questions so many are kept as `KEPT_MAX`; the oldest goes.
3. What is raised is not kept.
4. Who has changed something sees it in the next answer: whatever was made before a change is not given after it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gateway.runtime.clock import Clock

KEPT_S = 0.5
KEPT_MAX = 64


class SharedAnswers:
    """Encoded answers by what was asked."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: dict[tuple[str, ...], tuple[float, bytes]] = {}
        self._changes = 0

    async def get(self, question: tuple[str, ...], make: Callable[[], Awaitable[bytes]]) -> bytes:
        """The answer to the question, made anew when it is too old."""
        now_s = self._clock.monotonic_s()
        known = self._kept.get(question)
        if known is not None and 0.0 <= now_s - known[0] < KEPT_S:
            return known[1]
        before = self._changes
        body = await make()
        if self._changes != before:
            return body
        self._kept.pop(question, None)
        self._kept[question] = (self._clock.monotonic_s(), body)
        if len(self._kept) > KEPT_MAX:
            del self._kept[next(iter(self._kept))]
        return body

    def forget(self) -> None:
        """Something has been changed, or may have been."""
        self._changes += 1
        self._kept.clear()

"""How many rescues and retries a route may have: a share of its requests, and a burst that is saved up."""

from __future__ import annotations

from gateway.core.traffic.table import Route


class Budget:
    """A token bucket in requests: every request on the route adds a share, a rescue (or a retry) takes one."""

    __slots__ = ("_max", "_share", "tokens")

    def __init__(self, percent: float, burst: int) -> None:
        self._share = percent / 100
        self._max = self.tokens = float(burst)

    def adopt(self, percent: float, burst: int) -> None:
        """Take over new limits, keeping what was saved up."""
        self._share = percent / 100
        self._max = float(burst)
        self.tokens = min(self.tokens, self._max)

    @property
    def half_spent(self) -> bool:
        """Whether no more than half of what may be saved up is left."""
        return 2 * self.tokens <= self._max

    def deposit(self) -> None:
        """One request came along the route."""
        self.tokens = min(self._max, self.tokens + self._share)

    def take(self) -> None:
        """Take the token that was seen to be there."""
        self.tokens -= 1


def budgets_of(route: Route, known: tuple[Budget, Budget] | None) -> tuple[Budget, Budget]:
    """A route's budgets for rescues and for retries; what is saved up outlives the table."""
    limits = (
        (route.rescue.budget_percent, route.rescue.budget_burst),
        (route.retry.budget_percent, route.retry.budget_burst),
    )
    if known is None:
        return Budget(*limits[0]), Budget(*limits[1])
    known[0].adopt(*limits[0])
    known[1].adopt(*limits[1])
    return known

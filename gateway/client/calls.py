"""The operations of the admin API as values: what is sent, and as what the answer is read. No I/O in here.

`Client` and `AsyncClient` carry them out; both have the same methods because both are made of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from gateway.api_types import (
    Readiness,
    RolloutBody,
    RolloutList,
    RouteList,
    RouteView,
    StoryBody,
)

T = TypeVar("T")
# Shorter than the API would let one wait: proxies between may cut a silent connection.
WAIT_S_MAX = 60.0
PREFIX = "/api/v1"
# What is not below /api/v1.
_OUTSIDE = frozenset({"/metrics", "/healthz", "/readyz", "/openapi.json"})


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request. ``path`` is below /api/v1, or one of the few that are not; ``more_s``: it may take longer by that.

    ``accepted`` are statuses that are answers, not refusals.
    """

    method: str
    path: str
    kind: type[T]
    body: Any = None
    params: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    more_s: float = 0.0
    accepted: tuple[int, ...] = (304,)

    @property
    def full_path(self) -> str:
        """The path on the listener."""
        return self.path if self.path in _OUTSIDE else f"{PREFIX}{self.path}"


def routes() -> Call[RouteList]:
    """All routes."""
    return Call("GET", "/routes", RouteList)


def route(name: str) -> Call[RouteView]:
    """One route."""
    return Call("GET", f"/routes/{name}", RouteView)


def set_weight(name: str, percent: float, reason: str) -> Call[RouteView]:
    """A canary share, set by hand."""
    return Call("PUT", f"/routes/{name}/weight", RouteView, {"canary_percent": percent} | _given(reason=reason))


def start_rollout(
    route_name: str,
    *,
    version: str | None = None,
    endpoints: Sequence[str] = (),
    model: str = "",
    uri: str = "",
    digest: str = "",
    plan: Any = None,
    retry: bool = False,
    reason: str = "",
    idempotency_key: str | None = None,
) -> Call[RolloutBody]:
    """A rollout of the configured canary or, with ``version``, of that version at these endpoints."""
    body = _given(plan=plan, retry=retry, reason=reason)
    if version is not None:
        described = _given(name=model, uri=uri, digest=digest) | {"version": version}
        body["version"] = {"endpoints": list(endpoints), "model": described}
    headers = {} if idempotency_key is None else {"idempotency-key": idempotency_key}
    return Call("POST", f"/routes/{route_name}/rollouts", RolloutBody, body, headers=headers)


def rollouts(route_name: str | None, limit: int, before: str | None, search: str | None) -> Call[RolloutList]:
    """The newest rollouts."""
    params = {"limit": limit} | _given(route=route_name, before=before, search=search)
    return Call("GET", "/rollouts", RolloutList, params=params)


def rollout(rollout_id: str) -> Call[RolloutBody]:
    """One rollout."""
    return Call("GET", f"/rollouts/{rollout_id}", RolloutBody)


def decide(rollout_id: str, verb: str, reason: str, more: Mapping[str, Any]) -> Call[RolloutBody]:
    """Pause, resume, approve, promote or abort; ``more`` is what a verb knows besides its reason."""
    return Call("POST", f"/rollouts/{rollout_id}/{verb}", RolloutBody, {"reason": reason} | _given(**more))


def changed(seen: RolloutBody, wait_s: float) -> Call[RolloutBody]:
    """The rollout when something has been decided since it was seen so, 304 when nothing has within ``wait_s``."""
    wait_s = max(0.0, min(wait_s, WAIT_S_MAX))
    headers = {"if-none-match": f'"{seen.id}.{seen.revision}"'}
    params = {"wait_s": f"{wait_s:.2f}"}
    return Call("GET", f"/rollouts/{seen.id}", RolloutBody, params=params, headers=headers, more_s=wait_s)


def explain(rollout_id: str) -> Call[StoryBody]:
    """What was decided on a rollout, and why, from the journal."""
    return Call("GET", f"/rollouts/{rollout_id}/story", StoryBody)


def readiness() -> Call[Readiness]:
    """Whether the gateway can do its work, and why not."""
    return Call("GET", "/readyz", Readiness, accepted=(503,))


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, False, "", ())}

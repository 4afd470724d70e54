"""The conditions of an analysis: local time, and how many endpoints of each side are healthy."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from zoneinfo import ZoneInfo

from gateway.control.health.prober import EndpointState
from gateway.core.rollout import Conditions, LocalTime, Plan


def conditions(plan: Plan, stable: str, canary: str, health: Iterable[EndpointState], wall_s: float) -> Conditions:
    """The facts that a plan may depend on; the wall clock counts only for one that has windows or closed dates."""
    endpoints = list(health)
    local = local_time(wall_s, plan.timezone) if plan.windows or plan.closed_dates else None
    return Conditions(local, endpoints_up(endpoints, stable), canary_endpoints_up(endpoints, canary, stable))


def endpoints_up(health: Iterable[EndpointState], backend: str) -> int | None:
    """How many of a backend's endpoints answer probes or, despite them, requests; None when none is probed.

    One that was not asked often enough yet counts as up.
    """
    probed = [one.up or one.kept for one in health if one.backend == backend and one.up is not None]
    return sum(probed) if probed else None


def canary_endpoints_up(health: Iterable[EndpointState], canary: str, stable: str) -> int | None:
    """The same of a canary: endpoints that never could be asked do not count.

    Without a stable version, where health is all that a promotion rests on, they have to be settled.
    """
    known = [one for one in health if one.backend == canary and one.up is not None]
    up = [(one.up or one.kept) and (one.settled if not stable else not one.doubtful) for one in known]
    return sum(up) if up else None


def local_time(wall_s: float, timezone: str) -> LocalTime:
    """The local time in that zone."""
    there = datetime.fromtimestamp(wall_s, ZoneInfo(timezone))
    return LocalTime(there.date().isoformat(), there.weekday(), there.hour * 60 + there.minute)


def no_verdict(known: Conditions, *, frozen: bool = False) -> str:
    """Why there can be no verdict now; empty when there can. ``frozen``: stable answers nothing."""
    if known.stable_up == 0 and known.canary_up == 0:
        return "no verdict: neither side has a healthy endpoint"
    if known.stable_up == 0:
        return "no verdict: stable has no healthy endpoint, so there is nothing to compare the canary with"
    return (
        "no verdict: stable answers no request successfully, so there is nothing to compare the canary with"
        if frozen
        else ""
    )

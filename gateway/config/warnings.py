"""Warnings: what is allowed in a configuration but will not do what was meant. `gateway check` and `serve` print them.

A configuration with warnings is served. What cannot be served is an error (`cross_checks`).
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.host_checks import state_dir_warning
from gateway.config.routes import RouteConfig
from gateway.config.schema import GatewayConfig
from gateway.config.shape import number


def warnings(config: GatewayConfig) -> list[str]:
    """A line for each, with its place."""
    unwritable = state_dir_warning(config.state_dir)
    return ([f"state_dir: {unwritable}"] if unwritable else []) + [
        f"routes[{index}].{place}: {text}"
        for index, route in enumerate(config.routes)
        for place, text in (*_timeouts(route), *_floors(route), *_rescue(route))
    ]


def _timeouts(route: RouteConfig) -> Iterator[tuple[str, str]]:
    times = route.timeouts
    total = f"total_s ({number(times.total_s)})"
    if times.first_byte_s >= times.total_s:
        why = "a request always ends at total_s first"
        if _rescues(route):
            why = "a canary that hangs may leave stable no time to answer for it"
        hint = "set first_byte_s to less than half of total_s"
        yield "timeouts.first_byte_s", f"{number(times.first_byte_s)} is not less than {total}: {why}; {hint}"
    if times.connect_s >= times.total_s:
        text = f"{number(times.connect_s)} is not less than {total}: connecting may use up all the time"
        yield "timeouts.connect_s", f"{text}; set connect_s to a small part of total_s"
    if times.try_s is None:
        return
    if times.try_s > times.total_s:
        yield "timeouts.try_s", f"{number(times.try_s)} is more than {total} and has no effect; lower it, or remove it"
    if times.first_byte_s > times.try_s:
        text = f"{number(times.first_byte_s)} is more than try_s ({number(times.try_s)}), which ends each try first"
        yield "timeouts.first_byte_s", f"{text}; set first_byte_s to less than try_s"


def _floors(route: RouteConfig) -> Iterator[tuple[str, str]]:
    """A step that may end before a request that hangs has timed out: PASS then waits for what is open."""
    times, steps = route.timeouts, route.plan.steps
    if route.canary is None:
        return
    longest, name = max((times.first_byte_s, "first_byte_s"), (times.idle_s, "idle_s"))
    if times.total_s < longest:
        longest, name = times.total_s, "total_s"
    index, step = min(enumerate(steps), key=lambda one: one[1].min_time_s)
    if step.min_time_s < longest:
        text = f"{number(step.min_time_s)} is less than timeouts.{name} ({number(longest)})"
        why = "requests that hang fail after the step's minimum time, and hold it until then"
        yield f"plan.steps[{index}].min_time_s", f"{text}: {why}; raise min_time_s, or lower {name}"


def _rescue(route: RouteConfig) -> Iterator[tuple[str, str]]:
    rescue = route.rescue
    if not _rescues(route):
        return
    if not rescue.body_bytes_max and not rescue.file_bytes_max:
        text = "0, and file_bytes_max too: no request with a body can be rescued or retried"
        yield "rescue.body_bytes_max", f"{text}; set a size, or replayable: false"
    if not rescue.budget_percent and not rescue.budget_burst:
        text = "0, and budget_burst too: users see every failure of the canary"
        yield "rescue.budget_percent", f"{text}; set one of them, or replayable: false"


def _rescues(route: RouteConfig) -> bool:
    return route.canary is not None and route.stable is not None and route.rescue.replayable

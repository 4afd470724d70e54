"""``gateway plan``: the question, from its options and the configuration."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import msgspec

from gateway.cli.plan_live import LiveRoute
from gateway.config import build
from gateway.config.load import load_elsewhere
from gateway.config.routes import MatchConfig, RouteConfig
from gateway.core.analysis import budget
from gateway.core.analysis.bursts.past import Weather
from gateway.core.analysis.sizing.question import PlannedStep, Question
from gateway.core.analysis.types import AnalysisSpec, Mode
from gateway.core.errors import InvalidValueError
from gateway.core.rollout.types import Plan
from gateway.core.types import weight_bp_from_percent

_DEFAULT_ROUTE = RouteConfig(name="any", match=MatchConfig(path_prefix="/"), stable="any")
_DEFAULT_PLAN = build.plan(_DEFAULT_ROUTE)
# Twice of a rate below this is no regression that anybody fears.
_RARE, _RARE_MORE = 0.001, 0.01
_UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]{1,2})?) ?(s|min|m|h|d|)")


def question_of(
    rate: str | None,
    base_rate: str | None,
    regression: str | None,
    metric: str,
    deadline: str | None,
    live: LiveRoute | None = None,
    **options: Any,
) -> Question:
    """The question that the options ask, with what they leave out from the file or from a running gateway.

    Raises ConfigError and InvalidValueError.
    """
    route = _route(options["config"], options["route"])
    if route is None and live is not None:
        route = live.config
    configured = _DEFAULT_PLAN if route is None else build.plan(route)
    spec = (
        build.analysis_spec(_DEFAULT_ROUTE)
        if route is None
        else budget.for_bake(build.analysis_spec(route), configured.bake_s)
    )
    base = _known("--base-rate", base_rate, live and live.base_rate, f"how often stable fails with {metric}")
    return Question(
        requests_per_s=_known("--rate", rate, live and (live.requests_per_s or None), "the route's traffic"),
        base_rate=base,
        regression_rate=_regression(regression, base),
        steps=_steps(configured, options["steps"], options["min_time"], options["min_requests"]),
        deadline_s=configured.deadline_s if deadline is None else _seconds("--deadline", deadline),
        spec=_spec(spec, metric, options),
        metric=metric,
        bake_s=configured.bake_s,
        bake_holdout_bp=configured.bake_holdout_bp,
        weather=Weather() if live is None else live.weather,
    )


def _known(flag: str, text: str | None, live: float | None, what: str) -> float:
    """A number that was given, or that the gateway knows."""
    if text is not None:
        return _number(flag, text)
    if live is None:
        raise InvalidValueError(f"{what} is not known: give {flag}, or the name of a route of a running gateway")
    return live


def _route(config: Path | None, name: str | None) -> RouteConfig | None:
    if config is None:
        if name is not None:
            raise InvalidValueError("--route names a route of a configuration: give its file with --config")
        return None
    routes = {route.name: route for route in load_elsewhere(config).routes}
    if name is None and len(routes) == 1:
        return next(iter(routes.values()))
    if name not in routes:
        problem = f"{config} has several routes" if name is None else f"{config} has no route {name!r}"
        raise InvalidValueError(f"{problem}: give --route, one of {', '.join(routes)}")
    return routes[name]


def _spec(spec: AnalysisSpec, metric: str, options: dict[str, Any]) -> AnalysisSpec:
    margins = getattr(spec, metric)
    for name in ("margin_ratio", "margin_delta"):
        if options[name] is not None:
            margins = msgspec.structs.replace(margins, **{name: _number(_flag(name), options[name])})
    changes: dict[str, Any] = {metric: margins}
    for option, name in (("alpha", "alpha_rollback"), ("alpha_promote", "alpha_promote")):
        if options[option] is not None:
            changes[name] = _number(_flag(option), options[option])
    if options["latency"] is not None:
        changes["latency"] = msgspec.structs.replace(
            spec.latency, mode=Mode.DECIDE if options["latency"] else Mode.ADVISE
        )
    return msgspec.structs.replace(spec, **changes)


def _steps(
    configured: Plan, text: str | None, min_time: str | None, min_requests: str | None
) -> tuple[PlannedStep, ...]:
    changes: dict[str, Any] = {}
    if min_time is not None:
        changes["min_time_s"] = _seconds("--min-time", min_time)
    if min_requests is not None:
        changes["min_requests"] = _whole("--min-requests", min_requests)
    if text is not None:
        floor = msgspec.structs.replace(PlannedStep(1), **changes)
        return tuple(_planned_step(part, floor) for part in text.split(","))
    steps = (PlannedStep(step.weight_bp, step.min_time_s, step.min_requests) for step in configured.steps)
    return tuple(msgspec.structs.replace(step, **changes) for step in steps)


def _planned_step(text: str, floor: PlannedStep) -> PlannedStep:
    """A step from ``PERCENT[:TIME[:REQUESTS]]``; what is not given is the floor's."""
    percent, time, requests, *rest = (*(part.strip() for part in text.split(":")), "", "")
    value = _number("--steps", percent.removesuffix("%"))
    if any(rest):
        raise InvalidValueError(
            f"--steps {text!r} has too many parts: give PERCENT, PERCENT:TIME or PERCENT:TIME:REQUESTS"
        )
    if not 0 < value < 100:
        raise InvalidValueError(
            f"--steps: a weight must lie between 0 and 100 %, not {value:g}: evidence needs requests of both variants,"
            " and 100 % follows the last step by itself"
        )
    return PlannedStep(
        weight_bp_from_percent(value),
        _seconds("--steps", time) if time else floor.min_time_s,
        _whole("--steps", requests) if requests else floor.min_requests,
    )


def _regression(text: str | None, base: float) -> float:
    """The rate to be caught, from ``2x``, ``+0.01`` or a rate; twice the base rate, but not of next to nothing."""
    if text is None:
        text = "2x" if base >= _RARE else f"+{_RARE_MORE:g}"
    if text.endswith(("x", "X")):
        return base * _number("--regression", text[:-1])
    return _number("--regression", text) + (base if text.startswith("+") else 0.0)


def _number(flag: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidValueError(f"{flag} {text!r} is not a number: give one such as {_EXAMPLES.get(flag, '0.01')}")
    return value


_EXAMPLES = {"--rate": "50", "--regression": "2x, +0.01 or 0.03", "--steps": "1,5,25,50", "--margin-ratio": "1.5"}


def _seconds(flag: str, text: str) -> float:
    matched = _DURATION.fullmatch(text.strip())
    if not matched:
        raise InvalidValueError(
            f"{flag} {text!r} is not a time: give seconds, or a number with s, m, h or d, as in 90m"
        )
    return float(matched[1]) * _UNITS_S[matched[2]]


def _whole(flag: str, text: str) -> int:
    if not re.fullmatch("[0-9]{1,12}", text):
        raise InvalidValueError(f"{flag} {text!r} is not a whole number of 0 or more: give one such as 100")
    return int(text)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"

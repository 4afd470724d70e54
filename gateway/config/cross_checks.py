"""What several keys must say together: names that refer, matches that differ, lists that rise.

Works on the plain tree, whatever is in it, so that these errors are reported together with those of single keys: a rule
whose values are absent or of the wrong kind stays silent, because the schema speaks about those.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from gateway.config import grammar
from gateway.config.actuators import issues_between_actuators
from gateway.config.analysis import AnalysisConfig
from gateway.config.errors import BadValue, Issue, TreePath, place_of, show
from gateway.config.explain import nearest
from gateway.config.features import feature_issues
from gateway.config.grammar import Address, UnixSocket
from gateway.config.plan import CompareConfig
from gateway.config.predictions import PREDICTED, TOLERANCE, Trials
from gateway.config.section import DEFAULT_ADMIN, DEFAULT_LISTEN
from gateway.config.sources import issues_between_sources
from gateway.config.validators import issues_between_validators
from gateway.core.analysis.bursts.guard import COARSE
from gateway.core.analysis.spec import LATENCY_METRICS, ROUTE_DEFAULT
from gateway.core.predictions.protocols.pointers import steps_of
from gateway.core.predictions.text_events import EVENT_NAMES


def at(tree: Any, *path: str | int) -> Any:
    """The value at ``path`` of a tree of dicts and lists; None where there is none."""
    for part in path:
        if isinstance(tree, dict):
            tree = tree.get(part)
        elif isinstance(tree, list) and isinstance(part, int) and part < len(tree):
            tree = tree[part]
        else:
            return None
    return tree


def issues_between(tree: Any) -> list[Issue]:
    """Every issue that concerns more than one key, in the order of the rules."""
    return [issue for rule in _RULES for issue in rule(tree)]


def listen_address(value: Any, default: Address) -> Address | UnixSocket | None:
    """The address that a listen key stands for, None when it stands for none."""
    if value is None:
        return default
    try:
        return grammar.admin_address(value) if isinstance(value, str) else None
    except BadValue:
        return None


def _routes(tree: Any) -> Iterator[tuple[TreePath, dict[str, Any]]]:
    routes = at(tree, "routes")
    for index, route in enumerate(routes if isinstance(routes, list) else ()):
        if isinstance(route, dict):
            yield ("routes", index), route


def _listeners_differ(tree: Any) -> Iterator[Issue]:
    data = listen_address(at(tree, "listen"), DEFAULT_LISTEN)
    admin = listen_address(at(tree, "admin", "listen"), DEFAULT_ADMIN)
    if isinstance(data, Address) and isinstance(admin, Address) and data.overlaps(admin):
        path: TreePath = ("listen",) if at(tree, "admin", "listen") is None else ("admin", "listen")
        yield Issue(path, f"listen {data} and admin.listen {admin} use the same port", "change one of the ports")


def _backends_exist(tree: Any) -> Iterator[Issue]:
    backends = at(tree, "backends")
    if not isinstance(backends, dict):
        return
    for path, route in _routes(tree):
        for role in ("stable", "canary"):
            name = route.get(role)
            if isinstance(name, str) and name not in backends:
                known = ", ".join(backends) or "none"
                hint = f"{nearest(name, backends)}known: {known}"
                yield Issue((*path, role), f"there is no backend {show(name)}", hint)


def _canary_is_another(tree: Any) -> Iterator[Issue]:
    for path, route in _routes(tree):
        stable, canary, percent = route.get("stable"), route.get("canary"), route.get("canary_percent")
        if isinstance(canary, str) and canary == stable:
            yield Issue((*path, "canary"), f"{show(canary)} is also the stable backend", "choose another backend")
        if canary is None and isinstance(percent, (int, float)) and percent > 0:
            yield Issue((*path, "canary_percent"), f"{show(percent)} needs a canary", "set canary, or 0 here")


def _mirror_is_possible(tree: Any) -> Iterator[Issue]:
    for path, route in _routes(tree):
        percent = at(route, "mirror", "percent")
        if not isinstance(percent, (int, float)) or isinstance(percent, bool) or percent <= 0:
            continue
        here = (*path, "mirror", "percent")
        if at(route, "rescue", "replayable") is False:
            yield Issue(
                here,
                f"{show(percent)} copies requests that rescue.replayable: false says may not be sent twice",
                "use 0, or rescue.replayable: true if a copy does no harm",
            )
        if route.get("canary") is None:
            yield Issue(here, f"{show(percent)} needs a canary", "set canary, or 0 here")


_COMPARED = (
    ("tolerance_delta", "margin_delta"),
    ("latency_tolerance_ratio", "latency_margin_ratio"),
    ("disagreement_tolerance", "disagreement_margin"),
)


def _mirror_step_is_possible(tree: Any) -> Iterator[Issue]:
    for path, route in _routes(tree):
        step = at(route, "plan", "mirror")
        if not isinstance(step, dict):
            continue
        here = (*path, "plan", "mirror")
        if at(route, "rescue", "replayable") is False:
            problem = "copies requests that rescue.replayable: false says may not be sent twice"
            yield Issue(here, problem, "remove it, or set rescue.replayable: true if a copy does no harm")
        for low, high in _COMPARED:
            least, most = (
                at(step, "compare", name) or CompareConfig.model_fields[name].default for name in (low, high)
            )
            if isinstance(least, (int, float)) and isinstance(most, (int, float)) and least > most:
                given = low if at(step, "compare", low) is not None else high
                problem = f"{low} {show(least)} is greater than {high} {show(most)}"
                yield Issue((*here, "compare", given), problem, f"{low} must be at most {high}")


def _somebody_serves(tree: Any) -> Iterator[Issue]:
    for path, route in _routes(tree):
        stable, canary, percent = route.get("stable"), route.get("canary"), route.get("canary_percent")
        if stable is None and canary is None:
            hint = "set stable, or canary for a version that is to be deployed here first"
            yield Issue(path, "neither stable nor canary is set", hint)
        elif stable is None and isinstance(percent, (int, float)) and percent > 0:
            hint = "use 0: the first version is deployed by a rollout, all at once"
            yield Issue((*path, "canary_percent"), f"{show(percent)} needs a stable backend", hint)


def _names_differ(tree: Any) -> Iterator[Issue]:
    first: dict[str, TreePath] = {}
    for path, route in _routes(tree):
        name = route.get("name")
        if isinstance(name, str) and first.setdefault(name, path) != path:
            yield _same_name((*path, "name"), name, first[name])


def _same_name(path: TreePath, name: str, first: TreePath) -> Issue:
    return Issue(path, f"{show(name)} is also the name of {place_of(first)}", "names must be unique")


def _matches_differ(tree: Any) -> Iterator[Issue]:
    first: dict[tuple[str, str], TreePath] = {}
    for path, route in _routes(tree):
        prefix = at(route, "match", "path_prefix")
        if not isinstance(prefix, str):
            continue
        for host in sorted(_hosts(at(route, "match", "hosts"))):
            earlier = first.setdefault((host, prefix.rstrip("/")), path)
            if earlier != path:
                on = f" on host {show(host)}" if host else ""
                problem = f"{show(prefix)}{on} is also matched by {place_of(earlier)}"
                yield Issue((*path, "match", "path_prefix"), problem, "use another path_prefix or other hosts")
                break


def _hosts(value: Any) -> set[str]:
    """The hosts in their normal form, those that have one; the empty one stands for every host."""
    if not isinstance(value, list) or not value:
        return {""}
    return {host for one in value if isinstance(one, str) and (host := _route_host(one))}


def _route_host(text: str) -> str:
    try:
        return grammar.route_host(text)
    except BadValue:
        return ""


def _endpoints_differ(tree: Any) -> Iterator[Issue]:
    backends = at(tree, "backends")
    for name, backend in backends.items() if isinstance(backends, dict) else ():
        endpoints = at(backend, "endpoints")
        seen: set[str] = set()
        for index, text in enumerate(endpoints if isinstance(endpoints, list) else ()):
            url = _endpoint_url(text)
            if url and url in seen:
                yield Issue(("backends", name, "endpoints", index), f"{show(text)} is listed twice", "keep one of them")
            seen.add(url)


def _endpoint_url(text: Any) -> str:
    try:
        return grammar.endpoint(text).url if isinstance(text, str) else ""
    except BadValue:
        return ""


def _one_sticky_key(tree: Any) -> Iterator[Issue]:
    for path, route in _routes(tree):
        sticky = route.get("sticky")
        if isinstance(sticky, dict) and not sticky.keys() - {"header", "cookie"}:
            given = [name for name in ("header", "cookie") if sticky.get(name) is not None]
            if len(given) != 1:
                what = "both header and cookie are set" if given else "neither header nor cookie is set"
                yield Issue((*path, "sticky"), what, "set exactly one of them, or sticky: null")


def _lists_rise(tree: Any) -> Iterator[Issue]:
    for path, route in _routes(tree):
        yield from plan_issues(route.get("plan"), (*path, "plan"))
        for metric, key in itertools.product(LATENCY_METRICS, ("quantiles", "slo_ms")):
            values = at(route, "analysis", metric, key)
            below: TreePath = (*path, "analysis", metric, key)
            if isinstance(values, list):
                yield from _rising(values, lambda index, below=below: (*below, index))  # type: ignore[misc]  # mypy cannot infer a lambda with a default


def plan_issues(plan: Any, path: TreePath) -> Iterator[Issue]:
    """What several keys of a plan must say together; the plan stands at ``path``."""
    steps = at(plan, "steps")
    percents = [at(step, "percent") for step in steps] if isinstance(steps, list) else []
    yield from _rising(percents, lambda index: (*path, "steps", index, "percent"))


def _looks_see_bursts(tree: Any) -> Iterator[Issue]:
    default = AnalysisConfig()
    for path, route in _routes(tree):
        given, burst_s = (at(route, "analysis", key) for key in ("interval_s", "burst_s"))
        interval_s = default.interval_s if given is None else given
        burst_s = ROUTE_DEFAULT.burst_s if burst_s is None else burst_s
        if not isinstance(interval_s, (int, float)) or not isinstance(burst_s, (int, float)):
            continue
        if burst_s > 0 and COARSE * burst_s < interval_s:
            what = f"an analysis every {show(interval_s)} s cannot see bursts of {show(burst_s)} s"
            if given is None:
                hint = f"use at least {interval_s / COARSE:g}, or 0 to count each failure by itself"
                yield Issue((*path, "analysis", "burst_s"), what, hint)
                continue
            hint = f"use at most {COARSE * burst_s:g}, or burst_s: 0 to count each failure by itself"
            yield Issue((*path, "analysis", "interval_s"), what, hint)


def _guardrails_have_thresholds(tree: Any) -> Iterator[Issue]:
    for path, route in _routes(tree):
        guardrails = at(route, "analysis", "guardrails")
        first: dict[tuple[str, Any], TreePath] = {}
        for index, guardrail in enumerate(guardrails if isinstance(guardrails, list) else ()):
            here: TreePath = (*path, "analysis", "guardrails", index)
            metric, threshold = at(guardrail, "metric"), at(guardrail, "threshold_ms")
            if not isinstance(metric, str):
                continue
            slow = metric in LATENCY_METRICS
            if slow and threshold is None:
                yield Issue(here, f"a guardrail on {metric} needs threshold_ms", "add it, such as 200")
            elif not slow and threshold is not None:
                yield Issue((*here, "threshold_ms"), f"{show(metric)} is not a latency", "remove threshold_ms")
            if isinstance(threshold, (int, float, type(None))) and first.setdefault((metric, threshold), here) != here:
                yield Issue(here, f"{place_of(first[metric, threshold])} has the same limit", "keep one of them")


def _events_differ(tree: Any) -> Iterator[Issue]:
    for path, route in _routes(tree):
        events = at(route, "analysis", "events")
        first: dict[str, TreePath] = {}
        for index, event in enumerate(events if isinstance(events, list) else ()):
            here: TreePath = (*path, "analysis", "events", index)
            name = at(event, "name")
            if isinstance(name, str) and first.setdefault(name, here) != here:
                yield _same_name((*here, "name"), name, first[name])


def _events_have_sources(tree: Any) -> Iterator[Issue]:
    for path, route in _routes(tree):
        events = at(route, "analysis", "events")
        looks = _looks_at_answers(at(route, "analysis"))
        for index, event in enumerate(events if isinstance(events, list) else ()):
            here: TreePath = (*path, "analysis", "events", index)
            name, header, trial = at(event, "name"), at(event, "header"), at(event, "trial")
            if header is None and at(event, "header_value") is not None:
                yield Issue((*here, "header_value"), "header_value needs a header", "add header")
            if header is not None and trial is not None:
                yield Issue((*here, "trial"), "header and trial are both set", "keep one of them")
                continue
            yield from _bounds_fit(event, here)
            of, bounds = at(event, "of"), at(event, "bounds")
            if of is not None and (header is not None or trial is not None):
                yield Issue((*here, "of"), "of has no other source", "remove header and trial, or of")
            known = PREDICTED if looks else ()
            read = isinstance(name, str) and (name in known or (bounds is None and name in EVENT_NAMES))
            if isinstance(name, str) and header is None and trial is None and of is None and not read:
                yield Issue(here, f"the event {show(name)} has no source", "add header, or trial for later labels")


def _bounds_fit(event: Any, here: TreePath) -> Iterator[Issue]:
    """What an event with bounds needs, and what it cannot have."""
    bounds, of = at(event, "bounds"), at(event, "of")
    if bounds is None:
        if of is not None:
            yield Issue((*here, "of"), "of needs bounds", "add bounds in milliseconds, such as [0, 10000]")
        return
    low = bounds[0] if isinstance(bounds, list) and bounds else None
    if isinstance(low, (int, float)) and low < 0 and any((at(event, key) or default) > 1 for key, default in _RATIOS):
        hint = "set tolerance_ratio and margin_ratio to 1, and margin_delta to what may be lost of the range"
        yield Issue((*here, "bounds"), "values that may be negative have no ratio", hint)
    if at(event, "header_value") is not None:
        yield Issue((*here, "header_value"), "with bounds the header's text is the number", "remove header_value")
    if at(event, "trial") == Trials.REQUEST.value:
        yield Issue((*here, "trial"), "a value is one of a labelled request", "use label")


def _looks_at_answers(analysis: Any) -> bool:
    """Whether predictions are read: unless they are switched off, they are."""
    if not isinstance(analysis, dict) or "predictions" not in analysis:
        return True
    return isinstance(analysis["predictions"], dict) and analysis["predictions"].get("mode") not in ("off", False)


def _predictions_can_be_found(tree: Any) -> Iterator[Issue]:
    for path, route in _routes(tree):
        predictions = at(route, "analysis", "predictions")
        tolerance = at(predictions, "tolerance") or TOLERANCE
        margin = at(predictions, "margin")
        if isinstance(tolerance, (int, float)) and isinstance(margin, (int, float)) and margin < tolerance:
            what = f"{show(margin)} is less than the tolerance of {show(tolerance)}"
            yield Issue((*path, "analysis", "predictions", "margin"), what, f"use at least {show(tolerance)}")
        if (at(predictions, "protocol") or at(route, "protocol")) in ("json", "json-path"):
            for key in ("label", "scores", "value"):
                place = at(predictions, key)
                if isinstance(place, str) and place and steps_of(place) is None:
                    what = f"{show(place)} is no place in JSON"
                    hint = "use one such as $.predictions[*].class, predictions.0.class or /predictions/0/class"
                    yield Issue((*path, "analysis", "predictions", key), what, hint)


def _rising(values: list[Any], path_of: Callable[[int], TreePath]) -> Iterator[Issue]:
    for index in range(1, len(values)):
        before, value = values[index - 1], values[index]
        if isinstance(before, (int, float)) and isinstance(value, (int, float)) and value <= before:
            problem = f"{show(value)} is not greater than the {show(before)} before it"
            yield Issue(path_of(index), problem, "list them in ascending order")


def _one_way_is_set(path: TreePath, section: Any, ways: tuple[str, ...]) -> Iterator[Issue]:
    given = [key for key in ways if at(section, key) is not None]
    if isinstance(section, dict) and len(given) != 1:
        what = f"{' and '.join(given)} are set" if given else f"none of {', '.join(ways)} is set"
        yield Issue(path, what, "set exactly one of them")


def _hooks_are_whole(tree: Any) -> Iterator[Issue]:
    for section, ways in (
        ("hooks", ("url", "url_env", "command", "pagerduty", "email")),
        ("gates", ("url", "url_env")),
    ):
        hooks, first = at(tree, section), dict[str, TreePath]()
        for index, hook in enumerate(hooks if isinstance(hooks, list) else ()):
            path: TreePath = (section, index)
            yield from _one_way_is_set(path, hook, ways)
            if at(hook, "secret_env") is not None and at(hook, "secret_file") is not None:
                yield Issue((*path, "secret_file"), "secret_env is set too", "keep one of the two")
            yield from _alert_receiver_is_whole(path, hook)
            name = at(hook, "name")
            if isinstance(name, str) and first.setdefault(name, path) != path:
                yield _same_name((*path, "name"), name, first[name])


def _changed_requests_are_whole(tree: Any) -> Iterator[Issue]:
    backends = at(tree, "backends")
    for name, backend in backends.items() if isinstance(backends, dict) else ():
        request, path = at(backend, "request"), ("backends", name, "request")
        prefix, replacement = at(request, "path_prefix"), at(request, "path_replacement")
        if (prefix is None) != (replacement is None):
            given, absent = ("path_prefix", "path_replacement")[:: 1 if replacement is None else -1]
            yield Issue((*path, given), f"{absent} is missing", "set both, or neither")
        set_headers = at(request, "set_headers")
        seen: set[str] = set()
        for index, header in enumerate(set_headers if isinstance(set_headers, list) else ()):
            here: TreePath = (*path, "set_headers", index)
            yield from _one_way_is_set(here, header, ("value", "value_env", "value_file"))
            field = str(at(header, "name")).lower()
            if field in seen:
                yield Issue((*here, "name"), f"duplicate name {show(field)}", "names must be unique")
            seen.add(field)


def _alert_receiver_is_whole(path: TreePath, hook: Any) -> Iterator[Issue]:
    for kind, secret in (("pagerduty", "routing_key"), ("email", "password")):
        section = at(hook, kind)
        if not isinstance(section, dict):
            continue
        if at(hook, "format") is not None:
            yield Issue((*path, "format"), f"a message to {kind} has a format of its own", "remove the key")
        given = [key for key in (f"{secret}_env", f"{secret}_file") if section.get(key) is not None]
        needed = kind == "pagerduty" or section.get("username") is not None
        if needed and len(given) != 1:
            what = f"{' and '.join(given)} are set" if given else f"neither {secret}_env nor {secret}_file is set"
            yield Issue((*path, kind), what, "set exactly one of them")
        elif given and not needed:
            yield Issue((*path, kind, given[0]), "there is a password, and no username", "set username, or remove it")


def _hooks_name_routes(tree: Any) -> Iterator[Issue]:
    known = [str(route.get("name")) for _, route in _routes(tree)]
    hooks = at(tree, "hooks")
    for index, hook in enumerate(hooks if isinstance(hooks, list) else ()):
        routes = at(hook, "routes")
        for place, route in enumerate(routes if isinstance(routes, list) else ()):
            if isinstance(route, str) and route not in known:
                hint = f"{nearest(route, known)}known: {', '.join(known)}"
                yield Issue(("hooks", index, "routes", place), f"there is no route {show(route)}", hint)


def _plans_name_gates(tree: Any) -> Iterator[Issue]:
    gates = at(tree, "gates")
    known = ["manual", *(str(at(gate, "name")) for gate in (gates if isinstance(gates, list) else ()))]
    for path, route in _routes(tree):
        plan = at(route, "plan")
        steps = at(plan, "steps")
        named = [((*path, "plan", "promotion_gate"), at(plan, "promotion_gate"))]
        for index, step in enumerate(steps if isinstance(steps, list) else ()):
            named.append(((*path, "plan", "steps", index, "gate"), at(step, "gate")))
        for place, gate in named:
            if isinstance(gate, str) and gate and gate not in known:
                hint = f"{nearest(gate, known)}known: {', '.join(known)}"
                yield Issue(place, f"there is no gate {show(gate)}", hint)


def _features_are_whole(tree: Any) -> Iterator[Issue]:
    """Each route's features name a store that there is, and say what is looked up and for whom."""
    stores = at(tree, "feature_stores")
    for path, route in _routes(tree):
        yield from feature_issues(path, route, stores if isinstance(stores, dict) else {})


# Of events, with their defaults.
_RATIOS = (("tolerance_ratio", 1.0), ("margin_ratio", 1.5))
_RULES: tuple[Callable[[Any], Iterator[Issue]], ...] = (
    _listeners_differ,
    _backends_exist,
    _canary_is_another,
    _mirror_is_possible,
    _mirror_step_is_possible,
    _somebody_serves,
    _names_differ,
    _matches_differ,
    _endpoints_differ,
    _one_sticky_key,
    _lists_rise,
    _events_differ,
    _events_have_sources,
    _predictions_can_be_found,
    _guardrails_have_thresholds,
    _looks_see_bursts,
    _changed_requests_are_whole,
    _hooks_are_whole,
    _hooks_name_routes,
    _plans_name_gates,
    _features_are_whole,
    issues_between_sources,
    issues_between_actuators,
    issues_between_validators,
)

"""What several keys must say together: names that refer, matches that differ, ladders that rise.

Works on the plain tree, whatever is in it, so that these mistakes are told together with those of single keys: a rule
whose values are absent or of the wrong kind stays silent, because the schema speaks about those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from gateway.config import grammar
from gateway.config.explain import nearest
from gateway.config.grammar import Address
from gateway.config.mistakes import BadValue, Flaw, TreePath, place_of, show
from gateway.config.schema import DEFAULT_ADMIN, DEFAULT_LISTEN


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


def flaws_between(tree: Any) -> list[Flaw]:
    """Every flaw that concerns more than one key, in the order of the rules."""
    return [flaw for rule in _RULES for flaw in rule(tree)]


def listen_address(value: Any, default: Address) -> Address | None:
    """The address that a listen key stands for, None when it stands for none."""
    if value is None:
        return default
    try:
        return grammar.address(value) if isinstance(value, str) else None
    except BadValue:
        return None


def _routes(tree: Any) -> Iterator[tuple[TreePath, dict[str, Any]]]:
    routes = at(tree, "routes")
    for index, route in enumerate(routes if isinstance(routes, list) else ()):
        if isinstance(route, dict):
            yield ("routes", index), route


def _listeners_differ(tree: Any) -> Iterator[Flaw]:
    data = listen_address(at(tree, "listen"), DEFAULT_LISTEN)
    admin = listen_address(at(tree, "admin", "listen"), DEFAULT_ADMIN)
    if data and admin and data.overlaps(admin):
        path: TreePath = ("listen",) if at(tree, "admin", "listen") is None else ("admin", "listen")
        yield Flaw(path, f"listen {data} and admin.listen {admin} collide", "give one of them another port")


def _backends_exist(tree: Any) -> Iterator[Flaw]:
    backends = at(tree, "backends")
    if not isinstance(backends, dict):
        return
    for path, route in _routes(tree):
        for role in ("stable", "canary"):
            name = route.get(role)
            if isinstance(name, str) and name not in backends:
                known = ", ".join(backends) or "none"
                mend = f"{nearest(name, backends)}known: {known}"
                yield Flaw((*path, role), f"no backend is named {show(name)}", mend)


def _canary_is_another(tree: Any) -> Iterator[Flaw]:
    for path, route in _routes(tree):
        stable, canary, percent = route.get("stable"), route.get("canary"), route.get("canary_percent")
        if isinstance(canary, str) and canary == stable:
            yield Flaw((*path, "canary"), f"{show(canary)} is the stable backend too", "name another backend")
        if canary is None and isinstance(percent, (int, float)) and percent > 0:
            yield Flaw((*path, "canary_percent"), f"{show(percent)} without a canary", "name a canary, or give 0")


def _names_differ(tree: Any) -> Iterator[Flaw]:
    first: dict[str, TreePath] = {}
    for path, route in _routes(tree):
        name = route.get("name")
        if isinstance(name, str) and first.setdefault(name, path) != path:
            yield Flaw((*path, "name"), f"{show(name)} names {place_of(first[name])} too", "give each its own name")


def _matches_differ(tree: Any) -> Iterator[Flaw]:
    first: dict[tuple[str, str], TreePath] = {}
    for path, route in _routes(tree):
        prefix = at(route, "match", "path_prefix")
        if not isinstance(prefix, str):
            continue
        for host in sorted(_hosts(at(route, "match", "hosts"))):
            earlier = first.setdefault((host, prefix.rstrip("/")), path)
            if earlier != path:
                on = f" on host {show(host)}" if host else ""
                problem = f"{show(prefix)}{on} is matched by {place_of(earlier)} too"
                yield Flaw((*path, "match", "path_prefix"), problem, "give each route its own path_prefix or hosts")
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


def _endpoints_differ(tree: Any) -> Iterator[Flaw]:
    backends = at(tree, "backends")
    for name, backend in backends.items() if isinstance(backends, dict) else ():
        endpoints = at(backend, "endpoints")
        seen: set[str] = set()
        for index, text in enumerate(endpoints if isinstance(endpoints, list) else ()):
            url = _endpoint_url(text)
            if url and url in seen:
                yield Flaw(("backends", name, "endpoints", index), f"{show(text)} is listed twice", "keep one of them")
            seen.add(url)


def _endpoint_url(text: Any) -> str:
    try:
        return grammar.endpoint(text).url if isinstance(text, str) else ""
    except BadValue:
        return ""


def _one_sticky_key(tree: Any) -> Iterator[Flaw]:
    for path, route in _routes(tree):
        sticky = route.get("sticky")
        if isinstance(sticky, dict) and not sticky.keys() - {"header", "cookie"}:
            given = [name for name in ("header", "cookie") if sticky.get(name) is not None]
            if len(given) != 1:
                what = "both header and cookie are given" if given else "neither header nor cookie is given"
                yield Flaw((*path, "sticky"), what, "give exactly one of header and cookie, or sticky: null")


def _ladders_rise(tree: Any) -> Iterator[Flaw]:
    for path, route in _routes(tree):
        steps = at(route, "plan", "steps")
        percents = [at(step, "percent") for step in steps] if isinstance(steps, list) else []
        yield from _rising(percents, lambda index, path=path: (*path, "plan", "steps", index, "percent"))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        quantiles = at(route, "analysis", "latency", "quantiles")
        if isinstance(quantiles, list):
            yield from _rising(quantiles, lambda index, path=path: (*path, "analysis", "latency", "quantiles", index))  # type: ignore[misc]  # mypy cannot infer a lambda with a default


def _rising(values: list[Any], path_of: Callable[[int], TreePath]) -> Iterator[Flaw]:
    for index in range(1, len(values)):
        before, value = values[index - 1], values[index]
        if isinstance(before, (int, float)) and isinstance(value, (int, float)) and value <= before:
            problem = f"{show(value)} does not rise above {show(before)} before it"
            yield Flaw(path_of(index), problem, "put them in rising order")


_RULES: tuple[Callable[[Any], Iterator[Flaw]], ...] = (
    _listeners_differ,
    _backends_exist,
    _canary_is_another,
    _names_differ,
    _matches_differ,
    _endpoints_differ,
    _one_sticky_key,
    _ladders_rise,
)

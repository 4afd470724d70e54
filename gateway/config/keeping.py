"""What of a configuration that was given at run time goes on when the file is changed: the versions that routes serve.

Rules:

1. A role (`stable`, `canary`) stays as it is in force where the file names the same stable and canary backend for that
   route as it did before; where it names others, both are the file's.
2. A backend that such a role needs stays as it is in force, unless the file changed that backend itself: then it is the
   file's. Where the file has removed it, rule 1 does not hold and the route's roles are the file's.
3. All else is the file's: plans, limits, other backends, routes that only the API had.

All trees are those of `gateway.config.plain`, without defaults.
"""

from __future__ import annotations

from typing import Any

_ROLES = ("stable", "canary")


def roles_of(tree: dict[str, Any]) -> dict[str, Any]:
    """The part of a file that the rules compare: its backends, and who serves on each route."""
    return {"backends": tree["backends"], "routes": {one["name"]: _pair(one) for one in tree["routes"]}}


def with_versions_kept(before: dict[str, Any], in_force: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The new tree of a file, with the versions in force where the file does not speak of them.

    ``before``: `roles_of` the tree that the file had when ``in_force`` took its place.
    """
    now = {one["name"]: one for one in in_force["routes"]}
    backends, routes = dict(new["backends"]), []
    for route in new["routes"]:
        kept = _kept_pair(route, now.get(route["name"]), before, new)
        for name in kept.values():
            if before["backends"].get(name) == new["backends"].get(name):
                backends[name] = in_force["backends"][name]
        routes.append({key: value for key, value in route.items() if key not in _ROLES} | kept if kept else route)
    merged: dict[str, Any] = new | {"backends": backends, "routes": routes}
    return merged


def _kept_pair(
    route: dict[str, Any], current: dict[str, Any] | None, before: dict[str, Any], new: dict[str, Any]
) -> dict[str, str]:
    """The roles that stay as they are in force; none where they are the file's."""
    unchanged = before["routes"].get(route["name"]) == _pair(route)
    if current is None or not unchanged or _pair(current) == _pair(route):
        return {}
    kept = {role: name for role, name in _pair(current).items() if name is not None}
    removed = any(name in before["backends"] and name not in new["backends"] for name in kept.values())
    return {} if removed else kept


def _pair(route: dict[str, Any]) -> dict[str, str | None]:
    return {role: route.get(role) for role in _ROLES}

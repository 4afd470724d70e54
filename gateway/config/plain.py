"""A configuration as the plain tree that its file would hold, and what two such trees differ in.

What may be secret is shown as `REDACTED`; a tree that comes back with it means what stood there before.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from gateway.config.cross_checks import at
from gateway.config.errors import TreePath
from gateway.core.traffic.table import Endpoint

REDACTED = "<redacted>"
# What `value_at` gives for a path that is not in the tree.
MISSING = object()
# Hashes of tokens, and the addresses of hooks, which may hold one.
_SECRETS: tuple[tuple[str, str], ...] = (("admin", "sha256"), ("hooks", "url"), ("hooks", "headers"))


def plain(value: Any, *, defaults: bool = False) -> Any:
    """The tree of dicts, lists, text and numbers; ``defaults`` also shows the keys that were not given."""
    if isinstance(value, BaseModel):
        names = type(value).model_fields if defaults else value.model_fields_set
        return {
            name: plain(getattr(value, name), defaults=defaults) for name in type(value).model_fields if name in names
        }
    if isinstance(value, dict):
        return {str(key): plain(item, defaults=defaults) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item, defaults=defaults) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return value.url if isinstance(value, Endpoint) else str(value)


def redacted(tree: Any, path: TreePath = ()) -> Any:
    """The tree without its secrets."""
    if isinstance(tree, dict):
        return {
            key: REDACTED if tree[key] is not None and _secret((*path, key)) else redacted(tree[key], (*path, key))
            for key in tree
        }
    if isinstance(tree, list):
        return [redacted(item, (*path, index)) for index, item in enumerate(tree)]
    return tree


def restored(tree: Any, known: Any, path: TreePath = ()) -> Any:
    """The tree with each `REDACTED` replaced by what stands in its place in ``known``."""
    if isinstance(tree, dict):
        return {key: restored(item, known, (*path, key)) for key, item in tree.items()}
    if isinstance(tree, list):
        return [restored(item, known, (*path, index)) for index, item in enumerate(tree)]
    return at(known, *path) if tree == REDACTED and _secret(path) else tree


def value_at(tree: Any, path: TreePath) -> Any:
    """What stands there in a tree; `MISSING` where nothing does."""
    for part in path:
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            return MISSING
    return tree


def differences(old: Any, new: Any, path: TreePath = ()) -> Iterator[TreePath]:
    """The paths at which two trees differ, as deep as both have the same keys."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            if key in old and key in new:
                yield from differences(old[key], new[key], (*path, key))
            else:
                yield (*path, key)
    elif old != new:
        yield path


def _secret(path: TreePath) -> bool:
    return len(path) > 1 and (path[0], path[-1]) in _SECRETS

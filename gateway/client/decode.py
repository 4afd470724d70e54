"""From JSON to the API's types, with the standard library alone.

Unknown fields are passed over, and fields that a gateway of an older version does not send take their defaults.
"""

from __future__ import annotations

import dataclasses
import enum
import types
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
_HINTS: dict[type[Any], dict[str, Any]] = {}


class ShapeError(ValueError):
    """What was decoded is no value of the type."""


def converted(kind: type[T], value: Any) -> T:
    """The value that JSON says. Raises ShapeError.

    >>> converted(tuple[int, ...], [1, 2])
    (1, 2)
    """
    found: T = _converted(kind, value)
    return found


def _converted(kind: Any, value: Any) -> Any:
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _record(kind, value)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _one_of(get_args(kind), value)
    if origin is tuple:
        _check(value, (list, tuple))
        return tuple(_converted(get_args(kind)[0], item) for item in value)
    if origin is dict:
        _check(value, dict)
        return {name: _converted(get_args(kind)[1], item) for name, item in value.items()}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    _check(value, kind)
    return value


def _record(kind: type[Any], value: Any) -> Any:
    _check(value, dict)
    hints = _hints(kind)
    try:
        return kind(**{name: _converted(hint, value[name]) for name, hint in hints.items() if name in value})
    except TypeError as error:
        raise ShapeError(f"{kind.__name__}: {error}") from None


def _hints(kind: type[Any]) -> dict[str, Any]:
    if kind not in _HINTS:
        _HINTS[kind] = get_type_hints(kind)
    return _HINTS[kind]


def _one_of(kinds: tuple[Any, ...], value: Any) -> Any:
    if value is None and types.NoneType in kinds:
        return None
    return _converted(next(kind for kind in kinds if kind is not types.NoneType), value)


def _check(value: Any, kind: Any) -> None:
    if not isinstance(value, kind):
        raise ShapeError(f"{value!r} is not of the type {kind}")

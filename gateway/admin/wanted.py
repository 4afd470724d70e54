"""What was wrong with a body, in words: the place, what stands there, and what is wanted instead.

msgspec finds the error; its message tells where. What is wanted comes from the type itself, so the words cannot drift
from what is enforced, and none of the library's own wording reaches a client.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from msgspec import inspect

from gateway.config.errors import show
from gateway.config.explain import nearest
from gateway.config.shape import number as as_text

_PATH_PART = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_KEY = re.compile(r"`([^`]*)`")


def explain(message: str, tree: Any, kind: Any) -> str:
    """``place: problem; mend`` for msgspec's ``message`` about ``tree``, which is to be a ``kind``.

    >>> import msgspec
    >>> class Wish(msgspec.Struct): canary_percent: float
    >>> explain("Expected `float`, got `str` - at `$.canary_percent`", {"canary_percent": "5"}, Wish)
    "canary_percent: '5' is text; give a number"
    """
    what, _, where = message.partition(" - at `$")
    path = [name or (int(index) if index.isdigit() else 0) for name, index in _PATH_PART.findall(where.rstrip("`"))]
    place = _place(path)
    wanted, value = _type_at(kind, path), _value_at(tree, path)
    key = _KEY.search(what)
    if what.startswith("Object contains unknown field") and key:
        known = _keys(wanted)
        return f"{_place([*path, key[1]])}: unknown key; {nearest(key[1], known)}known: {', '.join(known) or 'none'}"
    if what.startswith("Object missing required field") and key:
        return f"{_place([*path, key[1]])}: is missing; add {describe(_type_at(kind, [*path, key[1]]))}"
    problem = f"{_problem(value, wanted)}; give {describe(wanted)}"
    return f"{place}: {problem}" if place else f"the body: {problem}"


def describe(kind: Any) -> str:
    """What a value of this type may be.

    >>> describe(inspect.type_info(int))
    'a whole number'
    """
    match _plain(kind):
        case inspect.FloatType() as number:
            return "a number" + _bounds(number)
        case inspect.IntType() as number:
            return "a whole number" + _bounds(number)
        case inspect.StrType(max_length=int(most)):
            return f"text of at most {most} characters"
        case inspect.StrType():
            return "text"
        case inspect.BoolType():
            return "true or false"
        case inspect.EnumType(cls=cls):
            return " or ".join(str(member.value) for member in cls)
        case (
            inspect.VarTupleType(min_length=least, max_length=most)
            | inspect.ListType(min_length=least, max_length=most)
        ):
            return "a list" + (f" of {least or 0} to {most}" if most else "")
        case inspect.StructType() as struct:
            return f"an object with the keys {', '.join(_keys(struct))}"
    return "another value"


def _problem(value: Any, wanted: Any) -> str:
    """What is wrong with a value, as far as it can be seen."""
    if isinstance(value, bool) or value is None:
        return f"{show(value)} does not fit here"
    number = _plain(wanted)
    if isinstance(value, str):
        return _text_problem(value, number)
    if isinstance(value, dict):
        return "an object does not fit here"
    if isinstance(value, list):
        sized = isinstance(number, inspect.VarTupleType | inspect.ListType)
        return f"it has {len(value)} items" if sized else "a list does not fit here"
    if not isinstance(number, inspect.FloatType | inspect.IntType):
        return f"{show(value)} is a number"
    if isinstance(number, inspect.IntType) and isinstance(value, float) and not value.is_integer():
        return f"{show(value)} is not a whole number"
    for bound, beyond, words in _BOUNDS:
        limit = getattr(number, bound)
        if limit is not None and beyond(value, limit):
            return f"{show(value)} {words} {as_text(limit)}"
    return f"{show(value)} does not fit here"


def _text_problem(value: str, wanted: Any) -> str:
    if isinstance(wanted, inspect.StrType):
        return f"the text has {len(value)} characters"
    if isinstance(wanted, inspect.EnumType):
        return f"{show(value)} is not among the choices"
    return f"{show(value)} is text"


_BOUNDS: tuple[tuple[str, Callable[[float, float], bool], str], ...] = (
    ("ge", lambda value, limit: value < limit, "is under"),
    ("gt", lambda value, limit: value <= limit, "is not over"),
    ("le", lambda value, limit: value > limit, "is over"),
    ("lt", lambda value, limit: value >= limit, "is not under"),
)


def _bounds(number: Any) -> str:
    words = []
    if number.ge is not None:
        words.append(f"from {as_text(number.ge)}" if number.le is not None else f"of at least {as_text(number.ge)}")
    if number.gt is not None:
        words.append(f"over {as_text(number.gt)}")
    if number.le is not None:
        words.append(f"to {as_text(number.le)}" if number.ge is not None else f"of at most {as_text(number.le)}")
    return f" {' '.join(words)}" if words else ""


def _place(path: list[Any]) -> str:
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else str(part)
    return out


def _plain(kind: Any) -> Any:
    """The type without its annotations and without ``| None``."""
    while True:
        if isinstance(kind, inspect.Metadata):
            kind = kind.type
        elif isinstance(kind, inspect.UnionType):
            inside = [part for part in kind.types if not isinstance(part, inspect.NoneType)]
            if len(inside) != 1:
                return kind
            kind = inside[0]
        else:
            return kind


def _type_at(kind: Any, path: list[Any]) -> Any:
    found = _plain(inspect.type_info(kind) if isinstance(kind, type) else kind)
    for part in path:
        if isinstance(found, inspect.StructType):
            found = next((field.type for field in found.fields if field.encode_name == part), None)
        elif isinstance(found, inspect.VarTupleType | inspect.ListType):
            found = found.item_type
        elif isinstance(found, inspect.DictType):
            found = found.value_type
        else:
            return None
        found = _plain(found)
    return found


def _value_at(tree: Any, path: list[Any]) -> Any:
    for part in path:
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            return None
    return tree


def _keys(struct: Any) -> list[str]:
    return [field.encode_name for field in struct.fields] if isinstance(struct, inspect.StructType) else []

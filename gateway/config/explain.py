"""What pydantic found, in the words of the configuration: pydantic's errors to issues.

This is the one boundary where its messages are mapped; the hints come from the schema (`shape.describe`) or from the
grammar that refused the value.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gateway.config.errors import BadValue, Issue, TreePath, show
from gateway.config.shape import Shape, describe, number, shape_at

_KEY_MARK = "[key]"


def issues_of(error: ValidationError, root: type[BaseModel]) -> list[Issue]:
    """Every error as an issue, in pydantic's order."""
    return [_issue(detail, root) for detail in error.errors(include_url=False)]


def nearest(word: str, known: Iterable[str]) -> str:
    """``did you mean 'x'? `` with the nearest known word, or nothing when none is near."""
    found = difflib.get_close_matches(word[:80], list(known), n=1, cutoff=0.6)
    return f"did you mean {found[0]!r}? " if found else ""


def _issue(detail: ErrorDetails, root: type[BaseModel]) -> Issue:
    path: TreePath = detail["loc"]
    cause = detail.get("ctx", {}).get("error")
    at_key = bool(path) and path[-1] == _KEY_MARK
    if at_key:
        path = path[:-1]
    if isinstance(cause, BadValue):
        return Issue(path, cause.problem, cause.hint, at_key)
    if detail["type"] == "extra_forbidden":
        return _unknown_key(path, root)
    wanted = _wanted(shape_at(root, path))
    if detail["type"] == "missing":
        return Issue(path, "is missing", f"add it: {wanted}")
    if detail["type"] == "too_short":
        return Issue(path, "is empty", "add at least one")
    removable = detail["input"] is None and _optional(path, root)
    hint = f"remove the key, or set it to {wanted}" if removable else f"expected {wanted}"
    return Issue(path, _problem(detail), hint, at_key)


def _optional(path: TreePath, root: type[BaseModel]) -> bool:
    """Whether the path is that of a key that may be left out."""
    parent = shape_at(root, path[:-1]) if path else None
    field = parent.fields.get(str(path[-1])) if parent else None
    return field is not None and not field.is_required()


def _unknown_key(path: TreePath, root: type[BaseModel]) -> Issue:
    parent = shape_at(root, path[:-1])
    known = list(parent.fields) if parent else []
    word = str(path[-1])
    return Issue(path, f"unknown key {show(word)}", f"{nearest(word, known)}known: {', '.join(known)}", at_key=True)


def _wanted(shape: Shape | None) -> str:
    if shape is None:
        return "another value"
    if shape.fields:
        return f"a section with the keys {', '.join(shape.fields)}{', or null' if shape.nullable else ''}"
    return describe(shape)


def _problem(detail: ErrorDetails) -> str:
    value, context = detail["input"], detail.get("ctx", {})
    if bound := _BOUNDS.get(detail["type"]):
        name, words = bound
        return f"{show(value)} {words} {number(context[name])}"
    if say := _WORDS.get(detail["type"]):
        return say(value)
    return f"{show(value)} is not valid here"


def _not_a_number(value: Any) -> str:
    if not isinstance(value, str):
        return f"{show(value)} is not a number"
    try:
        plain = number(float(value))
    except (ValueError, OverflowError):
        return f"{show(value)} is text, not a number"
    return f"{show(value)} is text, not a number (write {plain}, without quotes)"


def _not_whole(value: Any) -> str:
    return f"{show(value)} is not a whole number" if isinstance(value, float) else _not_a_number(value)


_BOUNDS = {
    "greater_than": ("gt", "is not greater than"),
    "greater_than_equal": ("ge", "is less than"),
    "less_than": ("lt", "is not less than"),
    "less_than_equal": ("le", "is greater than"),
}
_WORDS: dict[str, Callable[[Any], str]] = {
    "float_type": _not_a_number,
    "int_type": _not_whole,
    "finite_number": lambda value: f"{show(value)} is not a finite number",
    "bool_type": lambda value: f"{show(value)} is not true or false",
    "string_type": lambda value: f"{show(value)} is not text",
    "list_type": lambda value: f"{show(value)} is not a list",
    "dict_type": lambda value: f"{show(value)} is not a mapping",
    "model_type": lambda value: f"{show(value)} is not a section",
    "string_unicode": lambda value: f"{show(value)} is not printable text",
    "string_too_long": lambda value: f"has {len(value)} characters",
    "string_too_short": lambda _: "is empty",
    "enum": lambda value: f"{show(value)} is not one of the choices",
    "too_long": lambda value: f"has {len(value)} items, too many",
}

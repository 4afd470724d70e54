"""What the schema says about a path: its type, its bounds, its keys.

Errors and the reference documentation both say what a value may be; both take it from here, hence from the schema
itself, so neither can drift from what is enforced.
"""

from __future__ import annotations

import enum
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gateway.config.errors import TreePath, show


@dataclass(frozen=True)
class Noun:
    """What a value is called in "expected <noun> from 0 to 100"."""

    text: str


@dataclass(frozen=True)
class Doc:
    """What a key means to an operator: the text of its row in docs/configuration.md and of its JSON Schema."""

    text: str


@dataclass(frozen=True)
class Also:
    """What a key takes besides, as JSON Schema: another spelling of the same value."""

    schema: Mapping[str, Any]


_NOUNS = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a mapping",
}


@dataclass(frozen=True)
class Shape:
    """A type with its annotations taken apart."""

    kind: Any
    arguments: tuple[Any, ...] = ()
    marks: tuple[Any, ...] = ()
    nullable: bool = False

    @property
    def fields(self) -> Mapping[str, FieldInfo]:
        """A section's keys; empty for anything else."""
        return self.kind.model_fields if isinstance(self.kind, type) and issubclass(self.kind, BaseModel) else {}

    def child(self, part: str | int) -> Shape | None:
        """The shape one step down, or None where the schema has nothing."""
        if self.kind is dict or self.kind is list:
            return shape_of(self.arguments[-1])
        field = self.fields.get(str(part))
        return None if field is None else shape_of(field.annotation, tuple(field.metadata))

    def bound(self, name: str) -> Any:
        """The value of the bound ``ge``, ``gt``, ``le`` or ``lt``, or None."""
        return next((getattr(mark, name) for mark in self.marks if getattr(mark, name, None) is not None), None)


def shape_of(annotation: Any, marks: tuple[Any, ...] = ()) -> Shape:
    """Take an annotation apart: ``Annotated`` layers, ``| None``, and what is inside."""
    nullable = False
    while (origin := get_origin(annotation)) in (Annotated, Union, types.UnionType):
        if origin is Annotated:
            annotation, *more = get_args(annotation)
            marks += tuple(inner for mark in more for inner in _flat(mark))
            continue
        inside = [part for part in get_args(annotation) if part is not type(None)]
        nullable = nullable or len(inside) < len(get_args(annotation))
        if len(inside) != 1:
            break
        annotation = inside[0]
    return Shape(get_origin(annotation) or annotation, get_args(annotation), marks, nullable)


def _flat(mark: Any) -> list[Any]:
    return list(mark.metadata) if isinstance(mark, FieldInfo) else [mark]


def shape_at(root: type[BaseModel], path: TreePath) -> Shape | None:
    """The shape at a path of the tree, or None where the schema has nothing."""
    shape: Shape | None = Shape(root)
    for part in path:
        if shape is None:
            return None
        shape = shape.child(part)
    return shape


def describe(shape: Shape) -> str:
    """What a value of this shape may be, in words.

    >>> from pydantic import Field
    >>> describe(shape_of(Annotated[float, Field(ge=0, le=100), Noun("a percentage")]))
    'a percentage from 0 to 100'
    """
    noun = next((mark.text for mark in shape.marks if isinstance(mark, Noun)), None)
    if noun is None and isinstance(shape.kind, type) and issubclass(shape.kind, enum.Enum):
        noun = either([str(member.value) for member in shape.kind])
    if shape.fields:
        noun = "a section"
    elif shape.kind is list:
        noun = f"a list of: {describe(shape_of(shape.arguments[0]))}"
    elif shape.kind is dict:
        noun = f"a mapping from {describe(shape_of(shape.arguments[0]))} to {describe(shape_of(shape.arguments[1]))}"
    words = f"{noun or _NOUNS.get(shape.kind, 'a value')}{_bounds(shape)}"
    return f"{words}, or null" if shape.nullable else words


def _bounds(shape: Shape) -> str:
    if shape.kind is str and (longest := shape.bound("max_length")) is not None:
        return f" of at most {longest} characters"
    least, most = shape.bound("ge"), shape.bound("le")
    over, under = shape.bound("gt"), shape.bound("lt")
    if least is not None:
        return f" from {number(least)} to {number(most)}"
    if over is None:
        return ""
    ending = f" and less than {number(under)}" if most is None else f", at most {number(most)}"
    return f" greater than {number(over)}{ending}"


def either(words: Sequence[str]) -> str:
    """The words as a choice.

    >>> either(["hold", "rollback", "promote"])
    'hold, rollback or promote'
    """
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else "".join(words)


def number(value: float) -> str:
    """A number without a useless ``.0``."""
    return str(int(value)) if value == int(value) else str(value)


def keys(root: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Shape, str]]:
    """Every key of the schema as ``(name, shape, default)``; list items are ``[]``, free names ``<name>``."""
    for name, field in root.model_fields.items():
        here = f"{prefix}{name}"
        shape = shape_of(field.annotation, tuple(field.metadata))
        yield here, shape, "required" if field.is_required() else default_text(field.default)
        inner, below = within(shape, here)
        if inner.fields:
            yield from keys(inner.kind, f"{below}.")


def within(shape: Shape, here: str) -> tuple[Shape, str]:
    """The shape within lists and mappings, and the name of its place: list items are ``[]``, free names ``<name>``."""
    while shape.kind in (list, dict):
        here += "[]" if shape.kind is list else ".<name>"
        shape = shape_of(shape.arguments[-1])
    return shape, here


def documentation(shape: Shape) -> str:
    """What the key of this shape means; empty when nobody says."""
    return next((mark.text for mark in reversed(shape.marks) if isinstance(mark, Doc)), "")


def default_text(value: Any) -> str:
    """A default as it would be written in the file, on one line; a section's are those of its keys."""
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, list):
        return f"[{', '.join(map(_item_text, value))}]"
    return _item_text(value)


def _item_text(value: Any) -> str:
    if isinstance(value, BaseModel):
        given = ", ".join(f"{name}: {_item_text(getattr(value, name))}" for name in sorted(value.model_fields_set))
        return f"{{{given}}}"
    if isinstance(value, bool) or value is None:
        return show(value)
    return number(value) if isinstance(value, (int, float)) else str(value)

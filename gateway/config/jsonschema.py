"""The configuration's shape as JSON Schema, for the API's description, for editors and for Helm.

Whatever the program takes is valid by it; a test holds that. It says less than the program checks: what a text must
look like, and what keys must say together, are words here (`description`).

Source: JSON Schema 2020-12.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from typing import Any

from pydantic import BaseModel

from gateway.config.plain import plain
from gateway.config.shape import Also, Shape, describe, documentation, shape_of

_TYPES = {bool: "boolean", int: "integer", float: "number"}
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_TEXT_BOUNDS = {"min_length": "minLength", "max_length": "maxLength"}
_LIST_BOUNDS = {"min_length": "minItems", "max_length": "maxItems"}


def json_schema(section: type[BaseModel], optional: Collection[str] = ()) -> dict[str, Any]:
    """The JSON Schema of a section, whole: it refers to nothing. ``optional`` keys are not required there."""
    properties: dict[str, Any] = {}
    required = []
    for name, field in section.model_fields.items():
        shape = shape_of(field.annotation, tuple(field.metadata))
        properties[name] = _schema(shape)
        if meaning := documentation(shape):
            properties[name]["description"] = meaning
        if field.is_required():
            required.append(name)
        elif not isinstance(field.default, BaseModel):
            properties[name]["default"] = plain(field.default)
    schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    required = [name for name in required if name not in optional]
    return schema | ({"required": required} if required else {})


def _schema(shape: Shape) -> dict[str, Any]:
    choices = [_bare(shape)]
    choices += [dict(mark.schema) for mark in shape.marks if isinstance(mark, Also)]
    choices += [{"type": "null"}] if shape.nullable else []
    return choices[0] if len(choices) == 1 else {"anyOf": choices}


def _bare(shape: Shape) -> dict[str, Any]:
    if shape.fields:
        return json_schema(shape.kind)
    if shape.kind is list:
        items = {"type": "array", "items": _schema(shape_of(shape.arguments[0]))}
        return items | _limits(shape, _LIST_BOUNDS)
    if shape.kind is dict:
        return {"type": "object", "additionalProperties": _schema(shape_of(shape.arguments[1]))}
    if isinstance(shape.kind, type) and issubclass(shape.kind, enum.Enum):
        return {"enum": [member.value for member in shape.kind]}
    if shape.kind in _TYPES:
        return {"type": _TYPES[shape.kind]} | _limits(shape, _BOUNDS)
    words = describe(Shape(shape.kind, shape.arguments, shape.marks))
    return {"type": "string", "description": words} | _limits(shape, _TEXT_BOUNDS)


def _limits(shape: Shape, names: dict[str, str]) -> dict[str, Any]:
    limits = {key: shape.bound(name) for name, key in names.items()}
    return {key: limit for key, limit in limits.items() if limit is not None}

"""The configuration's shape as JSON Schema, for the API's description and for editors.

It says less than the schema itself: what a text must look like, and what keys must say together, are words here
(`description`) and checks there.

Source: JSON Schema 2020-12.
"""

from __future__ import annotations

import enum
from typing import Any

from pydantic import BaseModel

from gateway.config.plain import plain
from gateway.config.shape import Shape, describe, shape_of

_TYPES = {bool: "boolean", int: "integer", float: "number"}
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def json_schema(section: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of a section, whole: it refers to nothing."""
    properties: dict[str, Any] = {}
    required = []
    for name, field in section.model_fields.items():
        properties[name] = _schema(shape_of(field.annotation, tuple(field.metadata)))
        if field.is_required():
            required.append(name)
        elif not isinstance(field.default, BaseModel):
            properties[name]["default"] = plain(field.default)
    schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    return schema | ({"required": required} if required else {})


def _schema(shape: Shape) -> dict[str, Any]:
    schema = _bare(shape)
    if not shape.nullable:
        return schema
    return {"anyOf": [schema, {"type": "null"}]}


def _bare(shape: Shape) -> dict[str, Any]:
    if shape.fields:
        return json_schema(shape.kind)
    if shape.kind is list:
        schema: dict[str, Any] = {"type": "array", "items": _schema(shape_of(shape.arguments[0]))}
        for name, key in (("min_length", "minItems"), ("max_length", "maxItems")):
            if (limit := shape.bound(name)) is not None:
                schema[key] = limit
        return schema
    if shape.kind is dict:
        return {"type": "object", "additionalProperties": _schema(shape_of(shape.arguments[1]))}
    if isinstance(shape.kind, type) and issubclass(shape.kind, enum.Enum):
        return {"enum": [member.value for member in shape.kind]}
    if shape.kind in _TYPES:
        bounds = {key: shape.bound(name) for name, key in _BOUNDS.items()}
        return {"type": _TYPES[shape.kind]} | {key: limit for key, limit in bounds.items() if limit is not None}
    return {"type": "string", "description": describe(Shape(shape.kind, shape.arguments, shape.marks))}

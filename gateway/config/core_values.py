"""From sections to the core's values and back, by the names of their fields: nothing is mapped by hand.

Rules:

1. A field of the core's value takes the key of the same name, or what the section's `to_core` says, or what the caller
   adds.
2. A section within a section becomes the core's value that belongs there; lists become tuples, choices the core's.
3. A field that nothing fills keeps the core's default. A test names those, and the keys that no field takes, so that
   none is forgotten.
4. The way back (`section_tree`) gives what the file would say, with all keys: the API shows a rollout's plan by it.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from gateway.config.section import Section
from gateway.config.shape import Shape, shape_of

T = TypeVar("T", bound=msgspec.Struct)


def core_value(section: Section, kind: type[T], **more: Any) -> T:
    """The section as the core's ``kind``; ``more`` are fields that come from elsewhere."""
    return msgspec.convert(_fields(section, kind) | more, kind)


def _fields(section: Section, kind: type[msgspec.Struct]) -> dict[str, Any]:
    said, keys = section.to_core(), type(section).model_fields
    names = (name for name in kind.__struct_fields__ if name in keys and name not in said)
    return {name: _plain(value) for name, value in ({name: getattr(section, name) for name in names} | said).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        assert value.core is not None, f"{type(value).__name__} does not say which value of the core it is"
        return _fields(value, value.core)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value


def section_tree(kind: type[Section], value: msgspec.Struct) -> dict[str, Any]:
    """The tree that a section's file would hold to become this value of the core."""
    said = kind.of_core(value)
    tree = {}
    for name, field in kind.model_fields.items():
        found = said[name] if name in said else getattr(value, name)
        tree[name] = _tree(shape_of(field.annotation, tuple(field.metadata)), found)
    return tree


def _tree(shape: Shape, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_tree(shape_of(shape.arguments[0]), item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    return section_tree(shape.kind, value) if isinstance(value, msgspec.Struct) and shape.fields else value

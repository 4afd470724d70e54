"""The tables of docs/configuration.md, written from the declarations of the keys.

    python -m gateway.config.reference docs/configuration.md

A table stands below the comment that names its keys: ``<!-- keys: limits -->``, or ``<!-- keys: routes, not
routes[].plan -->``. A section whose keys another one in the same table has too is shown once; of one that only adds to
another, or has other defaults, what differs is shown.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gateway.config.schema import GatewayConfig
from gateway.config.shape import Shape, default_text, describe, documentation, shape_of, within

_HEAD = "| key | type | default | meaning |\n|---|---|---|---|\n"
_TABLE = re.compile(r"<!-- keys: ([^\n]*?) -->\n+(?:\|[^\n]*\n)*")


class Row(NamedTuple):
    """One key, as a table shows it."""

    key: str
    type: str
    default: str
    meaning: str

    def __str__(self) -> str:
        return f"| `{self.key}` | {self.type} | {self.default} | {self.meaning} |\n"


def rows(root: type[BaseModel], keys: set[str], without: set[str]) -> Iterator[Row]:
    """The rows of these keys and what is below them, but for what is at and below ``without``."""
    yield from _rows(root, "", keys, without, {})


def _rows(
    section: type[BaseModel], prefix: str, keys: set[str], without: set[str], seen: dict[type[BaseModel], str]
) -> Iterator[Row]:
    for name, field in section.model_fields.items():
        here = f"{prefix}{name}"
        shape = shape_of(field.annotation, tuple(field.metadata))
        inner, below = within(shape, here)
        if here in without:
            continue
        if not any(_at_or_below(here, key) for key in keys):
            if inner.fields and any(key.startswith(f"{below}.") for key in keys):
                yield from _rows(inner.kind, f"{below}.", keys, without, seen)
            continue
        like = next((base for base in inner.kind.__mro__ if base in seen), None) if inner.fields else None
        known = "" if like is None or inner is not shape else f" with the keys of `{seen[like]}`"
        yield _row(here, shape, field, known)
        if not inner.fields:
            continue
        if like is None:
            seen[inner.kind] = name
            yield from _rows(inner.kind, f"{below}.", keys, without, seen)
        else:
            yield from _differences(inner.kind, like, f"{below}.")


def _at_or_below(here: str, key: str) -> bool:
    return here == key or (here.startswith(key) and here[len(key)] in ".[")


def _differences(section: type[BaseModel], like: type[BaseModel], prefix: str) -> Iterator[Row]:
    for name, field in section.model_fields.items():
        other = like.model_fields.get(name)
        if other is None or other.default != field.default:
            yield _row(f"{prefix}{name}", shape_of(field.annotation, tuple(field.metadata)), field, "")


def _row(key: str, shape: Shape, field: FieldInfo, known: str) -> Row:
    default = "required" if field.is_required() else default_text(field.default)
    shown = default if default in ("required", "its defaults") else f"`{default}`"
    return Row(key, f"{describe(shape)}{known}", shown, documentation(shape))


def filled(text: str) -> str:
    """The document with its tables as the declarations say."""

    def table(found: re.Match[str]) -> str:
        keys, _, without = found[1].partition(", not ")
        body = "".join(map(str, rows(GatewayConfig, set(keys.split()), set(without.split()))))
        return f"<!-- keys: {found[1]} -->\n\n{_HEAD}{body}"

    return _TABLE.sub(table, text)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        path = Path(argument)
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")

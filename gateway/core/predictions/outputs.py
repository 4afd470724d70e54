"""The common form of an answer: named outputs with a shape and flat values, whatever protocol brought them."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from gateway.core.errors import GatewayError

RANK_MAX = 32
DIMENSION_MAX = 2**31 - 1
OUTPUTS_MAX = 64

Value = float | int | str | None
"""An element. None is what JSON says in the place of a NaN."""


class UndecodableError(GatewayError):
    """A body that is not what its protocol says."""


class WholeAnswer(msgspec.Struct, frozen=True):
    """A response as it was relayed, whole. ``header_length`` is Inference-Header-Content-Length, "" if absent.

    ``path`` is what was asked for, without query; "" where it is not known. ``value`` is the body's JSON where somebody
    has parsed it already.
    """

    body: bytes
    content_type: str = ""
    header_length: str = ""
    path: str = ""
    status: int = 200
    value: tuple[Any] | None = None


class Output(msgspec.Struct, frozen=True):
    """One output: ``values`` row-major, as many as the product of ``shape``.

    ``plain``: it comes from JSON of no known form, so that nothing but its name says whether it is a prediction.
    """

    name: str
    shape: tuple[int, ...]
    values: list[Value]
    plain: bool = False

    @property
    def rows(self) -> int:
        """How many items of the batch it speaks of (a scalar speaks of one)."""
        if not self.shape:
            return 1
        return self.shape[0] if self.values else 0

    def row(self, index: int) -> list[Value]:
        """The values of one item of the batch."""
        width = len(self.values) // self.rows
        return self.values[index * width : (index + 1) * width]


def checked(name: str, shape: tuple[int, ...], values: list[Value]) -> Output:
    """The output, if its values are as many as its shape says and all of one kind. Raises UndecodableError."""
    if count(name, shape) != len(values):
        raise UndecodableError(f"output {name!r}: {len(values)} values do not fill the shape {list(shape)}")
    kinds = {type(value) for value in values}
    if not kinds <= {float, int, type(None)} and kinds not in ({str}, {bool}):
        raise UndecodableError(f"output {name!r} mixes kinds of values")
    return Output(name, shape, values)


def count(name: str, shape: tuple[int, ...]) -> int:
    """How many values a shape holds. Raises UndecodableError for one that no tensor has."""
    if len(shape) > RANK_MAX or any(not 0 <= size <= DIMENSION_MAX for size in shape):
        raise UndecodableError(f"output {name!r} has an impossible shape")
    return math.prod(shape)


def flat(tree: object, values_max: int = 1 << 20) -> tuple[tuple[int, ...], list[Value]]:
    """Shape and values of nested lists. Raises UndecodableError for ragged ones and for what is no tensor."""
    shape: list[int] = []
    level: list[object] = [tree]
    while level and isinstance(level[0], list):
        if len(shape) >= RANK_MAX:
            raise UndecodableError(f"lists are nested deeper than {RANK_MAX}")
        size = len(level[0])
        if any(not isinstance(part, list) or len(part) != size for part in level):
            raise UndecodableError("nested lists differ in length or depth")
        shape.append(size)
        level = [item for part in level for item in part]  # type: ignore[attr-defined]  # each part is a list, see above
        if len(level) > values_max:
            raise UndecodableError(f"more than {values_max} values")
    values: list[Value] = []
    for item in level:
        if item is not None and not isinstance(item, (float, int, str)):
            raise UndecodableError(f"a value is a {type(item).__name__}")
        values.append(item)
    return tuple(shape), values

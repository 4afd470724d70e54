"""Bodies as rows: columns by name, such as ``request.pixels.17`` and ``response.label.0``.

Rules:

1. Tensors of the Open Inference Protocol are columns by their names; `instances`, `predictions` and `outputs` of KServe
   V1 and TensorFlow Serving by the names inside of them; any other JSON by its keys, joined with dots.
2. Of a batch one row is made, of its first item: the items of one request are not independent.
3. Lists have a column for each of their first `ELEMENTS_MAX` elements. Lists of more than one number also have
   ``.min``, ``.max``, ``.mean`` and ``.size``.
4. A row has at most `COLUMNS_MAX` columns. What is no JSON has none.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

ELEMENTS_MAX = 100
COLUMNS_MAX = 1_000
_DEPTH_MAX = 12
_TENSORS = ("inputs", "outputs")
_BATCHES = ("instances", "predictions", "outputs", "inputs", "dataframe_records")

Cell = str | float | int | bool | None
Row = dict[str, Cell]


def flattened(prefix: str, body: bytes) -> Row:
    """The columns of a body; none where it is no JSON."""
    try:
        tree = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return {}
    row: Row = {}
    for name, value in _named(tree):
        _put(row, f"{prefix}.{name}" if name else prefix, value, 0)
    return row


def _named(tree: Any) -> list[tuple[str, Any]]:
    """The values of the first item, by name."""
    if not isinstance(tree, dict):
        return [("", _first(tree) if isinstance(tree, list) else tree)]
    for key in _TENSORS:
        tensors = tree.get(key)
        if isinstance(tensors, list) and tensors and all(isinstance(one, dict) and "data" in one for one in tensors):
            return [(str(one.get("name", "")), _first_item(one)) for one in tensors]
    frame = tree.get("dataframe_split")
    if isinstance(frame, dict) and isinstance(frame.get("columns"), list) and isinstance(frame.get("data"), list):
        return list(zip(map(str, frame["columns"]), _first(frame["data"]) or (), strict=False))
    for key in _BATCHES:
        batch = tree.get(key)
        if isinstance(batch, list):
            item = _first(batch)
            return [(str(k), v) for k, v in item.items()] if isinstance(item, dict) else [(key, item)]
        if isinstance(batch, dict):
            return [(str(k), _first(v) if isinstance(v, list) else v) for k, v in batch.items()]
    return [(str(key), value) for key, value in tree.items()]


def _first(batch: list[Any]) -> Any:
    return batch[0] if batch else None


def _first_item(tensor: dict[str, Any]) -> Any:
    """The first item of a tensor, whose data may be flat or nested."""
    data, shape = tensor["data"], tensor.get("shape")
    if not isinstance(data, list) or not data:
        return None
    if isinstance(data[0], list):
        return data[0]
    rows = shape[0] if isinstance(shape, list) and len(shape) > 1 and isinstance(shape[0], int) else len(data)
    width = len(data) // rows if rows > 0 else 0
    return data[:width] if width > 1 else data[0]


def _put(row: Row, name: str, value: Any, depth: int) -> None:
    if len(row) >= COLUMNS_MAX or depth > _DEPTH_MAX:
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            _put(row, f"{name}.{key}", inner, depth + 1)
    elif isinstance(value, list):
        for index, inner in enumerate(value[:ELEMENTS_MAX]):
            _put(row, f"{name}.{index}", inner, depth + 1)
        numbers = [one for one in value if isinstance(one, (int, float)) and not isinstance(one, bool)]
        if len(value) > 1 and len(numbers) == len(value):
            row |= {f"{name}.min": min(numbers), f"{name}.max": max(numbers), f"{name}.size": len(numbers)}
            row[f"{name}.mean"] = math.fsum(numbers) / len(numbers)
    elif value is None or isinstance(value, (str, int, float, bool)):
        row[name] = value

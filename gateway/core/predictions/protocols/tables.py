"""Rows and columns in JSON, which most servers answer in one way or another: named outputs made of them.

Rules:

1. Rows come as ``{"predictions": [...]}`` (KServe V1, TensorFlow Serving, MLflow), as a list, or as the only list of
   objects in an object; columns as ``{"outputs": {...}}`` (TensorFlow Serving) or ``{"predictions": {name: [...]}}``
   (MLflow). Any other object is one row. Rows that are no objects make one output, named ``predictions``.
2. A row's fields become outputs of the same name; of objects inside a row the names are joined by dots. A field that is
   missing in a row, or is no regular tensor, is no output. A row that ranks candidates (``[{"label", "score"}, ...]``,
   ``[["label", score], ...]``) says its best one.
3. At most `OUTPUTS_MAX` outputs are kept, those with a class-like name first. Numbers and text in one field are read as
   text. ``null`` and ``NaN`` are kept: they are an event of their own.
4. An object with an ``error`` is no answer.
5. Outputs are ``plain`` unless the answer is a list or has ``predictions`` or ``outputs``: any service may send such
   JSON, about whatever it likes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from gateway.core.predictions.names import like_a_class, like_scores
from gateway.core.predictions.outputs import OUTPUTS_MAX, Output, UndecodableError, Value, WholeAnswer, flat

ROWS = "predictions"
TABLES = (ROWS, "outputs", "results")
_DEPTH_MAX = 4
_NAME_CHARS_MAX = 200
_FIELDS_MAX = 512
_LABELS, _SCORES = ("label", "class", "class_name"), ("score", "probability", "confidence")


def json_of(answer: WholeAnswer) -> object:
    """The JSON value of a body. Raises UndecodableError."""
    if answer.value is not None:
        return answer.value[0]
    try:
        # Python's own parser: it reads the NaN that its writer writes.
        return json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise UndecodableError(f"not JSON: {error}") from None


def table_of(tree: object) -> list[Output] | None:
    """The outputs of ``predictions``, ``outputs`` or ``results``; None without any. Raises UndecodableError."""
    if not isinstance(tree, dict):
        return None
    key = next((key for key in TABLES if key in tree), None)
    if key is None:
        return None
    found = tree[key]
    try:
        if isinstance(found, list):
            outputs = _rows(found, ROWS if key == "results" else key)
        else:
            outputs = _columns(found) if isinstance(found, dict) else _rows([found], key)
    except RecursionError:
        raise UndecodableError("nested too deep") from None
    return _plain(outputs) if key == "results" else outputs


def any_json(tree: object) -> list[Output]:
    """The outputs of JSON of any form. Raises UndecodableError."""
    try:
        if isinstance(tree, list):
            rows = _rows(tree)
            return _plain(rows) if _is_records(tree) else rows
        if not isinstance(tree, dict):
            return _rows([tree])
        refuse_error(tree)
        outputs = table_of(tree)
        if outputs is not None:
            return outputs
        lists = [value for value in tree.values() if _is_records(value)]
        if len(lists) == 1:
            return _plain(_rows(lists[0]))
        # Nothing but scores: one row's vector, not a column.
        return _plain(_rows([tree]) if all(map(like_scores, tree)) else _columns(tree))
    except RecursionError:
        raise UndecodableError("nested too deep") from None


def records(rows: list[object]) -> list[Output]:
    """The fields of these objects, of no known form. Raises UndecodableError."""
    return _plain(_rows(rows))


def refuse_error(tree: object) -> None:
    """Raise UndecodableError for an object that is an error."""
    if isinstance(tree, dict) and tree.get("error"):
        raise UndecodableError("it is an error, not a prediction")


def _plain(outputs: Iterable[Output]) -> list[Output]:
    return [Output(one.name, one.shape, one.values, plain=True) for one in outputs]


def _is_records(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _columns(tree: Mapping[str, object]) -> list[Output]:
    """Columns of one length; otherwise the fields of one row."""
    sizes = {len(value) if isinstance(value, list) else -1 for value in tree.values()}
    if len(sizes) == 1 and -1 not in sizes:
        return _named((name, value) for name, value in tree.items() if isinstance(value, list))
    return _rows([tree])


def _rows(rows: list[object], name: str = ROWS) -> list[Output]:
    if rows and all(isinstance(row, list) and row for row in rows):
        best = [_best(row) for row in rows if isinstance(row, list)]
        if all(one is not None for one in best):
            rows = list(best)
    if not rows or not any(isinstance(row, dict) for row in rows):
        shape, values = flat(rows)
        return [Output(name, shape, _alike(values))]
    fields = [dict(_fields(row)) if isinstance(row, dict) else {} for row in rows]
    return _named((key, [row[key] for row in fields]) for key in fields[0] if all(key in row for row in fields))


def _fields(row: Mapping[str, object], prefix: str = "", depth: int = 1) -> Iterable[tuple[str, object]]:
    for key, value in row.items():
        if isinstance(value, dict) and depth < _DEPTH_MAX:
            yield from _fields(value, f"{prefix}{key}.", depth + 1)
        else:
            yield prefix + key, value


def _best(row: list[object]) -> dict[str, object] | None:
    """The best of a row's ranked candidates; None if it ranks none."""
    candidates = [_candidate(one) for one in row]
    known = [one for one in candidates if one is not None]
    if len(known) < len(row):
        return None
    label, score = max(known, key=lambda one: one[1])
    return {"label": label, "score": score}


def _candidate(one: object) -> tuple[str | int, float] | None:
    if isinstance(one, list) and len(one) == 2:
        label, score = one
    elif isinstance(one, dict):
        label = next((one[key] for key in _LABELS if key in one), None)
        score = next((one[key] for key in _SCORES if key in one), None)
    else:
        return None
    is_label = isinstance(label, str) or (isinstance(one, dict) and type(label) is int)
    return (label, score) if is_label and type(score) in (int, float) else None


def _named(columns: Iterable[tuple[str, list[object]]]) -> list[Output]:
    """The columns that are tensors, the class-like ones first where they are too many."""
    found: list[Output] = []
    names: list[str] = []
    for name, column in columns:
        names.append(name)
        if len(names) > _FIELDS_MAX:
            break
        try:
            shape, values = flat(column)
        except UndecodableError:
            continue
        found.append(Output(name[:_NAME_CHARS_MAX], shape, _alike(values)))
    if not found:
        raise UndecodableError(f"no field is a value or a list of values: {', '.join(names[:5]) or 'it has none'}")
    if len(found) > OUTPUTS_MAX:
        found = sorted(found, key=lambda output: not like_a_class(output.name))[:OUTPUTS_MAX]
    return list({output.name: output for output in found}.values())


def _alike(values: list[Value]) -> list[Value]:
    """Values of one kind, as the other decoders give them: where kinds are mixed, all of them as text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or len(kinds) <= 1:
        return values
    return [None if value is None else str(value) for value in values]

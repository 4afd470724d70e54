"""What an answer says, in the few words that can be compared: a class, a confidence, a value.

Rules:

1. What the outputs mean (`Layout`) is found in stable's first answers and then fixed, unless the configuration names
   them: a label is one text or whole number per item, scores are two or more floats per item, a value is one float (of
   several the first). Scores of one dimension, which only a name can say they are, are one item's. A label is the
   class; without one it is the highest score. The confidence is the highest score, after a softmax where stable's
   scores are no probabilities.
2. An answer to a batch speaks through one item, drawn without regard to what it says: the items of one answer stand and
   fall together, and the unit of the experiment is the request.
3. NaN and infinities anywhere in an answer are an event of their own, and so is an answer without a single element.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from gateway.core.predictions.outputs import Output, UndecodableError, Value

_PROBABILITY_SLACK = 0.01
_LABEL_CHARS_MAX = 200


class Layout(msgspec.Struct, frozen=True):
    """Which output says what; None where none does."""

    label: str | None = None
    scores: str | None = None
    value: str | None = None
    softmax: bool = False

    @property
    def names(self) -> list[str]:
        """The outputs that every answer must have."""
        return [name for name in (self.label, self.scores, self.value) if name is not None]


class Reading(msgspec.Struct, frozen=True):
    """One answer: ``label`` is its class. None where it says nothing of the kind."""

    label: str | None = None
    confidence: float | None = None
    value: float | None = None
    nan: bool = False
    empty: bool = False


def layout_of(answers: Sequence[Sequence[Output]], named: Mapping[str, str]) -> Layout:
    """The layout of these answers of stable's; ``named`` gives outputs by role (label, scores, value) beforehand."""
    by_name: dict[str, list[Output]] = {}
    for answer in answers:
        for output in answer:
            by_name.setdefault(output.name, []).append(output)
    roles: dict[str, str] = dict(named)
    for name, outputs in by_name.items():
        # An output that comes and goes is no part of the layout.
        if name not in roles.values() and 2 * len(outputs) > len(answers):
            role = _role(outputs)
            if role is not None:
                roles.setdefault(role, name)
    scores = roles.get("scores")
    softmax = scores is not None and not _are_probabilities([_batched(one) for one in by_name.get(scores, [])])
    return Layout(roles.get("label"), scores, roles.get("value"), softmax)


def read(outputs: Sequence[Output], layout: Layout | None, draw: float) -> Reading:
    """The reading of an answer; ``draw`` from [0, 1) chooses the item. Raises UndecodableError for a missing output."""
    nan = any(_has_nan(output) for output in outputs)
    if not any(output.values for output in outputs):
        return Reading(nan=nan, empty=True)
    if layout is None:
        return Reading(nan=nan)
    by_name = {output.name: output for output in outputs}
    missing = [name for name in layout.names if name not in by_name]
    if missing:
        raise UndecodableError(f"the answer has no output {missing[0]!r}, which stable's answers have")
    if layout.scores is not None:
        by_name[layout.scores] = _batched(by_name[layout.scores])
    rows = min((by_name[name].rows for name in layout.names), default=1)
    if not rows:
        return Reading(nan=nan, empty=True)
    index = min(int(draw * rows), rows - 1)
    items = {name: by_name[name].row(index) for name in layout.names}
    label, confidence = None, None
    if layout.scores is not None:
        label, confidence = _top(items[layout.scores], layout.softmax)
    if layout.label is not None:
        label = _one_label(items[layout.label])
    value = None if layout.value is None else _one_number(items[layout.value])
    return Reading(label, confidence, value, nan)


def _batched(scores: Output) -> Output:
    return Output(scores.name, (1, *scores.shape), scores.values) if len(scores.shape) == 1 else scores


def _role(outputs: Sequence[Output]) -> str | None:
    widths = {len(output.values) // output.rows for output in outputs if output.rows}
    kinds = {type(value) for output in outputs for value in output.values}
    if widths == {1}:
        return "value" if float in kinds else "label" if kinds and kinds <= {int, bool, str} else None
    if min(widths, default=0) > 1 and float in kinds and all(len(output.shape) <= 2 for output in outputs):
        return "scores"
    return None


def _are_probabilities(outputs: Sequence[Output]) -> bool:
    rows = [output.row(index) for output in outputs for index in range(output.rows)]
    numbers = [_numbers(row) for row in rows]
    return all(
        row and min(row) >= -_PROBABILITY_SLACK and abs(math.fsum(row) - 1.0) <= _PROBABILITY_SLACK
        for row in numbers
        if len(row) and all(map(math.isfinite, row))
    )


def _top(item: Sequence[Value], softmax: bool) -> tuple[str | None, float | None]:
    scores = _numbers(item)
    if not scores or len(scores) < len(item) or not all(map(math.isfinite, scores)):
        return None, None
    best = max(scores)
    confidence = 1.0 / math.fsum(math.exp(score - best) for score in scores) if softmax else best
    return str(scores.index(best)), confidence


def _one_label(item: Sequence[Value]) -> str | None:
    return str(item[0])[:_LABEL_CHARS_MAX] if len(item) == 1 and item[0] is not None else None


def _one_number(item: Sequence[Value]) -> float | None:
    numbers = _numbers(item)
    return numbers[0] if len(item) == len(numbers) == 1 and math.isfinite(numbers[0]) else None


def _numbers(item: Sequence[Value]) -> list[float]:
    return [float(value) for value in item if isinstance(value, (int, float)) and abs(value) < 1e308]


def _has_nan(output: Output) -> bool:
    if not output.values or isinstance(output.values[0], str):
        return False
    try:
        # One pass in C: a NaN or an infinity shows in the sum. Finite numbers may overflow it, so then look closer.
        if math.isfinite(math.fsum(value for value in output.values if value is not None)):  # type: ignore[misc]  # no text among them
            return None in output.values
    except OverflowError:
        pass
    except ValueError:
        return True
    return any(value is None or not _is_finite(value) for value in output.values)


def _is_finite(value: Value) -> bool:
    try:
        return isinstance(value, (int, float)) and math.isfinite(value)
    except OverflowError:
        return True  # a whole number beyond the floats

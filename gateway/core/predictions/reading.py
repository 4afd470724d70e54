"""What an answer says, in the few words that can be compared: a class, a confidence, a value.

Rules:

1. What the outputs mean (`Layout`, layout.py) is found in stable's first answers and then fixed. Scores of one
   dimension, which only a name can say they are, are one item's. A label is the class; without one it is the highest
   score. The confidence is the highest score, after a softmax where stable's scores are no probabilities.
2. An answer to a batch speaks through one item, drawn without regard to what it says: the items of one answer stand and
   fall together, and the unit of the experiment is the request.
3. NaN and infinities anywhere in an answer are an event of their own, and so is an answer without a single element.
   ``surely`` looks for them in the outputs of the layout alone: ``null`` in a further field is no fault.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from gateway.core.predictions.layout import Layout, batched, numbers_of, ranked_label, ranked_score
from gateway.core.predictions.outputs import Output, UndecodableError, Value

_LABEL_CHARS_MAX = 200


class Reading(msgspec.Struct, frozen=True):
    """One answer: ``label`` is its class. None where it says nothing of the kind."""

    label: str | None = None
    confidence: float | None = None
    value: float | None = None
    nan: bool = False
    empty: bool = False


def read(outputs: Sequence[Output], layout: Layout | None, draw: float, *, surely: bool = False) -> Reading:
    """The reading of an answer; ``draw`` from [0, 1) chooses the item. Raises UndecodableError for a missing output."""
    judged = () if layout is None else layout.names
    nan = any(_has_nan(output) for output in outputs if not surely or output.name in judged)
    if not any(output.values for output in outputs):
        return Reading(nan=nan, empty=True)
    if layout is None:
        return Reading(nan=nan)
    by_name = {output.name: output for output in outputs}
    missing = [name for name in layout.names if name not in by_name]
    if missing:
        raise UndecodableError(f"the answer has no output {missing[0]!r}, which stable's answers have")
    if layout.scores is not None:
        by_name[layout.scores] = batched(by_name[layout.scores])
    if layout.ranked and layout.label is not None:
        by_name[layout.label] = batched(by_name[layout.label])
    rows = min((by_name[name].rows for name in layout.names), default=1)
    if not rows:
        return Reading(nan=nan, empty=True)
    index = min(int(draw * rows), rows - 1)
    items = {name: by_name[name].row(index) for name in layout.names}
    label, confidence = None, None
    if layout.scores is not None:
        label, confidence = _top(items[layout.scores], layout.softmax)
    if layout.label is not None:
        label = _one_label(items[layout.label], ranked=layout.ranked)
        if layout.ranked and layout.scores is None and items[layout.label]:
            confidence = ranked_score(str(items[layout.label][0]))
    value = None if layout.value is None else _one_number(items[layout.value])
    return Reading(label, confidence, value, nan)


def _top(item: Sequence[Value], softmax: bool) -> tuple[str | None, float | None]:
    scores = numbers_of(item)
    if not scores or len(scores) < len(item) or not all(map(math.isfinite, scores)):
        return None, None
    best = max(scores)
    confidence = 1.0 / math.fsum(math.exp(score - best) for score in scores) if softmax else best
    return str(scores.index(best)), confidence


def _one_label(item: Sequence[Value], *, ranked: bool = False) -> str | None:
    if not item or (len(item) > 1 and not ranked) or item[0] is None:
        return None
    label = item[0]
    if isinstance(label, float) and label.is_integer():
        label = int(label)  # JSON writes 1.0 for the class 1, too
    text = str(label)[: 4 * _LABEL_CHARS_MAX]
    return (ranked_label(text) if ranked else text)[:_LABEL_CHARS_MAX]


def _one_number(item: Sequence[Value]) -> float | None:
    numbers = numbers_of(item)
    return numbers[0] if len(item) == len(numbers) == 1 and math.isfinite(numbers[0]) else None


def _has_nan(output: Output) -> bool:
    first = next((value for value in output.values if value is not None), None)
    if first is None or isinstance(first, str):
        return None in output.values
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

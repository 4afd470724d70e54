"""Whether two answers to the same request say the same: the outputs of a mirrored pair, compared one by one. Pure.

Rules:

1. What says a class is compared where there is any: labels, whole numbers and booleans must be equal, labels after
   normalising (case, spaces, punctuation at the ends). Scores beside them may differ: another version is another model.
2. Otherwise of a row of several numbers the largest must be the same one, and a single number must lie within a
   tolerance, relative to stable's.
3. Free text (more than `WORDS_MAX` words) is no class: two versions write differently, and only a reader could judge.
4. Bookkeeping (ids, times, versions; names.py) says nothing about what the model saw. Of JSON of no known form only
   what is called a class or a score is compared.
5. Outputs that stable has and the canary has not, or in another shape, do not agree. Where nothing of stable's can be
   compared there is no comparison, which proves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from gateway.core.predictions.names import like_a_class, like_bookkeeping, like_scores
from gateway.core.predictions.outputs import Output, Value

WORDS_MAX = 8
_PUNCTUATION = " \t\r\n.,;:!?\"'()[]"


def agree(stable: Sequence[Output], canary: Sequence[Output] | None, tolerance: float) -> bool | None:
    """Whether the canary's outputs agree with stable's; None when stable's hold nothing to compare.

    ``canary`` None: its answer has no outputs.
    """
    known = [one for one in stable if _comparable(one)]
    classes = [one for one in known if _is_class(one)]
    wanted = classes or known
    if not wanted:
        return None
    if canary is None:
        return False
    theirs = {one.name: one for one in canary}
    return all(_same(one, theirs.get(one.name), tolerance) for one in wanted)


def _comparable(one: Output) -> bool:
    if not one.values or like_bookkeeping(one.name):
        return False
    if one.plain and not (like_a_class(one.name) or like_scores(one.name)):
        return False
    return all(not isinstance(value, str) or len(value.split()) <= WORDS_MAX for value in one.values)


def _is_class(one: Output) -> bool:
    return not like_scores(one.name) and all(isinstance(value, (str, bool, int)) for value in one.values)


def _same(one: Output, other: Output | None, tolerance: float) -> bool:
    if other is None or other.shape != one.shape or len(other.values) != len(one.values):
        return False
    if _is_class(one):
        return all(_normal(a) == _normal(b) for a, b in zip(one.values, other.values, strict=True))
    rows = max(1, one.rows)
    if len(one.values) // rows > 1:
        return all(_largest(one.row(index)) == _largest(other.row(index)) for index in range(rows))
    return all(_close(a, b, tolerance) for a, b in zip(one.values, other.values, strict=True))


def _normal(value: Value) -> Value:
    return " ".join(value.casefold().split()).strip(_PUNCTUATION) if isinstance(value, str) else value


def _largest(row: Sequence[Value]) -> int:
    numbers = [value if isinstance(value, (int, float)) and not math.isnan(value) else -math.inf for value in row]
    return numbers.index(max(numbers))


def _close(a: Value, b: Value, tolerance: float) -> bool:
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return a == b or abs(a - b) <= tolerance * abs(a) or (math.isnan(a) and math.isnan(b))
    return a == b

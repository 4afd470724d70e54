"""Whether two versions' outputs for the same request say the same."""

from __future__ import annotations

import math

import pytest

from gateway.core.predictions.agreement import agree
from gateway.core.predictions.outputs import Output, Value


def one(name: str, *values: Value, plain: bool = False, rows: int = 0) -> Output:
    return Output(name, (rows, len(values) // rows) if rows else (len(values),), list(values), plain)


LABEL, SCORES = one("label", 3), one("scores", 0.1, 0.7, 0.2, rows=1)


@pytest.mark.parametrize(
    ("stable", "canary", "same"),
    [
        ([LABEL], [one("label", 3)], True),
        ([LABEL], [one("label", 4)], False),
        # Another version has other scores; the class is what is compared.
        ([LABEL, SCORES], [one("label", 3), one("scores", 0.3, 0.4, 0.3, rows=1)], True),
        ([SCORES], [one("scores", 0.3, 0.4, 0.3, rows=1)], True),
        ([SCORES], [one("scores", 0.5, 0.4, 0.1, rows=1)], False),
        ([one("scores", 1, 0, rows=1)], [one("scores", 0.98, 0.02, rows=1)], True),
        ([one("price", 100.0)], [one("price", 100.05)], True),
        ([one("price", 100.0)], [one("price", 101.0)], False),
        ([one("price", math.nan)], [one("price", math.nan)], True),
        ([one("label", "Cat ", "dog.")], [one("label", "cat", "Dog")], True),
        ([one("label", "cat")], [one("label", "dog")], False),
        # What stable has, the canary must have in the same shape; what it has besides is no matter.
        ([LABEL], [one("other", 3)], False),
        ([LABEL], [one("label", 3, 3)], False),
        ([LABEL], None, False),
        ([LABEL], [one("label", 3), one("more", 1)], True),
        # Nothing to compare: free text, bookkeeping, and JSON whose names say nothing.
        ([one("text", "one two three four five six seven eight nine")], [one("text", "something else")], None),
        ([one("request_id", "a")], [one("request_id", "b")], None),
        ([one("x", 1, plain=True)], [one("x", 2, plain=True)], None),
        ([one("class", 1, plain=True), one("at", 5, plain=True)], [one("class", 1, plain=True)], True),
        ([], None, None),
    ],
)
def test_outputs_are_compared_by_what_they_are(
    stable: list[Output], canary: list[Output] | None, same: bool | None
) -> None:
    assert agree(stable, canary, 0.001) is same

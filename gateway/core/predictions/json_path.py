"""Answers in JSON of one's own: each output is found by a path, such as ``predictions.0.score`` or ``result.scores``.

A path's steps are separated by dots; a step is a key of an object or an index of a list. What is found there is a
value or nested lists of values; a missing step makes the answer undecodable. The first dimension counts items of the
batch, except for a bare value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from gateway.core.predictions.outputs import Output, UndecodableError, WholeAnswer, checked, flat

_STEPS_MAX = 16


class JsonPath:
    """A decoder for outputs (by the name they are to have) at these paths."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        self._paths = {name: path.split(".")[:_STEPS_MAX] for name, path in paths.items()}

    def __call__(self, answer: WholeAnswer) -> list[Output]:
        """The outputs. Raises UndecodableError."""
        try:
            # Python's own parser: it reads the NaN that its writer writes.
            tree = json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            raise UndecodableError(f"not JSON: {error}") from None
        return [checked(name, *flat(_find(tree, steps))) for name, steps in self._paths.items()]


def _find(tree: object, steps: list[str]) -> object:
    for step in steps:
        if isinstance(tree, dict) and step in tree:
            tree = tree[step]
        elif isinstance(tree, list) and step.isascii() and step.isdigit() and len(step) < 10 and int(step) < len(tree):
            tree = tree[int(step)]
        else:
            raise UndecodableError(f"there is nothing at {'.'.join(steps)!r}")
    return tree

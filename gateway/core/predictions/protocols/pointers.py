"""Places in JSON, in the three ways in which people write them: ``a.0.b``, ``$.a[0].b`` and ``/a/0/b``.

Rules:

1. A text that begins with ``/`` is a JSON Pointer (RFC 6901: ``~1`` is a slash, ``~0`` a tilde). Any other is a path:
   keys and indexes separated by dots, indexes also in brackets, keys with dots as ``['a.b']``; a leading ``$`` changes
   nothing.
2. ``*`` (or ``[*]``) stands for every item of a list: what follows is looked up in each of them. A missing step makes
   the answer undecodable.
3. What is found is a value or nested lists of values. The first dimension counts items of the batch, except for a bare
   value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from gateway.core.predictions.outputs import Output, UndecodableError, checked, flat

_STEPS_MAX = 16
_STEP = re.compile(r"""\.?([^.\[\]]+)|\[(\*|[0-9]{1,9})\]|\[(?:'([^']+)'|"([^"]+)")\]""")


class Pointers:
    """Outputs, by the name that they are to have, at these places."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = {name: (place, steps_of(place) or []) for name, place in places.items()}

    def extract(self, tree: object) -> list[Output]:
        """The outputs. Raises UndecodableError."""
        return [checked(name, *flat(_find(tree, steps, 0, place))) for name, (place, steps) in self._places.items()]


def steps_of(place: str) -> list[str] | None:
    """The steps of a place; None for a text that is none.

    >>> steps_of("predictions.0.class"), steps_of("$.predictions[*]['a.b']"), steps_of("/predictions/0/a~1b")
    (['predictions', '0', 'class'], ['predictions', '*', 'a.b'], ['predictions', '0', 'a/b'])
    >>> steps_of("a..b"), steps_of("a[b"), steps_of("$")
    (None, None, None)
    """
    if place.startswith("/"):
        steps = [step.replace("~1", "/").replace("~0", "~") for step in place[1:].split("/")]
        return steps if len(steps) <= _STEPS_MAX else None
    text = place.removeprefix("$")
    steps, at = [], 0
    while at < len(text):
        found = _STEP.match(text, at)
        if found is None or (not at and text == place and text.startswith(".")):
            return None
        steps.append(next(group for group in found.groups() if group is not None))
        at = found.end()
    return steps if 0 < len(steps) <= _STEPS_MAX else None


def _find(tree: object, steps: list[str], at: int, place: str) -> object:
    for position in range(at, len(steps)):
        step = steps[position]
        if isinstance(tree, dict) and step in tree:
            tree = tree[step]
        elif isinstance(tree, list) and step == "*":
            return [_find(item, steps, position + 1, place) for item in tree]
        elif isinstance(tree, list) and step.isascii() and step.isdigit() and len(step) < 10 and int(step) < len(tree):
            tree = tree[int(step)]
        else:
            raise UndecodableError(f"there is nothing at {place!r}")
    return tree

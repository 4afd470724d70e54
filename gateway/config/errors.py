"""Errors of a configuration: each names its place in the file, what is wrong and how to fix it.

Rules:

1. All issues of a file are reported at once, in the order of the file, one line each.
2. An *issue* knows its path in the tree (``("routes", 0, "canary_percent")``); a *located issue* was found
   in the text, with line and column.
3. Shown values are short and on one line; secrets are never shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from gateway.core.errors import GatewayError, InvalidValueError

TreePath = tuple[str | int, ...]

_SHOWN_CHARS_MAX = 60
_LISTED_MAX = 20
_PLAIN_KEY = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


class Issue(NamedTuple):
    """An issue by its path in the tree. ``at_key`` points at the key rather than at its value."""

    path: TreePath
    problem: str
    hint: str
    at_key: bool = False


class LocatedIssue(msgspec.Struct, frozen=True):
    """One issue: ``place`` in the tree, 1-based ``line`` and ``column`` in the file (None: the file as a whole)."""

    file: str
    place: str
    line: int | None
    column: int | None
    problem: str
    hint: str

    def __str__(self) -> str:
        """``file:line: place: problem; hint``, without the parts that are not known."""
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        what = f"{self.problem}; {self.hint}"
        return f"{where}: {self.place}: {what}" if self.place else f"{where}: {what}"


class ConfigError(GatewayError):
    """A configuration that cannot be used, with every error that was found in it."""

    def __init__(self, issues: Sequence[LocatedIssue]) -> None:
        self.issues = tuple(issues)
        super().__init__("\n".join(str(issue) for issue in self.issues))


class BadValue(InvalidValueError):
    """A value that its grammar refuses; carries what is wrong and how to fix it."""

    def __init__(self, problem: str, hint: str) -> None:
        self.problem = problem
        self.hint = hint
        super().__init__(f"{problem}; {hint}")


def issues_in(path: TreePath, read: Callable[[], object]) -> Iterator[Issue]:
    """What ``read`` refuses, as an issue at that place."""
    try:
        read()
    except BadValue as bad:
        yield Issue(path, bad.problem, bad.hint)


def place_of(path: TreePath) -> str:
    """The path as people write it.

    >>> place_of(("routes", 0, "canary_percent")), place_of(("backends", "v1.2", "probe"))
    ('routes[0].canary_percent', "backends['v1.2'].probe")
    """
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
        elif part and _PLAIN_KEY.issuperset(part):
            out += f".{part}" if out else part
        else:
            out += f"[{show(part)}]"
    return out


def listed(issues: Sequence[Issue | LocatedIssue]) -> str:
    """Issues of the body of a request as one line; of many the first ones."""
    places = [one.place if isinstance(one, LocatedIssue) else place_of(one.path) for one in issues[:_LISTED_MAX]]
    shown = [f"{at or 'the body'}: {one.problem}; {one.hint}" for at, one in zip(places, issues, strict=False)]
    more = f" (and {len(issues) - _LISTED_MAX} more)" if len(issues) > _LISTED_MAX else ""
    return "; ".join(shown) + more


def one_line(text: str) -> str:
    r"""The text with everything that does not print escaped: what a file holds must not reach a terminal raw.

    >>> print(one_line("known: a\r, b"))
    known: a\r, b
    """
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def show(value: Any) -> str:
    """A value on one short line, in YAML's words: ``null``, ``true``, ``'text'``, ``a list``, ``a mapping``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS_MAX else f"{text[: _SHOWN_CHARS_MAX - 3]}..."

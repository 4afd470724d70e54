"""What form an answer has, and whether that is the form of stable's answers.

A version that answers ``{"detail": "Not Found"}``, an image or a text where stable sends ``{"outputs": [...]}`` has
not done what was asked, in whatever words it says so. Errors have too many forms to list them all; good answers of one
route have few, and stable shows them.

Rules:

1. The *kind* of an answer is `OBJECT`, `LIST`, `VALUE` (a text or number, as JSON or by itself, a page among them),
   `STREAM` or `OBJECTS` (an event stream, by its first event) or `DATA` (all else: images, XML, ...). How it is
   framed, coded or typed does not matter.
2. The *members* are those of an object, or of the first object of a list or stream, that are not null. `None` where
   they are not known: of what is no object, and of what is not read to its end.
3. An answer is *unlike stable's* when all but `RARE` of stable's answers are of one kind and it is of another; or when
   they share members and it has none of them. One that lacks some, or has others besides, is like them.
4. Members that any answer may have, good or bad (`_SAYING`: code, message, status, ...; ids, moments and versions by
   their names), are left out of rule 3 where stable's answers share others.
5. Stable's past alone decides, as usual.py has it (rule 5 there); of answers with an error nothing is learnt.
"""

from __future__ import annotations

import functools

import msgspec

from gateway.core.predictions.names import like_bookkeeping

OBJECT, LIST, VALUE, STREAM, OBJECTS, DATA = (
    "a JSON object",
    "a JSON list",
    "a text or number",
    "an event stream",
    "an event stream of JSON objects",
    "data other than JSON",
)
RARE = 0.01
WARM_UP = 50
PAST_MAX = 2_000
_MEMBERS_MAX = 64
_NAMES_MAX = 512
_NAME_CHARS_MAX = 100
_NAMED_MAX = 3
_START_BYTES = 320
_SAYING = frozenset(
    (
        *("code", "status", "statusCode", "status_code", "success", "ok", "state", "error", "errors", "error_code"),
        *("message", "msg", "detail", "details", "reason", "title", "description", "warning", "warnings"),
        *("type", "object", "name", "path", "metadata", "meta", "parameters", "headers", "info"),
    )
)


class Form(msgspec.Struct, frozen=True):
    """The form of one answer; ``start``: its beginning, for an example."""

    kind: str
    members: frozenset[str] | None = None
    start: bytes = b""


def json_form(value: object, start: bytes) -> Form:
    """Of a JSON value that is read whole.

    >>> sorted(json_form({"id": 1, "outputs": [], "error": None}, b"").members)
    ['id', 'outputs']
    """
    if isinstance(value, dict):
        return Form(OBJECT, _members(value), start)
    if isinstance(value, list):
        item = value[0] if value else None
        return Form(LIST, _members(item) if isinstance(item, dict) else None, start)
    return Form(VALUE, None, start)


def stream_form(data: bytes) -> Form:
    """Of an event stream, by the data of its first event.

    >>> stream_form(b"hello").kind
    'an event stream'
    """
    start = data[:_START_BYTES]
    try:
        value = msgspec.json.decode(data) if data[:1] == b"{" else None
    except (ValueError, RecursionError):
        value = None
    return Form(OBJECTS, _members(value), start) if isinstance(value, dict) else Form(STREAM, start=start)


def json_kind(text: bytes) -> str:
    """Of JSON whose beginning alone is at hand."""
    return {b"{": OBJECT, b"[": LIST}.get(text[:1], VALUE)


class _Shares:
    """How many of the recent answers had which of some names."""

    def __init__(self) -> None:
        self._answers = 0.0
        self._had: dict[str, float] = {}

    def learn(self, names: frozenset[str]) -> None:
        if self._answers >= PAST_MAX:
            self._answers /= 2
            self._had = {name: had / 2 for name, had in self._had.items() if had >= 1}
        self._answers += 1
        for name in names:
            if name in self._had or len(self._had) < _NAMES_MAX:
                self._had[name] = self._had.get(name, 0.0) + 1

    def always(self) -> set[str]:
        """What all but `RARE` of them had; nothing before there are enough."""
        if self._answers < WARM_UP:
            return set()
        least = (1 - RARE) * self._answers
        return {name for name, had in self._had.items() if had >= least}


class Forms:
    """The forms of stable's answers on one route."""

    def __init__(self) -> None:
        self._kinds = _Shares()
        self._members = _Shares()

    def learn(self, form: Form) -> None:
        """An answer of stable's."""
        self._kinds.learn(frozenset((form.kind,)))
        if form.members is not None:
            self._members.learn(form.members)

    def unlike(self, form: Form) -> str:
        """In which way the answer is unlike stable's; empty when it is like them, or nothing can be said."""
        kinds = self._kinds.always()
        if not kinds:
            return ""
        if form.kind not in kinds:
            return f"{form.kind} in the place of {kinds.pop()}"
        if form.members is None:
            return ""
        shared = self._members.always()
        shared = {name for name in shared if not _may_say_anything(name)} or shared
        if not shared or shared & form.members:
            return ""
        named = ", ".join(sorted(shared)[:_NAMED_MAX])
        return f"without {named}{', ...' if len(shared) > _NAMED_MAX else ''}"


@functools.lru_cache(maxsize=4096)
def _may_say_anything(name: str) -> bool:
    return name in _SAYING or like_bookkeeping(name)


def _members(value: dict[str, object]) -> frozenset[str]:
    names = (name for name, member in value.items() if member is not None and len(name) <= _NAME_CHARS_MAX)
    return frozenset(name for name, _ in zip(names, range(_MEMBERS_MAX), strict=False))

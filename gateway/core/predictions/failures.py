"""Failures inside an answer that says 200: error objects, broken JSON, empty bodies, pages in the place of data.

Rules, for JSON (a whole answer, one line of JSON lines, or the data of one event of an event stream):

1. An object is an *error object* when one of its members `ERROR_MEMBERS` reports an error:
   a text that is neither empty, nor a number, nor a word for "none" (`_NONE_WORDS`); ``true``; an object with a member
   of `_ERROR_DETAILS` that is not empty, false or 0; a list with such a text or object in it.
   Numbers, lists of numbers and objects of numbers never do: ``{"error": 0.02}`` is what a regression says.
2. So is one whose ``type`` or ``object`` is "error"; and beside a message one whose ``type`` ends in "Error" or
   "Exception", whose ``status`` is "error" or "failed", or whose ``success`` is false.
3. A list fails when one of its first `_ITEMS_MAX` items is an error object; so does an object whose list of results
   (`_RESULTS`) has one.
4. JSON that Python alone can read, because of NaN or Infinity, has *NaN*; other malformed JSON is *invalid*, unless
   each of its lines is JSON (JSON lines under the wrong name).
5. ``[]``, ``{}``, ``null`` and empty results say *nothing*. An answer without a byte is what the metric `empty_body`
   counts, of all answers; here it is no failure.
6. Of an answer of which only the beginning was sampled, the first members are read; what stays unknown is not
   a failure.

What is said of an answer that is no JSON: its family (`family_of`), and whether it has a byte. Of every answer that is
no failure by itself its form is noted (form.py). Which kinds count as a failure on a route is found in stable's own
answers: usual.py.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from gateway.core.predictions.form import DATA, VALUE, Form, json_form, json_kind

ERROR, CLIENT_ERROR, OVERLOAD = "error", "client_error", "overload"
INVALID, NAN, NOTHING = "invalid_json", "nan", "no_results"
CUT, NO_EVENTS, UNFINISHED, PAGE = "cut_stream", "no_events", "unfinished", "page"
OTHER_FORM, BROKEN = "other_form", "broken_body"
ERRORS_INSIDE = (ERROR, OVERLOAD, CLIENT_ERROR)
"""Error objects: the model's doing, too much to do, or the client's doing."""
KINDS = (*ERRORS_INSIDE, BROKEN, INVALID, NAN, NOTHING, CUT, NO_EVENTS, UNFINISHED, PAGE, OTHER_FORM)
"""What may be wrong with an answer, the worst first."""

MODEL_ERRORS, UNREAD_ANSWERS = "model_errors", "unread"
"""The events that sampled answers are trials of: a failure inside of it; it cannot be read."""

UNKNOWN_CODING, BROKEN_CODING, TOO_LARGE = "unknown_coding", "broken_coding", "too_large"
UNREAD = (UNKNOWN_CODING, BROKEN_CODING, TOO_LARGE)
"""Why an answer cannot be read (inspector/decoding.py)."""

JSON, LINES, EVENTS, HTML, TEXT, BINARY = "json", "json lines", "event stream", "html", "text", "binary"
EXAMPLE_CHARS_MAX = 160
ERROR_MEMBERS = ("error", "errors", "Error", "Errors", "error_message", "errorMessage", "exception")
_ERROR_DETAILS = (
    "message",
    "msg",
    "detail",
    "details",
    "reason",
    "description",
    "type",
    "code",
    "status",
    "name",
    "title",
)
_MESSAGES = ("message", "msg", "detail", "reason", "error_code", "errorCode")
_RESULTS = ("outputs", "predictions", "choices", "results", "data")
_NONE_WORDS = frozenset(("", "none", "null", "nil", "no", "n/a", "ok", "no error", "no errors", "success", "false"))
_ITEMS_MAX = 100
_HEAD_MEMBERS = re.compile(
    rb'\s*[{,]\s*"([A-Za-z_]{1,40})"\s*:\s*("(?:[^"\\]|\\.){0,2000}"|\{|\[|-?[0-9.eE+-]+|true|false|null)'
)
_LINES_TYPES = frozenset(
    f"application/{name}"
    for name in ("x-ndjson", "ndjson", "jsonl", "x-jsonl", "jsonlines", "x-jsonlines", "json-lines", "stream+json")
)
_UNTYPED = ("", "application/octet-stream", "binary/octet-stream")
_PAGE_START = re.compile(rb"\s*<(?:!doctype\s+html|html)\b", re.IGNORECASE)
_BOM = b"\xef\xbb\xbf"


class ReadAnswer(msgspec.Struct, frozen=True):
    """What was found in an answer: kinds of `KINDS`, an example in words, and the family of its content.

    ``results``: whether it is whole JSON, which may say nothing; ``ends``: whether it is a whole stream, which may lack
    its end. ``form``: None where it is unknown, or is that of a failure. ``value``: its JSON where that is whole.
    """

    family: str
    kinds: frozenset[str] = frozenset()
    example: str = ""
    results: bool = False
    ends: bool = False
    form: Form | None = None
    value: tuple[Any] | None = None


def family_of(content_type: str) -> str:
    """What a Content-Type promises; "" when it says nothing.

    >>> family_of("application/problem+json; charset=utf-8"), family_of("Text/HTML"), family_of("image/png")
    ('json', 'html', 'image')
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind in _UNTYPED:
        return ""
    if kind in _LINES_TYPES:
        return LINES
    if kind == "text/event-stream":
        return EVENTS
    if kind in ("application/json", "text/json") or kind.endswith("+json"):
        return JSON
    if kind in ("text/html", "application/xhtml+xml"):
        return HTML
    group = kind.partition("/")[0]
    return group if group in (TEXT, "image", "audio", "video") else BINARY


def read_answer(content_type: str, body: bytes, *, whole: bool = True, cut: bool = False) -> ReadAnswer:
    """What is seen in an answer that is no stream.

    ``whole``: it was relayed to its end. ``cut``: ``body`` is only its beginning.
    """
    family = family_of(content_type)
    if not body:
        return ReadAnswer(family)
    if family == JSON:
        return _json(body, whole and not cut)
    if family in ("", TEXT):
        text = body.removeprefix(_BOM).lstrip()
        if text[:1] in (b"{", b"[") and (not whole or cut or msgspec_json(text) is not None):
            return _json(body, whole and not cut)
        family = HTML if _PAGE_START.match(text) else family or (TEXT if _is_text(text) else BINARY)
    if family in (HTML, TEXT):
        return ReadAnswer(family, example=f"{_typed(content_type)}: {excerpt(body)}", form=Form(VALUE))
    if family == LINES:
        return ReadAnswer(family)
    return ReadAnswer(family, form=Form(DATA, start=_typed(content_type).encode()))


def msgspec_json(text: bytes) -> tuple[Any] | None:
    """The JSON value of ``text``, parsed strictly; None when it is malformed."""
    try:
        return (msgspec.json.decode(text),)
    except (ValueError, RecursionError):
        return None


def is_error(value: object) -> bool:
    """Whether a JSON value reports an error (rules 1 to 3)."""
    if isinstance(value, list):
        return any(_is_error_object(item) for item in value[:_ITEMS_MAX])
    if not isinstance(value, dict):
        return False
    if _is_error_object(value):
        return True
    lists = (value[name] for name in _RESULTS if isinstance(value.get(name), list))
    return any(_is_error_object(item) for items in lists for item in items[:_ITEMS_MAX])


def problem(text: bytes) -> tuple[str, str] | None:
    """What is wrong with one JSON value in a stream, as kind and example; None for a good one and for no JSON."""
    read = msgspec_json(text)
    if read is not None:
        return (ERROR, excerpt(text)) if is_error(read[0]) else None
    try:
        value, nan = _lenient(text)
    except RecursionError:
        return None
    if value is None:
        return None
    return (ERROR, excerpt(text)) if is_error(value[0]) else (NAN, excerpt(text)) if nan else None


def head_is_error(text: bytes) -> bool:
    """The same of an object whose beginning alone is at hand (rule 6)."""
    at = 0
    while found := _HEAD_MEMBERS.match(text, at):
        name, value = found[1].decode(), found[2]
        if name in ERROR_MEMBERS and value not in (b"{", b"["):
            return _reports_error(msgspec.json.decode(value) if msgspec_json(value) else None)
        if name in ERROR_MEMBERS:
            inner = _HEAD_MEMBERS.match(text, found.end(2) - 1)
            known = inner is not None and inner[1].decode() in _ERROR_DETAILS
            return known and inner is not None and inner[2][:1] == b'"' and len(inner[2]) > 2
        if value in (b"{", b"["):
            return False
        at = found.end()
    return False


def excerpt(body: bytes) -> str:
    """The beginning of a body, fit for a sentence.

    >>> excerpt(b' {"error": "x"} ')
    '{"error": "x"}'
    """
    text = " ".join(body[: 2 * EXAMPLE_CHARS_MAX].decode("utf-8", "replace").split())
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= EXAMPLE_CHARS_MAX else f"{text[:EXAMPLE_CHARS_MAX]}..."


def _json(body: bytes, whole: bool) -> ReadAnswer:
    text = body.removeprefix(_BOM).strip()
    if not text:
        return ReadAnswer(JSON, frozenset((INVALID,)), "a body of white space")
    if not whole:
        return (
            _failed(ERROR, body)
            if head_is_error(text)
            else ReadAnswer(JSON, form=Form(json_kind(text), start=_start(body)))
        )
    read, nan = msgspec_json(text), False
    if read is None:
        try:
            read, nan = _lenient(text)
        except RecursionError:
            return ReadAnswer(JSON)
    if read is None:
        return _lines(text)
    if is_error(read[0]):
        return _failed(ERROR, body, read)
    if nan:
        return _failed(NAN, body)
    if _says_nothing(read[0]):
        return without_results(body, read)
    return ReadAnswer(JSON, results=True, form=json_form(read[0], _start(body)), value=read)


def without_results(body: bytes, value: tuple[Any] | None = None) -> ReadAnswer:
    """A whole answer in JSON that says nothing."""
    return ReadAnswer(JSON, frozenset((NOTHING,)), excerpt(body), results=True, value=value)


def _start(body: bytes) -> bytes:
    return body[: 2 * EXAMPLE_CHARS_MAX]


def _failed(kind: str, body: bytes, value: tuple[Any] | None = None) -> ReadAnswer:
    return ReadAnswer(JSON, frozenset((kind,)), excerpt(body), value=value)


def _lenient(text: bytes) -> tuple[tuple[Any] | None, bool]:
    """The value as Python reads it, and whether there was a NaN or an infinity; RecursionError for what is too deep."""
    constants: list[str] = []
    try:
        # NaN and infinities become None, what they are is noted.
        value = json.loads(text, parse_constant=constants.append)
    except ValueError:
        return None, False
    return (value,), bool(constants)


def _lines(text: bytes) -> ReadAnswer:
    """JSON that is no single value: JSON lines under the wrong name, or broken."""
    lines = [line for line in text.splitlines() if line.strip()]
    values = [msgspec_json(line) for line in lines]
    if len(lines) < 2 or None in values:
        return _failed(INVALID, text)
    wrong = next((line for line, value in zip(lines, values, strict=True) if value and is_error(value[0])), None)
    return ReadAnswer(JSON) if wrong is None else _failed(ERROR, wrong)


def _is_error_object(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    if any(name in value and _reports_error(value[name]) for name in ERROR_MEMBERS):
        return True
    kind, said = value.get("type"), any(_is_said(value.get(name)) for name in _MESSAGES)
    if "error" in (kind, value.get("object")):
        return True
    if not said:
        return False
    status = value.get("status")
    failed = isinstance(status, str) and status.lower() in ("error", "failed", "failure")
    return failed or value.get("success") is False or (isinstance(kind, str) and kind.endswith(("Error", "Exception")))


def _reports_error(value: object) -> bool:
    if isinstance(value, str):
        return _is_said(value)
    if isinstance(value, dict):
        return any(_is_something(value.get(name)) for name in _ERROR_DETAILS)
    if isinstance(value, list):
        return any(_reports_error(item) for item in value[:_ITEMS_MAX] if isinstance(item, (str, dict)))
    return value is True


def _is_something(value: object) -> bool:
    return _is_said(value) if isinstance(value, str) else bool(value)


def _is_said(value: object) -> bool:
    if not isinstance(value, str):
        return False
    word = value.strip().lower()
    if word in _NONE_WORDS:
        return False
    try:
        float(word)
    except ValueError:
        return True
    return False


def _says_nothing(value: object) -> bool:
    if not isinstance(value, dict):
        return value is None or value == []
    results = [value[name] for name in _RESULTS if name in value]
    return not value or (bool(results) and all(part in ([], {}, None) for part in results))


def _is_text(body: bytes) -> bool:
    try:
        body[:256].decode()
    except UnicodeDecodeError as error:
        return error.start >= 256 - 4  # cut within a character
    return b"\0" not in body[:256]


def _typed(content_type: str) -> str:
    return excerpt(content_type.encode()) or "without Content-Type"

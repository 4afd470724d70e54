"""Whose fault an answer is, by its status and by the error that it holds.

Rules:

1. The status decides where it is no 2xx: 429, 503 and 529 are overload, other 4xx are the client's, all else is the
   model's.
2. In a 2xx an error object (failures.py, rules 1 to 3) is looked at for a status of its own: a number of three digits
   as ``code``, ``status`` or ``status_code``, of the object or of its ``error``; then for a word that says so in
   ``type``, ``code`` and ``status``. Without either it is the model's. A sentence is not searched for words: models
   quote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

from gateway.core.predictions.failures import is_error, msgspec_json
from gateway.core.predictions.outputs import WholeAnswer
from gateway.core.predictions.protocols.adapter import AnswerClass

_OVERLOAD_STATUSES = (429, 503, 529)
_CODES = ("code", "status", "status_code", "statusCode")
_WORDS = ("type", *_CODES)
_OVERLOAD = re.compile(r"rate.?limit|overload|too.?many.?requests|resource.?exhausted|insufficient.?quota|unavailable")
_CLIENT = re.compile(r"invalid.?(?:request|argument|input)|bad.?request|not.?found|authenticat|permission|validation")
_ITEMS_MAX = 100


def class_of_status(status: int) -> AnswerClass:
    """What an answer is by its status alone.

    >>> [class_of_status(status).value for status in (200, 404, 429, 500, 503)]
    ['ok', 'client_error', 'overload', 'model_error', 'overload']
    """
    if 200 <= status < 300:
        return AnswerClass.OK
    if status in _OVERLOAD_STATUSES:
        return AnswerClass.OVERLOAD
    return AnswerClass.CLIENT_ERROR if 400 <= status < 500 else AnswerClass.MODEL_ERROR


def class_of_error(value: object) -> AnswerClass:
    """Whose fault an error object is; OK for what is none.

    >>> class_of_error({"error": {"message": "slow down", "code": 429}}).value
    'overload'
    >>> class_of_error({"error": {"message": "no", "type": "invalid_request_error", "code": None}}).value
    'client_error'
    >>> class_of_error({"error": "CUDA out of memory"}).value, class_of_error({"error": None}).value
    ('model_error', 'ok')
    """
    if not is_error(value):
        return AnswerClass.OK
    objects = list(_error_objects(value))
    for one in objects:
        for key in _CODES:
            status = _status(one.get(key))
            if status is not None:
                return class_of_status(status)
    words = " ".join(word.lower()[:100] for one in objects for key in _WORDS if isinstance(word := one.get(key), str))
    if _OVERLOAD.search(words):
        return AnswerClass.OVERLOAD
    return AnswerClass.CLIENT_ERROR if _CLIENT.search(words) else AnswerClass.MODEL_ERROR


def _error_objects(value: object) -> Iterator[dict[str, object]]:
    """The object and what it holds as its error."""
    for one in value[:_ITEMS_MAX] if isinstance(value, list) else (value,):
        if isinstance(one, dict):
            yield one
            if isinstance(error := one.get("error"), dict):
                yield error


def _status(code: object) -> int | None:
    if isinstance(code, str) and len(code) == 3 and code.isascii() and code.isdigit():
        code = int(code)
    return code if type(code) is int and 400 <= code < 600 else None


def class_of_answer(answer: WholeAnswer, is_empty: Callable[[object], bool]) -> AnswerClass:
    """What a whole answer in JSON is; ``is_empty`` says whether a protocol's answer lacks what it must have.

    A body that is no JSON, and one that cannot be an answer, are the model's errors.
    """
    found = class_of_status(answer.status)
    if found is not AnswerClass.OK:
        return found
    text = answer.body.removeprefix(b"\xef\xbb\xbf").strip()
    read = msgspec_json(text) if answer.value is None else answer.value
    if read is None:
        return _class_of_lenient(text)
    found = class_of_error(read[0])
    return AnswerClass.MODEL_ERROR if found is AnswerClass.OK and is_empty(read[0]) else found


def _class_of_lenient(text: bytes) -> AnswerClass:
    """Of JSON that only Python reads (NaN), and of what is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return AnswerClass.MODEL_ERROR
    found = class_of_error(value)
    return AnswerClass.MODEL_ERROR if found is AnswerClass.OK else found

"""What a request says: its body within bounds, its query without surprises, and who it comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from starlette.datastructures import Headers
from starlette.requests import Request

from gateway.admin.decode import decode
from gateway.admin.problems import ProblemError
from gateway.core.errors import InvalidValueError
from gateway.core.rollout.types import AUTOMATION

T = TypeVar("T")
BODY_BYTES_MAX = 64 * 1024
ACTOR_CHARS_MAX = 64
DEFAULT_ACTOR = "admin"
_CONTENT_TYPE = re.compile(r'application/json\s*(;\s*charset\s*=\s*"?utf-8"?\s*)?', re.IGNORECASE)
_TOO_LARGE = f"a body may have {BODY_BYTES_MAX} bytes"


async def wish(request: Request, kind: type[T]) -> T:
    """The request's body as a wish; ProblemError, MalformedError or InvalidValueError when there is none."""
    body = await _body(request)
    _check_content_type(request.headers)
    return decode(body, kind)


async def optional_wish(request: Request, kind: type[T]) -> T:
    """Like `wish`; a request without a body wishes for the defaults."""
    body = await _body(request)
    if not body:
        return kind()
    _check_content_type(request.headers)
    return decode(body, kind)


async def _body(request: Request) -> bytes:
    """The whole body; what is over the limit is refused as soon as it is known, and never kept."""
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > BODY_BYTES_MAX:
        raise ProblemError("body-too-large", f"{_TOO_LARGE}, this one has {declared}")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise ProblemError("body-too-large", f"{_TOO_LARGE}, this one has more")
    return bytes(body)


def _check_content_type(headers: Headers) -> None:
    given = headers.get("content-type", "")
    if not _CONTENT_TYPE.fullmatch(given.strip()):
        raise ProblemError(
            "unsupported-media-type", f"send content-type: application/json, not {ascii(given) if given else 'none'}"
        )


def query(request: Request, known: frozenset[str]) -> Mapping[str, str]:
    """The query's parameters. Raises InvalidValueError for one that is unknown or given twice."""
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            raise InvalidValueError(f"unknown query parameter {name!r}; there are: {', '.join(sorted(known))}")
        if name in given:
            raise InvalidValueError(f"query parameter {name!r} is given twice; give it once")
        given[name] = value
    return given


def whole_number(name: str, text: str, low: int, high: int) -> int:
    """A number in decimal digits. Raises InvalidValueError outside ``low`` to ``high``."""
    if re.fullmatch(r"[0-9]{1,18}", text) and low <= int(text) <= high:
        return int(text)
    raise InvalidValueError(f"{name} must be a whole number from {low} to {high}, not {text!r}")


def actor(headers: Headers) -> str:
    """Who is to be named for a wish: the header ``x-actor``, printable and cut to 64 characters, or ``admin``.

    It is the client's word, good for a journal and no more. Nobody may sign as the automation.
    """
    given = "".join(char for char in headers.get("x-actor", "") if char.isprintable())[:ACTOR_CHARS_MAX].strip()
    return given if given and given.casefold() != AUTOMATION else DEFAULT_ACTOR

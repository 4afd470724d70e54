"""What a request says: its body within bounds, its query without surprises, and who it comes from."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request

from gateway.admin.decode import MalformedError, parse
from gateway.admin.problems import ProblemError
from gateway.admin.request_schemas import Body, decode
from gateway.config.document import YamlSyntaxError, read_tree
from gateway.config.errors import show
from gateway.config.load import FILE_BYTES_MAX
from gateway.core.errors import InvalidValueError
from gateway.core.rollout.types import AUTOMATION

BODY_BYTES_MAX = 64 * 1024
CONFIG_BYTES_MAX = FILE_BYTES_MAX
ACTOR_CHARS_MAX = 64
DEFAULT_ACTOR = "admin"
_CONTENT_TYPE = re.compile(r'application/json\s*(;\s*charset\s*=\s*"?utf-8"?\s*)?', re.IGNORECASE)
_YAML_TYPE = re.compile(r'(application|text)/(x-)?yaml\s*(;\s*charset\s*=\s*"?utf-8"?\s*)?', re.IGNORECASE)


async def read(request: Request, kind: type[Body]) -> Body:
    """What the request's body asks for. Raises ProblemError, MalformedError or InvalidValueError."""
    content = await body(request)
    _check_content_type(request.headers)
    return decode(content, kind)


async def read_optional(request: Request, kind: type[Body]) -> Body:
    """Like `read`; a request without a body asks for the defaults."""
    content = await body(request)
    if not content:
        return kind()
    _check_content_type(request.headers)
    return decode(content, kind)


async def section(request: Request) -> dict[str, Any]:
    """The request's body as a JSON object, whatever is in it: a part of the configuration."""
    content = await body(request)
    _check_content_type(request.headers)
    return _mapping(parse(content))


async def document(request: Request) -> dict[str, Any]:
    """The request's body as a whole configuration, in JSON or in YAML. Read on a thread: it may be large."""
    content = await body(request, CONFIG_BYTES_MAX)
    if _YAML_TYPE.fullmatch(request.headers.get("content-type", "").strip()):
        return await asyncio.to_thread(_yaml, content)
    _check_content_type(request.headers, " or application/yaml")
    return _mapping(await asyncio.to_thread(parse, content))


def _yaml(content: bytes) -> dict[str, Any]:
    try:
        return _mapping(read_tree(content.decode()))
    except UnicodeDecodeError as error:
        raise MalformedError(f"the body is not UTF-8 text: byte {error.start} begins no character") from None
    except YamlSyntaxError as error:
        at = f"line {error.place.line}, column {error.place.column}: " if error.place else ""
        raise MalformedError(f"{at}{error.problem}; {error.hint}") from None


def _mapping(tree: Any) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise InvalidValueError(f"the body: {show(tree)} is not a mapping; expected a section")
    return tree


async def body(request: Request, most: int = BODY_BYTES_MAX) -> bytes:
    """The whole body; what is over the limit is refused as soon as it is known, and never kept."""
    known: bytes | None = request.scope.get("body")
    if known is not None:
        return known
    too_large = f"a body may have at most {most} bytes"
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > most:
        raise ProblemError("body-too-large", f"{too_large}, this one has {declared[:40]}")
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > most:
            raise ProblemError("body-too-large", f"{too_large}, this one has more")
    request.scope["body"] = bytes(content)
    return bytes(content)


def _check_content_type(headers: Headers, other: str = "") -> None:
    given = headers.get("content-type", "")
    if not _CONTENT_TYPE.fullmatch(given.strip()):
        raise ProblemError(
            "unsupported-media-type",
            f"send content-type: application/json{other}, not {ascii(given) if given else 'none'}",
        )


def query(request: Request, known: frozenset[str]) -> Mapping[str, str]:
    """The query's parameters. Raises InvalidValueError for one that is unknown or given twice."""
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            raise InvalidValueError(f"unknown query parameter {name!r}; known: {', '.join(sorted(known))}")
        if name in given:
            raise InvalidValueError(f"query parameter {name!r} is given twice; keep one")
        given[name] = value
    return given


def whole_number(name: str, text: str, low: int, high: int) -> int:
    """A number in decimal digits. Raises InvalidValueError outside ``low`` to ``high``."""
    if re.fullmatch(r"[0-9]{1,18}", text) and low <= int(text) <= high:
        return int(text)
    raise InvalidValueError(f"{name} must be a whole number from {low} to {high}, not {text!r}")


def yes_or_no(name: str, text: str) -> bool:
    """``true`` or ``false``. Raises InvalidValueError for anything else."""
    if text not in ("true", "false"):
        raise InvalidValueError(f"{name} must be true or false, not {text!r}")
    return text == "true"


def seconds(name: str, text: str, most: float) -> float:
    """A number of seconds from 0 to ``most``, in decimals. Raises InvalidValueError for anything else."""
    if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) and float(text) <= most:
        return float(text)
    raise InvalidValueError(f"{name} must be a number of seconds from 0 to {most:g}, not {text!r}")


def actor(headers: Headers) -> str:
    """Who is to be named for a request: the header ``x-actor``, printable and cut to 64 characters, or ``admin``.

    It is the client's word, good for a journal and no more. Nobody may sign as the automation.
    """
    given = "".join(char for char in headers.get("x-actor", "") if char.isprintable())[:ACTOR_CHARS_MAX].strip()
    return given if given and given.casefold() != AUTOMATION else DEFAULT_ACTOR

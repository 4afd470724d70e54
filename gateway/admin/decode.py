"""From bytes to JSON, or to what is wrong with them.

Rules:

1. Bytes that are not JSON in UTF-8 are *malformed*. Everything else that is wrong is a *wrong value*: an unknown key, a
   key given twice, a type or a number outside its domain, NaN (which JSON does not have, but programs write), nesting
   deeper than any request, text that cannot be printed on one line.
2. Nothing is guessed: "5" is not a number, true is not 1.
3. A message names the place in the body.

Source: RFC 8259; its SHOULD of unique names is a MUST here.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from gateway.core.errors import GatewayError, InvalidValueError

# Longer literals than any number in a request; Python refuses to read integers of thousands of digits as such.
_INTEGER_CHARS_MAX = 40


class MalformedError(GatewayError):
    """A body that is not JSON."""


def parse(body: bytes) -> Any:
    """The JSON of a body. Raises MalformedError, or InvalidValueError for a key given twice and the like."""
    try:
        return json.loads(
            body.decode("utf-8"), parse_constant=_refuse_constant, parse_int=_integer, object_pairs_hook=_unique
        )
    except RecursionError:
        raise InvalidValueError("the body is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise MalformedError(f"the body is not UTF-8 text: byte {error.start} begins no character") from None
    except InvalidValueError:
        raise
    except ValueError as error:
        raise MalformedError(f"the body is not JSON: {error}") from None


def one_line(name: str, text: str) -> str:
    """The text, if it can be shown on one line. Raises InvalidValueError for control characters and lone surrogates."""
    if not text.isprintable():
        raise InvalidValueError(f"{name} must be printable text on one line, not {text!a}")
    return text


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidValueError(f"{name} is not valid in JSON; use a finite number")


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _INTEGER_CHARS_MAX else float(digits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    for name in tree:
        one_line("a key of the body", name)
    if len(tree) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidValueError(f"duplicate key {twice!r}; keep one")
    return tree

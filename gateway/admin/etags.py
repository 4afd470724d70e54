"""Optimistic concurrency: entity tags, and requests that apply only to the state that their sender has seen.

Rules:

1. The tag of a rollout names its last decision, not the evidence, which is new with every request that is served.
   ``If-Match`` therefore means: nothing was decided since I read it.
2. ``If-Match`` compares strongly, ``If-None-Match`` weakly; ``*`` is anything that exists.
3. Without the headers nothing is asked, and the rollout machine alone says what is possible: of a promotion and a
   rollback at the same moment the rollback wins.

Source: RFC 9110 sections 8.8 and 13.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from starlette.datastructures import Headers

from gateway.admin.problems import ProblemError
from gateway.config.stored import sha256_of
from gateway.control.views import RolloutView, RouteView
from gateway.core.errors import InvalidValueError

_TAG = re.compile(r'\s*((?:W/)?"[\x21\x23-\x7e]*")\s*')


def tag(value: Any) -> str:
    """The entity tag of whatever can be JSON."""
    return f'"{sha256_of(msgspec.json.encode(value, order="sorted"))[:16]}"'


def rollout_tag(view: RolloutView) -> str:
    """The tag of a rollout: which of its decisions was the last."""
    return f'"{view.id}.{view.revision}"'


def route_tag(view: RouteView, config: Any = None) -> str:
    """The tag of a route: what is configured of it, its weight, and where its rollout is."""
    return tag([config, view.stable, view.canary, view.canary_percent, view.rollout_id, view.phase])


def check(headers: Headers, current: str) -> None:
    """Raise ProblemError when ``If-Match`` does not name the current tag."""
    given = _given(headers, "if-match")
    if given is None or "*" in given or current in given:
        return
    raise failed(
        f"If-Match names {', '.join(given)[:200]}, but the current tag is {current}: read it again, then retry"
    )


def failed(why: str) -> ProblemError:
    """The error for a request about an earlier state."""
    return ProblemError("precondition-failed", why)


def unseen(headers: Headers, current: str) -> bool:
    """Whether the client has not seen the current state: it has sent no ``If-None-Match``, or another tag."""
    given = _given(headers, "if-none-match")
    if given is None:
        return True
    return "*" not in given and current not in [name.removeprefix("W/") for name in given]


def _given(headers: Headers, name: str) -> list[str] | None:
    """The tags that a header names; None without the header."""
    lines = headers.getlist(name)
    if not lines:
        return None
    text = ", ".join(lines).strip()
    if text == "*":
        return ["*"]
    found = [_TAG.fullmatch(part) for part in text.split(",")]
    if not all(found):
        raise InvalidValueError(f'{name} must be * or tags in double quotes such as "digits-1.3", not {text[:100]!a}')
    return [match[1] for match in found if match]

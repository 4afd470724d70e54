"""Which entity a request is about, and the request's body with features in it. Pure.

Rules:

1. The body is one JSON object. Where a key of it is to be replaced, or lies deeper, the body is written anew; otherwise
   the features are put before its first key, and every other byte stays as it came.
2. Values that a client sends in place of features are replaced: features are the store's alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from gateway.core.traffic.table import Features, OnMissing
from gateway.proxy.heads.message_head import RequestHead
from gateway.runtime.features import Scalar


class Enriched(NamedTuple):
    """What becomes of a request: its new body (None: as it came), and whether it is refused."""

    body: bytes | None
    refused: bool = False


def object_in(pieces: list[bytes] | None) -> dict[str, Any] | None:
    """The body's JSON object; None where it has none."""
    if pieces is None:
        return None
    try:
        found = msgspec.json.decode(pieces[0] if len(pieces) == 1 else b"".join(pieces))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def entity_in(features: Features, head: RequestHead, tree: dict[str, Any]) -> dict[str, Scalar] | None:
    """The entity that the request is about; None where it does not say so."""
    entity: dict[str, Scalar] = {}
    for key in features.entity:
        value: Any
        if key.header is not None:
            line = head.first(key.header.encode())
            value = None if line is None else line.decode("latin-1").strip()
        else:
            value = tree
            for part in key.path:
                value = value.get(part) if isinstance(value, dict) else None
        if value is None or value == "" or not isinstance(value, bool | int | float | str):
            return None
        entity[key.name] = value
    return entity


def enriched(
    features: Features,
    tree: dict[str, Any] | None,
    pieces: list[bytes] | None,
    values: dict[str, Scalar],
    *,
    well: bool,
) -> Enriched:
    """The request with these values; ``well``: the store had all of them, otherwise the route says what to do."""
    if not well and features.on_missing is OnMissing.REJECT:
        return Enriched(None, refused=True)
    known = {name: value for name, value in values.items() if value is not None}
    if not well and features.on_missing is OnMissing.DEFAULT:
        known = features.defaults | known
    if tree is None or pieces is None or not known:
        return Enriched(None)
    return Enriched(_with(tree, b"".join(pieces), features.into, known))


def _with(tree: dict[str, Any], body: bytes, into: tuple[str, ...], values: dict[str, Any]) -> bytes:
    if into and into[0] not in tree:
        for part in reversed(into[1:]):
            values = {part: values}
        start = body.index(b"{") + 1
        comma = b"," if tree else b""
        return body[:start] + msgspec.json.encode(into[0]) + b":" + msgspec.json.encode(values) + comma + body[start:]
    target = tree
    for part in into:
        inner = target.get(part)
        if not isinstance(inner, dict):
            inner = target[part] = {}
        target = inner
    target.update(values)
    return msgspec.json.encode(tree)

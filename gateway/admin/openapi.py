"""The API's own description, made from the table of operations and the types of the bodies.

Source: OpenAPI 3.1.1; schemas are JSON Schema 2020-12 as msgspec writes them.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from gateway import __version__
from gateway.admin import examples, problems, stream
from gateway.admin.operations import OPERATIONS, QUERY, Operation
from gateway.control.views import ControlEvent

_REF = "#/components/schemas/{name}"
_JSON = "application/json"
_ABOUT = (
    "Routes, weights and rollouts of a canary gateway. Weights are percent, in steps of 0.01. Errors are problem"
    " documents (RFC 9457); the last part of their `type` is a stable name."
)
_PATH_PARAMETERS = {"route": "The route's name.", "rollout_id": "The rollout's id."}
_ACTOR = {
    "name": "X-Actor",
    "in": "header",
    "description": "Who is to be named in the journal; `admin` without it.",
    "schema": {"type": "string", "maxLength": 64},
}
_LAST_EVENT_ID = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "Go on after the event with this id, as far as it is remembered.",
    "schema": {"type": "integer", "minimum": 0},
}


def description() -> bytes:
    """The OpenAPI document as JSON."""
    return msgspec.json.encode(document())


def document() -> dict[str, Any]:
    """The OpenAPI document."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.1",
        "info": {"title": "Canary gateway: admin API", "version": __version__, "description": _ABOUT},
        "security": [{"bearer": []}, {}],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in OPERATIONS)],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            # A method that a path does not allow has no place in which its refusal could be described.
            "responses": {slug: _problem(slug) for slug in problems.KINDS if slug != "method-not-allowed"},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The token that the configuration names; not asked for when none is configured.",
                }
            },
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.handler or "show_openapi",
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": _parameters(operation),
        "responses": _responses(operation),
    }
    if operation.wish is not None:
        described["requestBody"] = {"required": operation.wish_required, "content": _content(operation.wish)}
    if operation.open:
        described["security"] = []
    return described


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "description": about, "schema": {"type": "string"}}
        for name, about in _PATH_PARAMETERS.items()
        if name in re.findall(r"\{(\w+)\}", operation.path)
    ]
    for name in operation.query:
        about, schema = QUERY[name]
        found.append({"name": name, "in": "query", "description": about, "schema": schema})
    if operation.wish is not None:
        found.append(_ACTOR)
    if operation.answer == stream.MEDIA_TYPE:
        found.append(_LAST_EVENT_ID)
    return found


def _responses(operation: Operation) -> dict[str, Any]:
    good: dict[str, Any] = {"description": operation.summary, "content": _content(operation.answer)}
    if operation.status == 201:
        good["headers"] = {"Location": {"description": "The new rollout.", "schema": {"type": "string"}}}
    answers = {str(operation.status): good}
    if operation.path == "/readyz":
        answers["503"] = {"description": "It cannot, for these reasons", "content": _content(operation.answer)}
    guarded = () if operation.open else ("unauthorized", "cross-origin")
    for slug in (*guarded, *operation.problems, "internal"):
        answers[str(problems.KINDS[slug][0])] = {"$ref": f"#/components/responses/{slug}"}
    return dict(sorted(answers.items()))


def _content(body: Any) -> dict[str, Any]:
    if body == stream.MEDIA_TYPE:
        about = "Frames of `id`, `event` (the kind) and `data`: a ControlEvent as JSON. Comments are heartbeats."
        example = stream.frame(examples.EVENT).decode()
        return {body: {"schema": {"type": "string", "description": about}, "example": example}}
    if isinstance(body, str):
        return {body: {"schema": {"type": "object" if body == _JSON else "string"}}}
    example = msgspec.to_builtins(examples.BY_TYPE[body])
    return {_JSON: {"schema": {"$ref": _REF.format(name=body.__name__)}, "example": example}}


def _problem(slug: str) -> dict[str, Any]:
    status, title = problems.KINDS[slug]
    document = examples.BY_TYPE[problems.Problem]
    if slug != "conflict":
        document = problems.problem(slug, f"{title}: here and in this way", "/api/v1/routes/digits")
    described: dict[str, Any] = {
        "description": title,
        "content": {
            problems.MEDIA_TYPE: {
                "schema": {"$ref": _REF.format(name="Problem")},
                "example": msgspec.to_builtins(document),
            }
        },
    }
    if status == 401:
        described["headers"] = {"WWW-Authenticate": {"description": "Bearer", "schema": {"type": "string"}}}
    return described


def _schemas() -> dict[str, Any]:
    types = {operation.answer for operation in OPERATIONS if not isinstance(operation.answer, str)}
    types |= {operation.wish for operation in OPERATIONS if operation.wish is not None}
    types |= {problems.Problem, ControlEvent}
    _, components = msgspec.json.schema_components(sorted(types, key=lambda kind: kind.__name__), ref_template=_REF)
    return components

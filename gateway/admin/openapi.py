"""The API's own description, made from the table of operations and the types of the bodies.

Source: OpenAPI 3.1.1; schemas are JSON Schema 2020-12 as msgspec writes them.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import msgspec

from gateway import __version__
from gateway.admin import examples, problems, sse
from gateway.admin.operations import OPERATIONS, QUERY, Operation
from gateway.api_types import EVENT_CURSOR
from gateway.config.admin import Scope
from gateway.config.jsonschema import json_schema
from gateway.config.plan import PlanConfig
from gateway.config.routes import RouteConfig
from gateway.config.schema import GatewayConfig
from gateway.config.section import Section
from gateway.control.views import ControlEvent

_REF = "#/components/schemas/{name}"
_JSON = "application/json"
_YAML = "application/yaml"
_ABOUT = (
    "Routes, weights and rollouts of a canary gateway. Weights are percent, in steps of 0.01. Errors are problem"
    " documents (RFC 9457); the last part of their `type` is a stable name."
)
_PATH_PARAMETERS = {
    "route": "The route's name.",
    "rollout_id": "The rollout's id.",
    "backend": "The backend's name.",
}
_IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "description": "Only if the ETag is still this one; 412 otherwise.",
    "schema": {"type": "string"},
    "example": '"digits-7c1e9a42.3"',
}
_IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "description": "304 as long as the ETag is this one.",
    "schema": {"type": "string"},
    "example": '"digits-7c1e9a42.3"',
}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "A request that is repeated with the same key is executed once, and gets the first response again.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "example": "5c0a6b0e-2f0b-4d3f-9f0e-0b8f6b0a7c11",
}
_ETAG = {"description": "What names this state, for `If-Match` and `If-None-Match`.", "schema": {"type": "string"}}
_ACTOR = {
    "name": "X-Actor",
    "in": "header",
    "description": "Who is to be named in the journal, in 64 characters; without it the token's holder, or `admin`.",
    "schema": {"type": "string"},
}
_LAST_EVENT_ID = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "Go on after the event with this cursor (or id), as far as it is remembered.",
    "schema": {"type": "string", "pattern": f"^{EVENT_CURSOR}$"},
}


# By operation: the parameter that its answer, or its own path, gives to those that follow, and where it is found.
_NAMED = {
    "list_routes": ("route", "$response.body#/routes/0/name"),
    "put_route": ("route", "$request.path.route"),
    "list_backends": ("backend", "$response.body#/backends/0/name"),
    "put_backend": ("backend", "$request.path.backend"),
    "list_rollouts": ("rollout_id", "$response.body#/rollouts/0/id"),
    "start_rollout": ("rollout_id", "$response.body#/id"),
    **{f"{verb}_rollout": ("rollout_id", "$response.body#/id") for verb in ("pause", "resume", "approve", "promote")},
}


@cache
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
        "security": [{"bearer": ["read"]}, {"certificate": ["read"]}, {}],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in OPERATIONS)],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            # A method that a path does not allow has no place in which its refusal could be described.
            "responses": _shared(paths),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token that the configuration names; not asked for when none is configured.",
                },
                "certificate": {
                    "type": "mutualTLS",
                    "description": "A client certificate whose common name the configuration names.",
                },
            },
        },
    }


def _shared(paths: Any) -> dict[str, Any]:
    """The responses that are referred to; others stand where they are described."""
    prefix = "#/components/responses/"
    referred = {
        response["$ref"].removeprefix(prefix)
        for methods in paths.values()
        for described in methods.values()
        for response in described["responses"].values()
        if "$ref" in response
    }
    return {slug: _problem(slug) for slug in problems.KINDS if slug in referred}


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.handler,
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": _parameters(operation),
        "responses": _responses(operation),
    }
    if operation.body is not None:
        described["requestBody"] = {"required": operation.body_required, "content": _content(operation.body)}
    if operation.open:
        described["security"] = []
    elif operation.scope is not Scope.READ:
        described["security"] = [{"bearer": [operation.scope]}, {"certificate": [operation.scope]}, {}]
    return described


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "description": about, "schema": {"type": "string"}}
        for name, about in _PATH_PARAMETERS.items()
        if name in re.findall(r"\{(\w+)\}", operation.path)
    ]
    for key in operation.query:
        name, about, schema = QUERY[key]
        found.append({"name": name, "in": "query", "description": about, "schema": schema})
    if operation.method != "GET":
        found.append(_ACTOR)
    if operation.conditional:
        found.append(_IF_MATCH)
    if operation.tagged:
        found.append(_IF_NONE_MATCH)
    if operation.method == "POST":
        found.append(_IDEMPOTENCY_KEY)
    if operation.answer == sse.MEDIA_TYPE:
        found.append(_LAST_EVENT_ID)
    return found


def _responses(operation: Operation) -> dict[str, Any]:
    good: dict[str, Any] = {"description": operation.summary, "content": _content(operation.answer)}
    headers: dict[str, Any] = {}
    if operation.status == 201:
        headers["Location"] = {"description": "The new rollout.", "schema": {"type": "string"}}
    if operation.tagged:
        headers["ETag"] = _ETAG
    if headers:
        good["headers"] = headers
    if links := _links(operation):
        good["links"] = links
    answers = {str(operation.status): good}
    if operation.created:
        answers["201"] = good | {"description": "It is new"}
    if operation.repeated:
        answers["200"] = good | {"description": "It was started before"}
    if operation.tagged:
        answers["304"] = {"description": "It is still as `If-None-Match` says", "headers": {"ETag": _ETAG}}
    if operation.path == "/readyz":
        answers["503"] = {"description": "It cannot, for these reasons", "content": _content(operation.answer)}
    by_status: dict[str, list[str]] = {}
    for slug in operation.slugs:
        by_status.setdefault(str(problems.KINDS[slug][0]), []).append(slug)
    answers |= {status: _refusals(slugs) for status, slugs in by_status.items()}
    return dict(sorted(answers.items()))


def _links(operation: Operation) -> dict[str, Any]:
    """What can be done next with what the answer, or the request, names."""
    named = _NAMED.get(operation.handler)
    if named is None:
        return {}
    parameter, expression = named
    return {
        following.handler: {"operationId": following.handler, "parameters": {parameter: expression}}
        for following in OPERATIONS
        if f"{{{parameter}}}" in following.path and following.handler != operation.handler
    }


def _refusals(slugs: list[str]) -> dict[str, Any]:
    """What a status means that several kinds of problems have."""
    if len(slugs) == 1:
        return {"$ref": f"#/components/responses/{slugs[0]}"}
    described = [_problem(slug) for slug in slugs]
    content = {
        "schema": {"$ref": _REF.format(name="Problem")},
        "examples": {
            slug: {"value": one["content"][problems.MEDIA_TYPE]["example"]}
            for slug, one in zip(slugs, described, strict=True)
        },
    }
    about = ". ".join(one["description"] for one in described)
    return {"description": about, "content": {problems.MEDIA_TYPE: content}}


def _content(body: Any) -> dict[str, Any]:
    if body == sse.MEDIA_TYPE:
        about = "Frames of `id`, `event` (the kind) and `data`: a ControlEvent as JSON. Comments are heartbeats."
        example = sse.frame(examples.EVENT).decode()
        return {body: {"schema": {"type": "string", "description": about}, "example": example}}
    if body == "text/html":
        return {kind: {"schema": {"type": "string"}} for kind in ("text/html", "text/markdown")}
    if body == "text/plain":
        return {kind: {"schema": {"type": "string"}} for kind in ("text/plain", "application/openmetrics-text")}
    if isinstance(body, str):
        return {body: {"schema": {"type": "object" if body == _JSON else "string"}}}
    schema = {"$ref": _REF.format(name=body.__name__)}
    if issubclass(body, Section):
        described = {"schema": schema, "example": examples.SECTIONS[body]}
        return {_JSON: described, _YAML: described} if body is GatewayConfig else {_JSON: described}
    return {_JSON: {"schema": schema, "example": msgspec.to_builtins(examples.BY_TYPE[body])}}


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
    if status in (401, 403):
        described["headers"] = {"WWW-Authenticate": {"description": "Bearer", "schema": {"type": "string"}}}
    return described


def _schemas() -> dict[str, Any]:
    types = {operation.answer for operation in OPERATIONS if not isinstance(operation.answer, str)}
    types |= {operation.body for operation in OPERATIONS if operation.body is not None}
    types |= {problems.Problem, ControlEvent, PlanConfig}
    sections = {kind for kind in types if issubclass(kind, Section)}
    plain = sorted(types - sections, key=lambda kind: kind.__name__)
    _, components = msgspec.json.schema_components(plain, ref_template=_REF)
    # As a configuration would say it: the section `plan` of a route, with all its keys.
    components["RolloutBody"]["properties"]["plan"] = {"$ref": _REF.format(name="PlanConfig")}
    # A client that puts a route has named it in the path already.
    optional = {RouteConfig: ("name",)}
    described = {kind.__name__: json_schema(kind, optional.get(kind, ())) for kind in sections}
    return components | dict(sorted(described.items()))

"""The API's description says what the API does: every path, every reference, every example."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import msgspec
import pytest

from gateway.admin import examples, problems
from gateway.admin.openapi import document
from gateway.admin.operations import OPERATIONS
from gateway.admin.pages import is_page
from gateway.control import views

DOCUMENT = document()
OPERATION_CASES = [
    (path, method, described) for path, methods in DOCUMENT["paths"].items() for method, described in methods.items()
]


def _references(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        if "$ref" in tree:
            yield tree["$ref"]
        for inner in tree.values():
            yield from _references(inner)
    elif isinstance(tree, list | tuple):
        for inner in tree:
            yield from _references(inner)


def test_every_route_is_described_and_the_other_way_round(served: Any) -> None:
    api = [route for route in served.app.routes if not is_page(route.path)]
    routed = {(route.path, method) for route in api for method in route.methods - {"HEAD"}}
    described = {(path, method.upper()) for path, method, _ in OPERATION_CASES}
    assert routed == described == {(o.path, o.method) for o in OPERATIONS}


def test_every_reference_resolves() -> None:
    references = set(_references(DOCUMENT))
    assert len(references) > 20
    for reference in references:
        tree: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            tree = tree[part]
        assert tree


def test_every_component_is_used() -> None:
    references = set(_references(DOCUMENT))
    for kind in ("schemas", "responses"):
        for name in DOCUMENT["components"][kind]:
            # An event travels as text, so only words can refer to it.
            assert f"#/components/{kind}/{name}" in references or name == "ControlEvent"


@pytest.mark.parametrize(("path", "method", "described"), OPERATION_CASES, ids=lambda value: str(value)[:40])
def test_an_operation_is_described_whole(path: str, method: str, described: dict[str, Any]) -> None:
    assert described["summary"] and described["operationId"] and described["tags"]
    named = {p["name"] for p in described["parameters"] if p["in"] == "path"}
    assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}
    operation = next(o for o in OPERATIONS if (o.path, o.method.lower()) == (path, method))
    assert ("requestBody" in described) == (operation.body is not None)
    statuses = set(described["responses"])
    assert {"200", "201", "202"} & statuses
    # A webhook is open to all, and knows its sender by a signature.
    assert ("401" in statuses) == (described.get("security") != [] or "invalid-signature" in operation.problems)


def test_operation_ids_are_unique() -> None:
    ids = [described["operationId"] for _, _, described in OPERATION_CASES]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("kind", examples.SECTIONS, ids=lambda kind: kind.__name__)
def test_every_example_of_the_configuration_is_one(kind: Any) -> None:
    kind.model_validate(examples.SECTIONS[kind], context=Path())


def test_the_description_is_valid_openapi() -> None:
    # The meta-schema of OpenAPI 3.1 leaves schemas to JSON Schema 2020-12; each of ours must be one.
    for name, schema in DOCUMENT["components"]["schemas"].items():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
        assert name
    import schemathesis  # noqa: PLC0415  # it takes a second, which only the process with this test is to spend

    openapi = schemathesis.openapi.from_dict(json.loads(msgspec.json.encode(DOCUMENT)))
    openapi.validate()
    assert len(list(openapi.get_all_operations())) == len(OPERATIONS)


@pytest.mark.parametrize("kind", examples.BY_TYPE, ids=lambda kind: kind.__name__)
def test_every_example_is_a_value_of_its_type(kind: Any) -> None:
    value = examples.BY_TYPE[kind]
    assert msgspec.json.decode(msgspec.json.encode(value), type=kind) == value


def test_the_events_of_the_description_exist() -> None:
    assert examples.EVENT.kind in views.EVENT_KINDS


def test_the_description_is_served(client: httpx.Client) -> None:
    answer = client.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == msgspec.json.decode(msgspec.json.encode(DOCUMENT))
    assert answer.json()["openapi"].startswith("3.1.")


def test_the_document_for_people_names_every_path_and_problem() -> None:
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    for operation in OPERATIONS:
        assert f"`{operation.method} {operation.path}`" in text
    for slug, (status, _) in problems.KINDS.items():
        assert f"| {status} | `{slug}` |" in text

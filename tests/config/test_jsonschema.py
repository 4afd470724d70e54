"""What the program takes is valid by the JSON Schema: the examples, and whatever else is put into them and is taken."""

from __future__ import annotations

import copy
import enum
import math
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.document import read_tree
from gateway.config.errors import ConfigError
from gateway.config.jsonschema import json_schema
from gateway.config.load import check_text
from gateway.config.schema import GatewayConfig
from gateway.config.shape import Also, Shape, shape_of
from gateway.config.yaml_text import to_yaml

ROOT = Path(__file__).parents[2]
WHOLE = read_tree((ROOT / "tests/config/whole.yaml").read_text(encoding="utf-8"))
VALIDATOR = jsonschema_rs.validator_for(json_schema(GatewayConfig))
FILES = ["config/gateway.yaml", "config/examples/minimal.yaml", "tests/config/whole.yaml"]


@pytest.mark.parametrize("path", FILES)
def test_examples_are_valid(path: str) -> None:
    VALIDATOR.validate(read_tree((ROOT / path).read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "change",
    [
        {"listen": 8080},
        {"workers": 0},
        {"workerz": 2},
        {"limits": {"body_rate_min": -1}},
        {"routes": [{"name": "a"}]},
        {"headers": {"underscores": "maybe"}},
    ],
)
def test_what_is_of_another_shape_is_not(change: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(WHOLE | change)


def spots(shape: Shape, tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Shape]]:
    """Every key of the schema that has a place in the tree, with its shape."""
    found = []
    for name in shape.fields:
        child = shape.child(name)
        assert child is not None
        found += [((*path, name), child)]
        found += spots(child, tree.get(name), (*path, name)) if isinstance(tree, dict) else []
    if shape.kind in (list, dict) and tree:
        key = 0 if isinstance(tree, list) else next(iter(tree))
        inner = shape_of(shape.arguments[-1])
        found += [((*path, key), inner), *spots(inner, tree[key], (*path, key))]
    return found


def candidates(shape: Shape) -> list[Any]:
    """Values that a key may take, or nearly."""
    found: list[Any] = [None, True, False, "off", 429, "5xx", [], {}]
    if isinstance(shape.kind, type) and issubclass(shape.kind, enum.Enum):
        found += [member.value for member in shape.kind]
    for name in ("ge", "gt", "le", "lt"):
        limit = shape.bound(name)
        if limit is not None:
            found += [limit, float(limit), math.nextafter(limit, math.inf), math.nextafter(limit, -math.inf), limit + 1]
    found += [[item] for item in (candidates(shape_of(shape.arguments[0])) if shape.kind is list else [])]
    return found


SPOTS = spots(Shape(GatewayConfig), WHOLE)
EDITS = st.sampled_from(SPOTS).flatmap(lambda spot: st.tuples(st.just(spot[0]), st.sampled_from(candidates(spot[1]))))


def taken(tree: Any) -> bool:
    try:
        check_text(ROOT / "gateway.yaml", to_yaml(tree).encode())
    except ConfigError:
        return False
    return True


@given(st.lists(EDITS, min_size=1, max_size=2))
def test_whatever_is_taken_is_valid(edits: list[tuple[tuple[Any, ...], Any]]) -> None:
    tree = copy.deepcopy(WHOLE)
    for path, value in edits:
        parent = tree
        for part in path[:-1]:
            parent = parent[part] if isinstance(parent, list | dict) and _has(parent, part) else None
        if isinstance(parent, dict) or (isinstance(parent, list) and parent):
            parent[path[-1]] = value
    if taken(tree):
        VALIDATOR.validate(tree)


def _has(parent: list[Any] | dict[str, Any], part: Any) -> bool:
    return part in parent if isinstance(parent, dict) else isinstance(part, int) and part < len(parent)


def test_other_spellings_are_taken_and_valid() -> None:
    """Each key that has another spelling takes it: `false` for `off`, a number for a status."""
    spellings = [(path, shape) for path, shape in SPOTS if any(isinstance(mark, Also) for mark in shape.marks)]
    assert len(spellings) > 10
    for path, shape in spellings:
        tree = copy.deepcopy(WHOLE)
        parent = tree
        for part in path[:-1]:
            parent = parent[part]
        parent[path[-1]] = False if issubclass(shape.kind, enum.Enum) else 503
        assert taken(tree), path
        VALIDATOR.validate(tree)

"""Whatever the file holds, loading gives a configuration or a ConfigError whose issues are complete."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.build import analysis_spec, plan, routing_table
from gateway.config.errors import ConfigError
from gateway.config.load import load

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "config/gateway.yaml").read_text(encoding="utf-8")
TREE = yaml.safe_load(TEXT)

SPECIAL = (
    '\n|  |- |: |#|&a |*a|<<: *a|!!int |!!set |? |>|{|}|[|]|\'|"|\\ud800|"\\U7FFFFFFF"|\ufeff|\x00|\t|---\n|...\n'
    "|%YAML 9.9\n|0x|1e9|.inf|~|=|é"
)
FRAGMENTS = st.sampled_from(SPECIAL.split("|"))
SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-2, 101),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        ["/", "/v2", "digits-v1", "digits-v2", "http://h", "http://[::1", "h:1", "x-user", "hold", "10.0.0.0/8"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


def load_text(text: str | bytes) -> None:
    """Load; build what a good one promises; look at each error of a bad one."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "gateway.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        try:
            config = load(path, environ={}, for_serving=True)
        except ConfigError as error:
            assert error.issues
            for issue in error.issues:
                assert "" not in (issue.problem, issue.hint)
                assert len(str(issue).splitlines()) == 1
                assert issue.line is None or 1 <= issue.line <= path.read_bytes().count(b"\n") + 2
        else:
            table = routing_table(config)
            # Empty where nothing has been deployed yet.
            assert all(route.stable in table.backends for route in table.routes if route.stable)
            assert all(plan(route).steps and analysis_spec(route) for route in config.routes)


def spots(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(spot for key, value in items for spot in spots(value, (*path, key)))]


SPOTS = spots(TREE)[1:]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(SPOTS), st.sampled_from(["set", "drop", "rename", "add"]), VALUES), max_size=4)
)
def test_a_mutated_tree_loads_or_is_refused(edits: list[tuple[tuple[Any, ...], str, Any]]) -> None:
    tree = copy.deepcopy(TREE)
    for path, verb, value in edits:
        parent = tree
        for part in path[:-1]:
            parent = parent[part] if _has(parent, part) else None
        if not _has(parent, path[-1]):
            continue
        if verb == "set":
            parent[path[-1]] = value
        elif verb == "drop":
            del parent[path[-1]]
        elif isinstance(parent, dict):
            parent[f"{path[-1]}x"] = parent.pop(path[-1]) if verb == "rename" else value
    load_text(yaml.safe_dump(tree, allow_unicode=True))


def _has(parent: Any, part: Any) -> bool:
    return (isinstance(parent, dict) and part in parent) or (
        isinstance(parent, list) and isinstance(part, int) and part < len(parent)
    )


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, len(TEXT)), st.integers(0, 30), FRAGMENTS | st.text(max_size=5)),
        min_size=1,
        max_size=4,
    )
)
def test_a_mutated_text_loads_or_is_refused(cuts: list[tuple[int, int, str]]) -> None:
    text = TEXT
    for start, length, new in cuts:
        text = text[:start] + new + text[start + length :]
    load_text(text)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200) | st.lists(FRAGMENTS, max_size=30).map(lambda parts: "".join(parts).encode()))
def test_arbitrary_bytes_load_or_are_refused(data: bytes) -> None:
    load_text(data)

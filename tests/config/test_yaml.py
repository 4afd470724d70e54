"""What a YAML text means: YAML 1.2's scalars, merge keys, bounds; and text that is written reads the same again."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.document import read_document, read_tree
from gateway.config.errors import BadValue
from gateway.config.yaml_nodes import compose
from gateway.config.yaml_text import to_yaml

ROOT = Path(__file__).parents[2]
SCALARS: dict[str, Any] = {
    **{word: word for word in ("off", "on", "yes", "no", "Y", "n", "Off", "YES", "tRUE", "nULL", "y")},
    **{word: word for word in ("08", "010", "-07", "00.5", "1:30", "190:20:30", "2026-12-24", "1_000", "0b11", "0o8")},
    **{word: word for word in ("1.2.3", "0x", "1e", "e1", ".", "+", ".infinity", "=", "<", "12:30:45.5")},
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", "")),
    "0": 0,
    "-0": 0,
    "+12": 12,
    "-19": -19,
    "0o10": 8,
    "0x1F": 31,
    "1e-3": 0.001,
    "1e1": 10.0,
    "1.": 1.0,
    ".5": 0.5,
    "-1.5E+3": -1500.0,
    "0.0": 0.0,
    ".inf": math.inf,
    "-.INF": -math.inf,
    "+.Inf": math.inf,
    '"off"': "off",
    "'08'": "08",
    "!!str 5": "5",
    "! 5": "5",
    '"\\u00e9\\/"': "é/",
}


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("text", SCALARS)
def test_scalars_mean_what_yaml_1_2_says(text: str, native: bool) -> None:
    value = read_tree(f"a: {text}\n")["a"]
    assert value == SCALARS[text] and type(value) is type(SCALARS[text])
    assert compose(f"a: {text}\n", native=native) == compose(f"a: {text}\n")


def test_not_a_number_is_one() -> None:
    assert math.isnan(read_tree("a: .nan")["a"])


@pytest.mark.parametrize("text", ["!!int 5", "!!float 1", "!foo 3", "!!binary aGk=", "!!set {a, b}", "!!map [1]"])
def test_tags_are_errors_at_their_place(text: str) -> None:
    document = read_document(f"a: 1\nb: {text}\n")
    (issue,) = document.issues
    assert issue.path == ("b",) and "is not supported" in issue.problem
    place = document.place(issue.path)
    assert place is not None and place.line == 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("8080: x", "8080: the key is not text in YAML; write it in quotes"),
        ("true: x", "true: the key is not text in YAML; write it in quotes"),
        ("? [a]\n: x", "[?]: a list or mapping cannot be a key; use text as the key"),
        ("a: 1\na: 2", "a: duplicate key: it is given again on line 2; keep one of them"),
        ("a: 99999999999999999999", "a: the number is far too large; use a smaller one"),
        ("a: " + "9" * 5000, "a: the number is far too large; use a smaller one"),
    ],
)
def test_the_first_error_of_a_tree_is_reported_with_its_place(text: str, problem: str) -> None:
    with pytest.raises(BadValue) as caught:
        read_tree(text)
    assert str(caught.value).replace("['?']", "[?]") == problem


def test_keys_that_yaml_1_1_took_for_booleans_are_text() -> None:
    assert read_tree("on: 1\noff: 2\ny: 3\nno: {yes: off}\n") == {"on": 1, "off": 2, "y": 3, "no": {"yes": "off"}}


def test_merge_keys_take_what_is_not_given() -> None:
    tree = read_tree("a: &a {x: 1, y: 2}\nb: &b {z: 3, x: 9}\nc: {<<: [*a, *b], y: 5}\nd: {'<<': 1}\n")
    assert tree["c"] == {"y": 5, "x": 1, "z": 3}
    assert tree["d"] == {"<<": 1}, "in quotes it is a key like any other"


def test_json_is_yaml() -> None:
    assert read_tree('{\n\t"a": [1e-07, "\\/", true, null],\n\t"b":{"c":"x"}}') == {
        "a": [1e-07, "/", True, None],
        "b": {"c": "x"},
    }


@pytest.mark.parametrize("path", ["config/gateway.yaml", "config/examples/minimal.yaml", "tests/config/whole.yaml"])
def test_both_parsers_see_the_same(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert compose(text, native=True) == compose(text, native=False)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    [word.strip("\"'") for word in SCALARS]
)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(TREES)
def test_what_is_written_reads_the_same_by_yaml_1_2_and_by_1_1(tree: Any) -> None:
    text = to_yaml({"tree": tree})
    assert read_tree(text) == {"tree": tree}
    assert yaml.safe_load(text) == {"tree": tree}

"""docs/contract.md names a test for every duty and fault, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/contract.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
TEST = re.compile(r"`(tests/[a-z0-9_/]+\.py)::(test_[a-z0-9_]+)`")
DUTIES = [*range(1, 45)]
# 36 to 41 are about several gateways that share their rollouts.
FAULTS = [*range(1, 36), *range(42, 58)]
# Promises that need no test: what is out of scope.
UNTESTED = {("duties", 42)}


@cache
def functions_of(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in tree.body if isinstance(node, functions))


def rows(title: str) -> list[tuple[int, str, str]]:
    section = TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return [(int(number), promise, tests) for number, promise, tests in ROW.findall(section)]


@pytest.mark.parametrize(("title", "numbers"), [("Duties", DUTIES), ("Faults", FAULTS)])
def test_every_number_has_its_row_and_its_tests(title: str, numbers: list[int]) -> None:
    found = rows(title)
    assert [number for number, _, _ in found] == numbers
    without = [number for number, _, tests in found if not TEST.findall(tests)]
    assert {(title.lower(), number) for number in without} == {key for key in UNTESTED if key[0] == title.lower()}


def test_every_test_that_is_named_exists() -> None:
    named = TEST.findall(TEXT)
    assert len(named) > 100
    assert [f"{path}::{name}" for path, name in named if name not in functions_of(path)] == []

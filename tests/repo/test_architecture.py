"""The rules of import that a linter of imports cannot say: what the core may use at all, and what a process loads.

The floors themselves are contracts in pyproject.toml; `.ci/lint` runs them.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.shape import classes, source

ROOT = Path(__file__).parents[2]
CORE = ROOT / "gateway" / "core"

# fmt: off  # one name a line would be a page
PURE = frozenset(
    {
        "__future__",
        "abc",
        "binascii",
        "bisect",
        "collections",
        "collections.abc",
        "dataclasses",
        "enum",
        "fractions",
        "functools",
        "hashlib",
        "heapq",
        "ipaddress",
        "itertools",
        "json",
        "math",
        "msgspec",
        "msgspec.structs",
        "operator",
        "re",
        "statistics",
        "string",
        "struct",
        "types",
        "typing",
        "urllib.parse",
    }
)
# fmt: on
"""Modules without a clock, randomness, I/O, logging or an event loop; what the core may import."""

ARITHMETIC = frozenset({"numpy", "numpy.typing", "scipy", "scipy.optimize", "scipy.special", "scipy.stats"})
"""What `core.analysis` and `core.stats` may import beside."""

ASKING = frozenset({"open", "print", "input", "exec", "eval", "__import__", "breakpoint"})
"""Built-in functions that reach outside without an import."""


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every module that is imported anywhere in the tree, also inside functions, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")


def trespasses(source: str, *, arithmetic: bool) -> list[str]:
    """What a file of the core imports or calls against the rules, each as `line: what`."""
    tree = ast.parse(source)
    allowed = PURE | ARITHMETIC if arithmetic else PURE
    found = [
        f"{line}: import of {name}"
        for line, name in imported(tree)
        if name not in allowed and not name.startswith("gateway.core")
    ]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    return found + [f"{call.lineno}: call of {call.func.id}" for call in calls if call.func.id in ASKING]  # type: ignore[attr-defined]  # filtered above


def test_the_core_imports_only_what_is_pure() -> None:
    files = sorted(CORE.rglob("*.py"))
    assert len(files) > 10
    found = [
        f"{file.relative_to(ROOT)}:{trespass}"
        for file in files
        for trespass in trespasses(
            file.read_text(encoding="utf-8"), arithmetic=file.relative_to(CORE).parts[0] in {"analysis", "stats"}
        )
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import time", ["1: import of time"]),
        ("def f():\n    from random import random", ["2: import of random"]),
        ("from gateway.runtime import clock", ["1: import of gateway.runtime"]),
        ("from . import types", ["1: import of ."]),
        ("import numpy as np", ["1: import of numpy"]),
        ("x = open('journal')", ["1: call of open"]),
        ("from math import log\nfrom gateway.core.types import Variant", []),
    ],
)
def test_the_rule_sees(source: str, expected: list[str]) -> None:
    assert trespasses(source, arithmetic=False) == expected


def test_no_class_name_occurs_twice_in_the_package() -> None:
    assert classes.named_twice(classes.classes(source.read(ROOT, "gateway"))) == {}


def test_no_modules_import_each_other_in_a_circle_not_even_for_types() -> None:
    assert source.circles(source.imports(source.read(ROOT, "gateway"))) == []


def loaded_by(module: str) -> set[str]:
    """The modules that a fresh Python process holds once it has imported `module`."""
    program = f"import {module}, json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    return set(json.loads(done.stdout))


def test_a_worker_process_loads_nothing_that_a_request_does_not_need() -> None:
    # click is not in this list, although no code of the data plane imports it: uvicorn does so itself.
    needless = {"httpx", "numpy", "onnxruntime", "prometheus_client", "pydantic", "rich", "scipy", "sqlite3"}
    needless |= {"starlette", "yaml", "gateway.config", "gateway.control", "gateway.serving", "gateway.admin"}
    loaded = loaded_by("gateway.proxy.worker")
    assert "httptools" in loaded and loaded & needless == set()


def test_the_command_line_answers_before_it_loads_what_its_commands_need() -> None:
    heavy = {"httpx", "numpy", "onnxruntime", "pydantic", "scipy", "starlette", "uvicorn"}
    loaded = loaded_by("gateway.cli")
    assert "click" in loaded and loaded & heavy == set()


def test_the_control_process_and_its_supervisor_start_without_what_is_needed_later() -> None:
    """An HTTP client only where hooks are configured, Prometheus at the first scrape."""
    later = {"httpx", "rich", "numpy", "scipy", "onnxruntime", "prometheus_client", "gateway.admin.openapi"}
    loaded = loaded_by("gateway.app.control")
    assert "uvicorn" in loaded and loaded & later == set()
    later |= {"starlette", "uvicorn", "sqlite3", "gateway.admin", "gateway.control.controller", "gateway.inspector"}
    loaded = loaded_by("gateway.app.start")
    assert "pydantic" in loaded and loaded & later == set()

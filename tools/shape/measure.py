"""What is measured of a tree, as rows of a table: each row has a name and the value as it is shown."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from loadtests.compare import record
from loadtests.compare.table import ratios, spread
from tools.shape import classes, source

_PACKAGE, _DATA_PLANE = "gateway", "gateway.proxy"
_LONG_FILE = 400
_SUBJECT, _REFERENCES = "gateway", ("nginx", "before")


@dataclass(frozen=True)
class Names:
    """What the counts stand for, for those who want to change it."""

    named_twice: dict[str, list[str]]
    circles: list[list[str]]
    cutting: list[str]
    stubs: list[str]
    state: list[classes.State]


def names(root: Path) -> Names:
    """The tree's classes, circles and stubs by name."""
    package = source.read(root, _PACKAGE)
    data_plane = {name: module for name, module in package.items() if _within(name, _DATA_PLANE)}
    found = classes.classes(data_plane)
    return Names(
        named_twice=classes.named_twice(classes.classes(package)),
        circles=source.circles(source.imports(package)),
        cutting=classes.cutting(found, data_plane),
        stubs=classes.stubs(found),
        state=classes.request_state(found),
    )


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def code(root: Path) -> Iterator[tuple[str, str]]:
    """The rows about the package and the tests, read from their source alone: nothing of it is run."""
    package = source.read(root, _PACKAGE)
    lengths = function_lengths(package.values())
    yield "lines of the package", f"{sum(module.lines for module in package.values()):,}"
    yield "files", str(len(package))
    yield f"files over {_LONG_FILE} lines", str(sum(module.lines > _LONG_FILE for module in package.values()))
    yield "functions", f"{len(lengths):,}"
    yield "lines of a function: median, ninth decile, longest", _spans(lengths)
    named = names(root)
    yield "class names that occur twice", str(len(named.named_twice))
    sizes = ", ".join(str(len(circle)) for circle in named.circles)
    yield "import circles (modules in each)", f"{len(named.circles)} ({sizes})" if sizes else "0"
    yield f"base classes of {_DATA_PLANE} that only cut a file", str(len(named.cutting))
    yield f"stubs of {_DATA_PLANE} (NotImplementedError)", str(len(named.stubs))
    yield from _state(named.state)
    tests = source.read(root, "tests")
    yield "test files", str(sum(Path(module.path).name.startswith("test_") for module in tests.values()))
    yield "test functions", f"{sum(map(_tests_of, tests.values())):,}"


def function_lengths(modules: Iterable[source.Module]) -> list[int]:
    """How many lines each function has, with its signature and docstring."""
    nodes = (node for module in modules for node in ast.walk(module.tree))
    return [(node.end_lineno or node.lineno) - node.lineno + 1 for node in nodes if isinstance(node, classes.Function)]


def _spans(lengths: Sequence[int]) -> str:
    if len(lengths) < 2:
        return ", ".join(map(str, lengths)) or "-"
    ninth = statistics.quantiles(lengths, n=10)[-1]
    return f"{statistics.median(lengths):.0f}, {ninth:.0f}, {max(lengths)}"


def _state(state: Sequence[classes.State]) -> Iterator[tuple[str, str]]:
    first = [each for each in state if each.name == classes.REQUEST]
    for what, mine in ((f"`{classes.REQUEST}`", first), (f"all {len(state)} classes of a request", state)):
        label = "all classes of a request" if mine is state else what
        slots = sum(len(each.slots) for each in mine)
        booleans = sum(len(each.mutable_booleans) for each in mine)
        yield f"{label}: slots, mutable booleans", f"{slots}, {booleans}"


def _tests_of(module: source.Module) -> int:
    nodes = (node for node in ast.walk(module.tree) if isinstance(node, classes.Function))
    return sum(node.name.startswith("test_") for node in nodes)


def tests(junit: Path) -> Iterator[tuple[str, str]]:
    """The rows of a run of the tests (``pytest --junit-xml``). Raises ValueError for what is no such file."""
    try:
        suites = list(ET.parse(junit).getroot().iter("testsuite"))  # noqa: S314  # a file of our own pytest
    except ET.ParseError as error:
        raise ValueError(f"{junit}: not a JUnit file: {error}") from error
    if not suites:
        raise ValueError(f"{junit}: no <testsuite> in it; write one with pytest --junit-xml={junit}")
    yield "tests run", f"{sum(int(suite.get('tests', 0)) for suite in suites):,}"
    yield "seconds of the tests", f"{sum(float(suite.get('time', 0)) for suite in suites):.0f}"


def cpu(results: Path) -> Iterator[tuple[str, str]]:
    """A row for each workload of the newest run of `loadtests/compare`. Raises ValueError for what is no such file."""
    _, measured = record.newest(results)
    for workload in sorted({entry.workload for entry in measured}):
        for reference in _REFERENCES:
            if found := ratios(measured, workload, _SUBJECT, reference):
                yield f"CPU per request, {workload}, ÷ {reference}", spread(found, 2)

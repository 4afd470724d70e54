"""A Python tree as parsed modules, and what they import from each other, type-only imports included."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class Module:
    """One file: its dotted name, its path below the root of the tree, and its text."""

    name: str
    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed file."""
        return ast.parse(self.text, self.path)

    @property
    def lines(self) -> int:
        """How many lines it has."""
        return len(self.text.splitlines())


Modules = Mapping[str, Module]


def read(root: Path, folder: str) -> dict[str, Module]:
    """Every module below a folder of the tree, by name. Symbolic links are left out: they would count twice."""
    found = (Module(_dotted(path), path, (root / path).read_text(encoding="utf-8")) for path in _paths(root, folder))
    return {module.name: module for module in found}


def _paths(root: Path, folder: str) -> Iterator[str]:
    for directory, _, names in os.walk(root / folder):
        yield from ((Path(directory) / name).relative_to(root).as_posix() for name in names if name.endswith(".py"))


def _dotted(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def imports(modules: Modules) -> dict[str, set[str]]:
    """For each module, which others of them it imports: at its head, within functions, and for types alone."""
    return {name: set(_imported(module, modules)) - {name} for name, module in modules.items()}


def _imported(module: Module, modules: Modules) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (
                name if name in modules else node.module for name in names if {name, node.module} & set(modules)
            )
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The sets of modules of which each imports every other, directly or through others; the largest first."""
    reached = {name: _reached(name, graph) for name in graph}
    found = {tuple(sorted(other for other in reached[name] if name in reached[other])) for name in graph}
    return sorted((list(circle) for circle in found if circle), key=lambda circle: (-len(circle), circle))


def _reached(start: str, graph: Mapping[str, set[str]]) -> set[str]:
    """What is imported from here on; the start itself only where a way leads back to it."""
    found: set[str] = set()
    pending = [start]
    while pending:
        fresh = graph[pending.pop()] - found
        found |= fresh
        pending += fresh
    return found

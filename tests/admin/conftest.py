"""The admin application on a real socket, over a control plane in memory."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

TOKEN = "a-token-of-sixteen-or-more"


def _load() -> ModuleType:
    name = "admin_control_double"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("control_double.py"))
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def double() -> ModuleType:
    return _load()


@pytest.fixture
def served(double: ModuleType) -> Iterator[Any]:
    with double.Served() as served:
        yield served


@pytest.fixture(scope="module")
def standing(double: ModuleType) -> Iterator[Any]:
    """One server for many tests that do not care what the others did to it."""
    with double.Served() as served:
        yield served


@pytest.fixture(scope="module")
def guarded(double: ModuleType) -> Iterator[Any]:
    with double.Served(TOKEN) as served:
        yield served


@pytest.fixture
def client(served: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=10) as client:
        yield client

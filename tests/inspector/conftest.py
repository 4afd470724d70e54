"""Fixtures of the inspector's tests: asyncio, real processes."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"

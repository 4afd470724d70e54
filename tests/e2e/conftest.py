"""Fixtures of the end-to-end tests: asyncio, and nothing faked but the models behind the gateway."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"

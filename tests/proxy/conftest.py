"""Fixtures of the data plane's tests: everything runs on asyncio, over real sockets, against a real worker process."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"

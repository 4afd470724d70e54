"""Tests against real model servers, each in an environment of its own: `.ci/systems` makes those and runs these.

GATEWAY_SYSTEMS names the folder in which the environments are. Without it nothing here is collected: the README's test
command needs none of these servers.
"""

from __future__ import annotations

import os

import pytest

collect_ignore_glob = [] if "GATEWAY_SYSTEMS" in os.environ else ["test_*.py"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"

"""Tests against real registries and pipelines, each in an environment of its own: `.ci/pipelines` makes and runs them.

GATEWAY_PIPELINES names the folder in which the environments are. Without it nothing here is collected: the README's
test command needs none of these systems.
"""

from __future__ import annotations

import os

import pytest

collect_ignore_glob = [] if "GATEWAY_PIPELINES" in os.environ else ["test_*.py"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"

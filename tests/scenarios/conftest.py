"""Whole rollouts to their verdicts, and the demo's scenarios: minutes of traffic, which `.ci/scenarios` runs.

Without GATEWAY_SCENARIOS nothing here is collected: the README's test command is for those who wait for it.
"""

from __future__ import annotations

import os

import pytest

collect_ignore_glob = [] if "GATEWAY_SCENARIOS" in os.environ else ["test_*.py"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"

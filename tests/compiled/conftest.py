"""Tests of the compiled data plane: `.ci/compiled` builds the wheel once and runs these.

GATEWAY_COMPILED names the folder of the build. Without it nothing here is collected: the README's test command runs the
data plane's tests interpreted, which needs no C compiler.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.wheel import Built, build

collect_ignore_glob = [] if "GATEWAY_COMPILED" in os.environ else ["test_*.py"]


@pytest.fixture(scope="session")
def built() -> Built:
    """The wheel with its data plane compiled, but not optimised: that would take longer than it saves."""
    environ = {"CANARY_GATEWAY_COMPILED": "1", "CANARY_GATEWAY_OPT_LEVEL": "0"}
    return build(Path(os.environ["GATEWAY_COMPILED"]).absolute(), **environ)

"""One wheel for all tests that need one. Its data plane is interpreted: the compiled one is tests/compiled's."""

from __future__ import annotations

import pytest

from tests.support.wheel import Built, build


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The wheel without compiled modules."""
    return build(tmp_path_factory.mktemp("wheel"), CANARY_GATEWAY_PURE="1")

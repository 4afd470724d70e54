"""What a gateway that was killed has left is cleared; what one that lives uses is not touched."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.runtime import orphans
from gateway.runtime.child import DIRECTORY_VARIABLE

LISTENS = """
import socket, sys, time
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is known of other processes")
@pytest.mark.parametrize("orphan", [True, False], ids=["orphan", "child of a living supervisor"])
def test_only_an_orphan_that_listens_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, orphan: bool) -> None:
    monkeypatch.setattr(orphans, "_GRACE_S", 0.2)
    directory = tmp_path / "gateway-x"
    directory.mkdir()
    born_to = os.getpid() + 1 if orphan else os.getpid()
    child = subprocess.Popen(
        [sys.executable, "-c", LISTENS, "gateway.runtime.child", str(born_to), "module"],
        env=os.environ | {DIRECTORY_VARIABLE: str(directory)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        port = int(child.stdout.readline())
        orphans.clear(directory)
        assert directory.exists() is not orphan
        if orphan:
            assert child.wait(timeout=20) < 0
            with socket.create_server(("127.0.0.1", port)):
                pass
        else:
            assert child.poll() is None
    finally:
        child.kill()
        child.communicate(timeout=20)

"""Recordings in files, and the command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.cli import gateway


@pytest.fixture
def replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `gateway replay` in an empty directory, with ``recording.csv`` as given (text or bytes)."""
    monkeypatch.chdir(tmp_path)

    def run(content: str | bytes, *options: str, name: str = "recording.csv") -> Result:
        data = content.encode() if isinstance(content, str) else content
        Path(name).write_bytes(data)
        result = CliRunner().invoke(gateway, ["replay", name, *options])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run

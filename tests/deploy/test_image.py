"""The Dockerfile as its linter reads it; what it copies, its paths and ports: tests/repo/test_dockerfile.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.chart import DEPLOY, ROOT


def hadolint(file: Path) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [Path(sys.executable).parent / "hadolint", "--config", DEPLOY / "hadolint.yaml", file]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_hadolint_has_nothing_to_say(tmp_path: Path) -> None:
    done = hadolint(ROOT / "Dockerfile")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    wrong = tmp_path / "Dockerfile"
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    wrong.write_text(text.replace("org.opencontainers.image.licenses", "licences"))
    assert "org.opencontainers.image.licenses" in hadolint(wrong).stdout, "it sees mistakes"

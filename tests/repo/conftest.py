"""One build of the wheel, compiled, for every test that needs one: they are one group, so one process has them all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
# With the tools at hand, so that nothing is fetched.
BUILD = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--verbose"]


class Built(NamedTuple):
    """A wheel, the folder that it was unpacked to, and what the build said."""

    wheel: Path
    site: Path
    said: str


def build(folder: Path, **environ: str) -> Built:
    """A wheel from a copy of the checkout, which stays clean."""
    source, out, site = (folder / name for name in ("source", "out", "site"))
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("gateway", "models"):
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    command = [*BUILD, "-w", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=os.environ | environ)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("canary_gateway-*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    return Built(wheel, site, done.stdout + done.stderr)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The wheel as it is shipped, its data plane compiled, but not optimised: that would take longer than it saves."""
    return build(tmp_path_factory.mktemp("wheel"), CANARY_GATEWAY_COMPILED="1", CANARY_GATEWAY_OPT_LEVEL="0")

"""A wheel of this checkout: built from a copy, so that the checkout stays clean, and unpacked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
# With the tools at hand, so that nothing is fetched.
BUILD = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--verbose"]


class Built(NamedTuple):
    """A wheel, the folder that it was unpacked to, and what the build printed."""

    wheel: Path
    site: Path
    output: str


def source_copy(folder: Path) -> Path:
    """The folder, made, with the files in it that a wheel is built from."""
    folder.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("gateway", "models"):
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    return folder


def build(folder: Path, **environ: str) -> Built:
    """Build a wheel in an empty folder; ``environ`` says how (setup.py)."""
    source, out, site = source_copy(folder / "source"), folder / "out", folder / "site"
    command = [*BUILD, "-w", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, env=os.environ | environ)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("canary_gateway-*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    return Built(wheel, site, done.stdout + done.stderr)


def version(site: Path) -> str:
    """What `gateway --version` says, with nothing but this on the path in front of an installed checkout."""
    command = [sys.executable, "-m", "gateway", "--version"]
    done = subprocess.run(command, cwd=site, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def start_line(site: Path, folder: Path) -> str:
    """The first line of `gateway serve`, with nothing but this on the path in front of an installed checkout."""
    config = folder / "gateway.yaml"
    config.write_text(
        "listen: 127.0.0.1:0\nadmin: {listen: 127.0.0.1:0}\n"
        "backends: {v1: {endpoints: ['http://127.0.0.1:9'], probe: null}}\n"
        "routes: [{name: r, match: {path_prefix: /}, stable: v1}]\n"
    )
    command = [sys.executable, "-m", "gateway", "serve", str(config)]
    with subprocess.Popen(command, cwd=site, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        process.terminate()
        assert process.wait(120) == 0
    return line

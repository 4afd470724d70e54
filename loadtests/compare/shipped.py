"""The gateway as it is shipped: a wheel is built from a copy of the checkout, compiled, and unpacked in a folder.

What runs with that folder as its working directory takes its modules from there, and so do the processes it starts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_BUILD = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
_BUILD_TIMEOUT_S = 600


def unpacked(folder: Path) -> Path:
    """Build the wheel and unpack it below ``folder``; returns where. Raises OSError when it cannot be built.

    COMPARE_GATEWAY may name a folder where one is unpacked already: building takes longer than a short comparison.
    """
    if ready := os.environ.get("COMPARE_GATEWAY"):
        return Path(ready)
    source, wheels, site = folder / "source", folder / "wheels", folder / "site"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(_ROOT / name, source)
    for name in ("gateway", "models"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(_ROOT / name, source / name, symlinks=True, ignore=ignored)
    command = ["env", "CANARY_GATEWAY_COMPILED=1", *_BUILD, "--wheel-dir", str(wheels), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S, check=False)
    if done.returncode:
        raise OSError(f"the gateway's wheel cannot be built: {(done.stderr or done.stdout)[-2000:]}")
    (wheel,) = wheels.glob("canary_gateway-*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    return site

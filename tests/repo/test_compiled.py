"""The compiled data plane, as shipped: a wheel has all of it or none, says which, and keeps the same promises."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation"]
# Those that a slip of the compiler would break first: heads, framing, turns, rescue.
PROMISES = (
    *("test_forwarding.py", "test_desync.py", "test_rescue.py", "test_fast_heads.py"),
    # A subclass of a built-in type that compiled code takes for that type loses its own methods.
    "test_edge.py::test_a_clients_cap_counts_whom_the_proxy_header_names",
)


def source(folder: Path) -> Path:
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("gateway", "models"):
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    return folder


def built(folder: Path, **environ: str) -> tuple[Path, str]:
    """A wheel from a copy of the checkout, unpacked, and what the build said."""
    out = folder / "out"
    (folder / "source").mkdir()
    done = subprocess.run(
        [*BUILD, "--verbose", "-w", out, source(folder / "source")],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env=os.environ | environ,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("canary_gateway-*.whl")
    site = folder / "site"
    zipfile.ZipFile(wheel).extractall(site)
    return site, done.stdout + done.stderr


def version(site: Path) -> str:
    """What `gateway --version` says, with nothing but this on the path in front of an installed checkout."""
    command = [sys.executable, "-m", "gateway", "--version"]
    done = subprocess.run(command, cwd=site, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site, _ = built(tmp_path_factory.mktemp("compiled"), CANARY_GATEWAY_COMPILED="1", CANARY_GATEWAY_OPT_LEVEL="0")
    return site


def test_a_wheel_says_that_its_data_plane_is_compiled(compiled: Path) -> None:
    assert version(compiled).endswith("(data plane compiled)")
    assert list(compiled.glob("canary_gateway__mypyc.*.so"))


def test_the_compiled_data_plane_keeps_its_promises(compiled: Path) -> None:
    """Its own tests once more; the workers they start take the modules of the folder that they run in."""
    tests = [str(ROOT / "tests" / "proxy" / name) for name in PROMISES]
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *tests], cwd=compiled, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout) and "skipped" not in done.stdout


def test_without_a_compiler_the_wheel_is_built_all_the_same_and_says_so(tmp_path: Path) -> None:
    site, said = built(tmp_path, CC="/nowhere/cc")
    assert "the data plane is NOT compiled" in said
    assert not list(site.rglob("*.so")), "some of it is worse than none"
    assert "(data plane interpreted: about twice the CPU; to compile it, install" in version(site)


def test_a_checkout_is_never_masked_by_an_older_build() -> None:
    assert not list((ROOT / "gateway").rglob("*.so"))

"""The compiled data plane, as shipped: a wheel has all of it or none, says which, and keeps the same promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.repo.conftest import Built, build

ROOT = Path(__file__).parents[2]
# Those that a slip of the compiler would break first: heads, framing, turns, rescue.
PROMISES = (
    *("test_forwarding.py", "test_desync.py", "test_rescue.py", "test_fast_heads.py"),
    # A subclass of a built-in type that compiled code takes for that type loses its own methods.
    "test_edge.py::test_a_clients_cap_counts_whom_the_proxy_header_names",
)


def version(site: Path) -> str:
    """What `gateway --version` says, with nothing but this on the path in front of an installed checkout."""
    command = [sys.executable, "-m", "gateway", "--version"]
    done = subprocess.run(command, cwd=site, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def test_a_wheel_says_that_its_data_plane_is_compiled(built: Built) -> None:
    assert version(built.site).endswith("(data plane compiled)")
    assert list(built.site.glob("canary_gateway__mypyc.*.so"))


def test_the_compiled_data_plane_keeps_its_promises(built: Built) -> None:
    """Its own tests once more; the workers they start take the modules of the folder that they run in."""
    tests = [str(ROOT / "tests" / "proxy" / name) for name in PROMISES]
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *tests], cwd=built.site, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout) and "skipped" not in done.stdout


def test_without_a_compiler_the_wheel_is_built_all_the_same_and_says_so(tmp_path: Path) -> None:
    pure = build(tmp_path, CC="/nowhere/cc")
    assert "the data plane is NOT compiled" in pure.said
    assert not list(pure.site.rglob("*.so")), "some of it is worse than none"
    assert "(data plane interpreted: about twice the CPU; to compile it, install" in version(pure.site)


def test_a_checkout_is_never_masked_by_an_older_build() -> None:
    assert not list((ROOT / "gateway").rglob("*.so"))

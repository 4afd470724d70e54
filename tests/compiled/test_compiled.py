"""The compiled data plane, as shipped: a wheel says that it has it, and it keeps the same promises."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.support.wheel import ROOT, Built, version

# Those that a slip of the compiler would break first: heads, framing, turns, rescue.
PROMISES = (
    *("test_forwarding.py", "test_desync.py", "test_rescue.py", "test_fast_heads.py"),
    # A subclass of a built-in type that compiled code takes for that type loses its own methods.
    "test_tls_and_proxy_protocol.py::test_a_clients_cap_counts_whom_the_proxy_header_names",
)


def test_a_wheel_says_that_its_data_plane_is_compiled(built: Built) -> None:
    assert version(built.site).endswith("(data plane compiled)")
    assert list(built.site.glob("canary_gateway__mypyc.*.so"))


def test_the_compiled_data_plane_keeps_its_promises(built: Built) -> None:
    """Its own tests once more; the workers they start take the modules of the folder that they run in."""
    tests = [str(ROOT / "tests" / "proxy" / name) for name in PROMISES]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "2",
        "-c",
        str(ROOT / "pyproject.toml"),
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run([*command, *tests], cwd=built.site, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout) and "skipped" not in done.stdout

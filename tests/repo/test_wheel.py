"""The wheel is whole: unpacked far from the checkout it finds its models, and it carries what the commands need."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from tests.support.wheel import Built

ROOT = Path(__file__).parents[2]

PROGRAM = """
import json
from gateway import bundled
files = [bundled.path(name) for name in bundled.NAMES] + [bundled.card(name) for name in bundled.NAMES]
print(json.dumps([str(file) for file in files if file.stat().st_size]))
print(len(bundled.heldout().labels))
"""


def test_it_has_every_module_and_data_file(built: Built) -> None:
    packed = set(zipfile.ZipFile(built.wheel).namelist())
    packages = (ROOT / "gateway", ROOT / "models")
    modules = [path for package in packages for path in package.rglob("*.py")]
    data = [path for pattern in ("*.onnx", "*.json", "*.md") for path in (ROOT / "models").glob(pattern)]
    inside = {path.relative_to(ROOT).as_posix().replace("models/", "gateway/bundled/") for path in modules + data}
    assert {path for path in inside if path not in packed} == set()
    pages = [path for path in (ROOT / "gateway/console").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert {path.relative_to(ROOT).as_posix() for path in pages} <= packed and "gateway/report/report.css" in packed
    assert "gateway/py.typed" in packed
    assert any(name.endswith("/licenses/LICENSE") for name in packed)
    assert built.wheel.name.endswith("-py3-none-any.whl"), "without compiled modules it is for every machine"
    assert not [name for name in packed if name.startswith(("tests/", "models/", "loadtests/"))]


def test_it_has_the_command(built: Built) -> None:
    archive = zipfile.ZipFile(built.wheel)
    (entry_points,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    assert "gateway = gateway.cli:main" in archive.read(entry_points).decode()


def test_it_finds_its_models_wherever_it_lies(built: Built, tmp_path: Path) -> None:
    # -I: neither the working directory nor PYTHONPATH helps; the checkout may still be installed, hence first in line.
    program = f"import sys; sys.path.insert(0, {str(built.site)!r})\n{PROGRAM}"
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    found, heldout = done.stdout.splitlines()
    places = json.loads(found)
    assert len(places) == 8 and all(place.startswith(str(built.site)) for place in places)
    assert int(heldout) == 500


def test_the_demo_runs_from_it_and_from_nothing_else(built: Built, tmp_path: Path) -> None:
    # PYTHONPATH comes before an installed checkout, here and in the processes that the demo starts.
    environ = os.environ | {"PYTHONPATH": str(built.site)}
    where = [sys.executable, "-c", "import gateway; print(gateway.__file__)"]
    reported = subprocess.run(where, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=True)
    assert reported.stdout.startswith(str(built.site))
    # As far as the rollout's first step: models, gateway and client are there by then, and traffic flows.
    demo = [sys.executable, "-m", "gateway", "demo", "--scenario", "errors", "--seed", "1", "--json"]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(demo, cwd=tmp_path, env=environ, text=True, **pipes) as process:
        assert process.stdout is not None
        events = iter(json.loads(line)["event"] for line in process.stdout)
        reached = "step" in events
        process.terminate()
        _, log = process.communicate(timeout=120)
    assert reached and process.returncode == 128 + signal.SIGTERM, log


def test_a_checkout_is_never_masked_by_an_older_build() -> None:
    assert not list((ROOT / "gateway").rglob("*.so"))

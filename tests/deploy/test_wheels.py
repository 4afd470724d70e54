"""Which wheels cibuildwheel makes by pyproject.toml. It needs containers to build them: they are not built here."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

from tests.support.chart import ROOT, tool

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
OFFERED = {"3.11", "3.12", "3.13", "3.14"}
MACHINES = ("x86_64", "aarch64")


def test_cibuildwheel_makes_a_wheel_for_each_version_that_is_offered() -> None:
    command: list[str | Path] = [
        tool("cibuildwheel"),
        "--print-build-identifiers",
        "--platform",
        "linux",
        "--archs",
        ",".join(MACHINES),
    ]
    done = subprocess.run([*command, "."], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    wanted = {f"cp{version.replace('.', '')}-manylinux_{machine}" for version in OFFERED for machine in MACHINES}
    assert set(done.stdout.split()) == wanted
    classifiers = PROJECT["project"]["classifiers"]
    named = {
        match[1] for text in classifiers if (match := re.fullmatch(r"Programming Language :: .* :: (3\.\d+)", text))
    }
    assert named == OFFERED


def test_a_wheel_that_is_not_compiled_is_not_kept() -> None:
    settings = PROJECT["tool"]["cibuildwheel"]
    assert settings["environment"] == {"CANARY_GATEWAY_COMPILED": "1"}
    assert any("data plane compiled" in command for command in settings["test-command"])

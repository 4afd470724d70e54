"""Style, types and architecture are tests too: what `make lint` runs, run here by whoever runs the tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

CHECKS = (
    ("ruff", "check", "--no-cache"),
    ("ruff", "format", "--check", "--no-cache"),
    ("mypy",),
    ("lint-imports", "--no-logo", "--no-cache"),
)


@pytest.mark.parametrize("command", CHECKS, ids=" ".join)
def test_is_clean(command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


def test_make_runs_the_same_tools() -> None:
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nlint:")[2].partition("\n\n")[0]
    assert [line.strip() for line in recipe.splitlines()[1:]] == [
        "$(BIN)/ruff check",
        "$(BIN)/ruff format --check",
        "$(BIN)/mypy",
        "$(BIN)/lint-imports --no-logo",
    ]

"""What CI runs is what the README tells a newcomer to run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def show(readme: str | None, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `.ci/run --show` (or with other options) in a folder that has nothing but this README."""
    (folder / ".ci").mkdir()
    script = shutil.copy2(ROOT / ".ci" / "run", folder / ".ci")
    if readme is not None:
        (folder / "README.md").write_text(readme, encoding="utf-8")
    return subprocess.run([script, *(options or ("--show",))], capture_output=True, text=True, timeout=60, check=False)


def test_the_script_can_be_run() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True, timeout=60)


def test_the_command_is_the_block_after_the_marker(tmp_path: Path) -> None:
    readme = "```sh\nrm nothing\n```\n<!-- test command -->\n\n```sh\nfirst && \\\n  second\n```\n\n```sh\nthird\n```\n"
    done = show(readme, tmp_path)
    assert (done.returncode, done.stdout) == (0, "first && \\\n  second\n")


@pytest.mark.parametrize("readme", [None, "# Title\n```sh\npytest\n```\n", "<!-- test command -->\nnothing fenced\n"])
def test_without_a_command_nothing_passes(readme: str | None, tmp_path: Path) -> None:
    done = show(readme, tmp_path)
    assert done.returncode == 1 and "<!-- test command -->" in done.stderr


def test_an_older_environment_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    done = show("<!-- test command -->\n```sh\ntouch ran\n```\n", tmp_path, "--run")
    assert done.returncode == 1 and "clean clone" in done.stderr
    assert (tmp_path / ".venv").exists() and not (tmp_path / "ran").exists()


def test_this_readme_installs_from_the_lock_with_pip_alone(tmp_path: Path) -> None:
    done = show((ROOT / "README.md").read_text(encoding="utf-8"), tmp_path)
    words = done.stdout.replace("\\\n", " ").split()
    assert "requirements-test.lock" in words and "pytest" in words
    assert {word for word in words if re.fullmatch(r"\S*(make|uv|tox|nox|poetry|hatch)", word)} == set()
    assert not {"-k", "-m=", "--deselect", "--ignore", "-x"} & set(words), "all the tests are run"


def test_every_version_is_the_same_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (version,) = re.findall(r'^__version__ = "(.+)"$', (ROOT / "gateway/__init__.py").read_text("utf-8"), re.MULTILINE)
    assert version == project["version"]
    assert f"[{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

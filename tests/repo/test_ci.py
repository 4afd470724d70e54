"""What CI runs is what a newcomer reads in the README."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def executable(path: Path, does: str) -> None:
    path.write_text(f"#!/bin/sh\n{does}\n", encoding="ascii")
    path.chmod(0o755)


def show(readme: str | None, folder: Path, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `.ci/run --show` (or with other options) in a folder that has nothing but this README."""
    (folder / ".ci").mkdir(exist_ok=True)
    script = shutil.copy2(ROOT / ".ci" / "run", folder / ".ci")
    if readme is not None:
        (folder / "README.md").write_text(readme, encoding="utf-8")
    command = [script, *(options or ("--show",))]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=os.environ | environ)


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


def test_the_steps_run_in_order_and_the_first_that_fails_ends_the_run(tmp_path: Path) -> None:
    readme = "<!-- test command -->\n```sh\nmkdir .venv && touch made && ./pytest\n```\n"
    (tmp_path / "bin").mkdir()
    for name, does in {"prometheus": "exit 0", "promtool": "exit 0"}.items():
        executable(tmp_path / "bin" / name, does)
    executable(tmp_path / "pytest", "touch ran")
    (tmp_path / ".ci").mkdir()
    executable(tmp_path / ".ci" / "lint", "test -e made && test ! -e ran && echo linted")
    executable(
        tmp_path / ".ci" / "deploy", "test -e ran && until test -e compiling; do sleep 0.01; done; echo deployed"
    )
    executable(tmp_path / ".ci" / "scenarios", "test -e ran")
    executable(tmp_path / ".ci" / "compiled", "touch compiling && echo built")
    executable(tmp_path / ".ci" / "systems", "exit 3")
    executable(tmp_path / ".ci" / "pipelines", "echo piped")
    executable(tmp_path / ".ci" / "dashboards", "touch shown")
    done = show(readme, tmp_path, "--run", PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert done.returncode == 3 and not (tmp_path / "shown").exists()
    said = done.stdout.splitlines()
    assert [word for word in said if word in ("linted", "deployed", "built", "piped")] == [
        "linted",
        "deployed",
        "built",
        "piped",
    ]
    assert [line.partition(" s  ")[2] for line in said[said.index("seconds of the steps:") + 1 :]] == [
        "Debian's packages",
        "environment",
        "lint",
        "tests",
        "scenarios to their verdicts",
        "deployment",
        "compiled data plane, with the step before",
        "real model servers",
        "registries and pipelines, with the step before",
        "in all",
    ]


@pytest.mark.parametrize(("first", "second", "expected"), [("exit 0", "exit 4", 4), ("exit 5", "exit 4", 5)])
def test_of_two_steps_at_once_neither_failure_is_lost(tmp_path: Path, first: str, second: str, expected: int) -> None:
    readme = "<!-- test command -->\n```sh\nmkdir .venv && true\n```\n"
    (tmp_path / "bin").mkdir()
    for name in ("prometheus", "promtool"):
        executable(tmp_path / "bin" / name, "exit 0")
    (tmp_path / ".ci").mkdir()
    for name, does in {
        "lint": "exit 0",
        "scenarios": "exit 0",
        "deploy": first,
        "compiled": second,
        "systems": "touch later",
    }.items():
        executable(tmp_path / ".ci" / name, does)
    done = show(readme, tmp_path, "--run", PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert done.returncode == expected and not (tmp_path / "later").exists()


def test_this_readme_runs_all_the_tests() -> None:
    command = subprocess.run([ROOT / ".ci/run", "--show"], capture_output=True, text=True, timeout=60, check=True)
    (line,) = command.stdout.splitlines()
    words = shlex.split(line.rpartition(" && ")[2])
    assert words[1:3] == ["-m", "pytest"]
    assert not {"-k", "-m", "--deselect", "--ignore", "-x"} & set(words[3:])


def test_every_version_is_the_same_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (version,) = re.findall(r'^__version__ = "(.+)"$', (ROOT / "gateway/__init__.py").read_text("utf-8"), re.MULTILINE)
    assert version == project["version"]
    assert f"[{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f'org.opencontainers.image.version="{version}"' in (ROOT / "Dockerfile").read_text(encoding="utf-8")

"""Every file of this repo keeps the house rules: no place of one machine, no unexplained exception."""

from __future__ import annotations

import io
import re
import subprocess
import tokenize
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNTRACKED = {".git", ".venv", "build", "dist", "__pycache__"}

# Put together from pieces, or this file would break its own rule.
HOSTS = ["pypi" + ".org", "python" + "hosted", "deb.debian" + ".org", "registry.npm" + "js", "npmjs" + ".com"]
HOSTS += ["crates" + ".io", "proxy.golang" + ".org", "anaconda" + ".org", "rubygems" + ".org"]
HOMES = ["/" + place + "/" for place in ("work", "root", "home", "Users")]

EXCEPTION = re.compile(r"#\s*(noqa\b|type:\s*ignore|ruff:|mypy:|pragma:)")
EXPLAINED = re.compile(
    r"#\s*(noqa:\s*[A-Z]+\d+(,\s*[A-Z]+\d+)*|type:\s*ignore\[[\w, -]+\]|pragma: no cover)\s*[#-]\s*\S.{4}"
)
CODE = re.compile(r'^\s*"([A-Z]+\d*)",(\s*#\s*\S.{8,})?', re.MULTILINE)


@cache
def files() -> tuple[Path, ...]:
    """The repository's files as git would have them, or, without git, all but what tools leave."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=False)
    if done.returncode == 0:
        return tuple(ROOT / name for name in done.stdout.decode().split("\0") if name and (ROOT / name).is_file())
    everything = (path for path in ROOT.rglob("*") if path.is_file())
    return tuple(path for path in everything if not UNTRACKED & set(path.relative_to(ROOT).parts))


def texts(suffix: str = "") -> Iterator[tuple[str, str]]:
    """Name and content of each text file whose name ends so."""
    for path in files():
        if path.name.endswith(suffix):
            try:
                yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def places_named(text: str) -> list[str]:
    """Registry hosts, and paths that begin in a folder of one machine."""
    hosts = [host for host in HOSTS if host in text]
    return hosts + [home for home in HOMES if re.search(rf"(?<![\w.}}/-]){re.escape(home)}\w", text)]


def unexplained(source: str) -> list[str]:
    """The comments that silence a tool without a reason after them."""
    comments = (token for token in tokenize.generate_tokens(io.StringIO(source).readline))
    return [
        f"{token.start[0]}: {token.string}"
        for token in comments
        if token.type == tokenize.COMMENT and EXCEPTION.search(token.string) and not EXPLAINED.search(token.string)
    ]


def test_no_file_names_a_place_of_one_machine_or_a_registry() -> None:
    found = {name: named for name, text in texts() if (named := places_named(text))}
    assert found == {}


def test_every_exception_to_a_tool_says_why() -> None:
    found = {name: silent for name, text in texts(".py") if (silent := unexplained(text))}
    assert found == {}


def test_every_rule_that_ruff_ignores_says_why() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lint = tomllib.loads(text)["tool"]["ruff"]["lint"]
    codes = [*lint["ignore"], *(code for codes in lint["per-file-ignores"].values() for code in codes)]
    section = text[text.index("\nignore = [") : text.index("[tool.ruff.lint.flake8")]
    written = CODE.findall(section)
    assert sorted(code for code, _ in written) == sorted(codes), "one code on each line"
    assert [code for code, reason in written if not reason] == []


def test_the_top_level_holds_what_belongs_there() -> None:
    top = {path.relative_to(ROOT).parts[0] for path in files()}
    folders = {".ci", "config", "deploy", "docs", "examples", "gateway", "integrations", "loadtests", "models", "tests"}
    papers = {"CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md"}
    tools = {".dockerignore", ".gitignore", "Dockerfile", "Makefile", "pyproject.toml", "setup.py"}
    assert top == folders | {"tools"} | papers | tools | {
        "requirements.lock",
        "requirements-image.lock",
        "requirements-test.lock",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see https://" + HOSTS[0] + "/simple", [HOSTS[0]]),
        ("cd " + HOMES[0] + "main", [HOMES[0]]),
        ("/path" + HOMES[1] + "x and ${DIR}" + HOMES[1] + "x", []),
    ],
)
def test_the_rule_sees_places(text: str, expected: list[str]) -> None:
    assert places_named(text) == expected


@pytest.mark.parametrize(
    ("comment", "clean"),
    [
        ("# noqa", False),
        ("# noqa: E501", False),
        ("# noqa: E501  # a table reads better wide", True),
        ("# noqa: E501, S104 - compared, never bound", True),
        ("# type: ignore", False),
        ("# type: ignore[arg-type]", False),
        ("# type: ignore[arg-type]  # typed as a class, called as a factory", True),
        ("# an ordinary remark", True),
    ],
)
def test_the_rule_sees_silence(comment: str, clean: bool) -> None:
    assert (unexplained(f"x = 1  {comment}\n") == []) is clean

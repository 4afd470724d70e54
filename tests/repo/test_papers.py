"""What the documents ask a reader to type or to open exists: commands, options, make targets, tests, files.

Links are held by `.ci/lint`, configuration keys by tests/config, metrics by tests/control. The texts are
read, nothing in them is run; the examples in docstrings are.
"""

from __future__ import annotations

import doctest
import importlib
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from gateway.cli import COMMANDS, gateway
from gateway.config.load import load
from tests.repo.test_hygiene import ROOT, files, texts

TOP = {path.relative_to(ROOT).parts[0] for path in files()}
# Decisions are of their day: what they name may have changed since.
PAPERS = {name: text for name, text in texts(".md") if not name.startswith("docs/decisions/")}
FENCE = re.compile(r"^(?: *)```(\w*)\n(.*?)^(?: *)```", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"(?:^ {4}.*\n|^\n(?= {4}))+", re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"(?<![\w./${}<-])((?:[\w.-]+/)+[\w.*{},-]*)")
VARIABLE = re.compile(r"^[A-Z_][A-Z0-9_]*=\S*$")


def snippets(text: str) -> Iterator[str]:
    """Everything that is set as code: the lines of blocks, fenced or indented, and code within sentences."""
    prose = FENCE.sub("", text)
    blocks = [block for language, block in FENCE.findall(text) if language in ("", "sh")]
    for block in (*blocks, *INDENTED.findall(prose)):
        # A heredoc is another language; a continued line is one.
        shell = re.sub(r"<<'EOF'\n.*?^EOF$", "", block, flags=re.DOTALL | re.MULTILINE)
        lines = [line.strip() for line in shell.replace("\\\n", " ").splitlines()]
        # Where a prompt shows what was typed, the rest is what was answered.
        typed = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        yield from typed or lines
    yield from INLINE.findall(prose)


def commands(text: str, program: str) -> Iterator[list[str]]:
    """The words after each ``program`` that begins a command."""
    for snippet in snippets(text):
        for part in re.split(r"&&|\|\|?|;", snippet):
            try:
                words = shlex.split(part, comments=True)
            except ValueError:  # a sentence with an apostrophe, a piece of YAML
                continue
            while words and VARIABLE.match(words[0]):
                del words[0]
            if words and words[0].rpartition("/")[2] == program:
                yield words[1:]


def cannot_be_typed(words: list[str]) -> str | None:
    """What is wrong with the words after ``gateway``: a command or an option that there is not; None if nothing is."""
    command: click.Command = gateway
    context = click.Context(gateway, info_name="gateway")
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        names = rest.pop(0).split("|")
        found = [command.get_command(context, name) for name in names]
        if None in found:
            return f"no command {' or '.join(names)!r}"
        assert found[0] is not None
        command = found[0]
    known = {"-h", "--help"} | {
        name
        for param in command.params
        if isinstance(param, click.Option)
        for name in (*param.opts, *param.secondary_opts)
    }
    options = (word.strip("[]").partition("=")[0] for word in rest)
    unknown = [option for option in options if re.match(r"--?[a-z]", option) and option not in known]
    return f"no option {unknown[0]}" if unknown else None


def lost(path: str) -> bool:
    """Whether a path of this repository leads nowhere; stars and braces match as in a shell."""
    one = path.rstrip(".,").split("::")[0]
    names = [one]
    if match := re.fullmatch(r"(.*)\{([^{}]*)\}(.*)", one):
        names = [f"{match[1]}{middle}{match[3]}" for middle in match[2].split(",")]
    return not all(any(ROOT.glob(name.rstrip("/"))) for name in names)


def selects_nothing(words: list[str]) -> list[str]:
    """The words of ``pytest FILE -k WORDS`` that are in no test's name; none without ``-k``."""
    if "-k" not in words:
        return []
    chosen = set(re.findall(r"\w+", words[words.index("-k") + 1])) - {"or", "and", "not"}
    found = [path for word in words if word.startswith("tests") for path in ROOT.glob(word)]
    sources = [file for path in found for file in ([path] if path.is_file() else path.rglob("test_*.py"))]
    names = [name for file in sources for name in re.findall(r"def (test_\w+)", file.read_text(encoding="utf-8"))]
    return [word for word in sorted(chosen) if not any(word in name for name in names)]


@cache
def targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_every_command_that_is_written_can_be_typed(name: str) -> None:
    text = PAPERS[name]
    wrong = {" ".join(words): why for words in commands(text, "gateway") if (why := cannot_be_typed(words))}
    assert wrong == {}
    assert {words[0] for words in commands(text, "make") if words and words[0].isalpha()} <= targets()


def test_every_command_is_written_about() -> None:
    wanted = set(COMMANDS)
    for name in COMMANDS:
        command = gateway.get_command(click.Context(gateway), name)
        wanted |= {f"{name} {verb}" for verb in command.commands} if isinstance(command, click.Group) else set()
    written = {
        " ".join(words[:many]) for text in PAPERS.values() for words in commands(text, "gateway") for many in (1, 2)
    }
    # Verbs of the API's table, named together.
    written |= {f"rollout {verb}" for verb in ("resume", "approve", "abort") if f"/{verb}`" in PAPERS["docs/api.md"]}
    assert wanted - written == set()


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_every_selection_of_tests_selects_some(name: str) -> None:
    runs = (*commands(PAPERS[name], "pytest"), *commands(PAPERS[name], "python"))
    assert {" ".join(words): missing for words in runs if (missing := selects_nothing(words))} == {}


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_every_file_that_is_named_is_there(name: str) -> None:
    here = {path for path in PATH.findall(PAPERS[name]) if path.split("/")[0] in TOP}
    assert {path for path in here if lost(path)} == set()


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_every_module_that_is_run_is_there(name: str) -> None:
    modules = [words[words.index("-m") + 1] for words in commands(PAPERS[name], "python") if "-m" in words]
    own = [module for module in modules if module.split(".")[0] in TOP]
    files = {module: (f"{module.replace('.', '/')}.py", f"{module.replace('.', '/')}/__main__.py") for module in own}
    assert [module for module, paths in files.items() if all(map(lost, paths))] == []


def test_every_package_has_its_floor_in_the_architecture() -> None:
    names = {name.rpartition("/")[0] for name, _ in texts("__init__.py") if name.startswith("gateway/")}
    packages = {name for name in names if name.count("/") == 1 or Path(name).parent.name == "core"} - {"gateway/core"}
    assert {name for name in packages if f"`{name}/`" not in PAPERS["docs/architecture.md"]} == set()


def test_the_readmes_configuration_can_be_served(tmp_path: Path) -> None:
    blocks = [block for language, block in FENCE.findall(PAPERS["README.md"]) if language == "yaml"]
    (whole,) = (block for block in blocks if block.startswith("# gateway.yaml\n"))
    file = tmp_path / "gateway.yaml"
    file.write_text(whole, encoding="utf-8")
    (route,) = load(file).routes
    assert (route.name, route.stable, route.canary) == ("digits", "v1", "v2")
    wanted = {words[2] for words in commands(PAPERS["README.md"], "gateway") if words[:2] == ["rollout", "start"]}
    assert wanted == {route.name}


def test_every_example_in_a_docstring_is_true() -> None:
    modules = [
        name for name, text in texts(".py") if name.startswith("gateway/") and re.search(r"^ *>>> ", text, re.MULTILINE)
    ]
    assert modules
    for name in modules:
        module = importlib.import_module(name.removesuffix(".py").replace("/", "."))
        assert doctest.testmod(module).failed == 0, name


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("rollout start digits --plan x.json", None),
        ("rollout pause|promote|abort ROLLOUT [--reason TEXT]", None),
        ("-h", None),
        ("rollout begin digits", "no command 'begin'"),
        ("rollout pause|halt digits", "no command 'pause or halt'"),
        ("status --wach", "no option --wach"),
        ("plan --margin-delta=0.04 --regresion 2x", "no option --regresion"),
    ],
)
def test_the_rule_sees_wrong_commands(words: str, says: str | None) -> None:
    assert cannot_be_typed(words.split()) == says


def test_the_rule_reads_all_sorts_of_code() -> None:
    text = """See `gateway check FILE`.

    A=1 gateway serve X && .venv/bin/gateway demo

```sh
gateway plan \\
  --rate 5
```

```
$ gateway replay a.csv
gateway rollback
```

    $ gateway check x.yaml
    gateway is well
"""
    assert sorted(commands(text, "gateway")) == [
        *(["check", "FILE"], ["check", "x.yaml"], ["demo"], ["plan", "--rate", "5"]),
        *(["replay", "a.csv"], ["serve", "X"]),
    ]


def test_the_rule_sees_empty_selections() -> None:
    assert selects_nothing(["tests/repo/test_papers.py", "-k", "lost or wrong"]) == []
    assert selects_nothing(["tests/repo", "-q", "-k", "not lost and never_there"]) == ["never_there"]


def test_the_rule_sees_lost_files() -> None:
    assert not any(map(lost, ("gateway/app/{start,tree}.py", "docs/*.md", "tests/repo/", "tests/repo/test_ci.py::x")))
    assert all(map(lost, ("gateway/app.py", "gateway/app/{start,gone}.py", "docs/*.rst")))

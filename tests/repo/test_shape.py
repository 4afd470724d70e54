"""The figures of `make shape`, on trees small enough to count by hand."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools.shape import classes, measure, source
from tools.shape.__main__ import main

JUNIT = '<testsuites><testsuite name="pytest" tests="1234" time="95.4"/></testsuites>'


INTERFACE = """
class Interface:
    def __init__(self):
        self.a = 1
    def work(self):
        raise NotImplementedError
    @abstractmethod
    def more(self):
        return 1
"""


def tree(root: Path, **files: str) -> Path:
    """A package of these files; two underscores in a name are a folder."""
    for name, text in files.items():
        path = root / "gateway" / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def parsed(root: Path, **files: str) -> dict[str, source.Module]:
    return source.read(tree(root, **files), "gateway")


def test_imports_for_types_and_within_functions_close_a_circle(tmp_path: Path) -> None:
    modules = parsed(
        tmp_path,
        a="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from gateway.b import B\n",
        b="def f():\n    import gateway.c\n",
        c="from gateway import a, d\n",
        d="import os\nfrom gateway.c import x\n",
        alone="from gateway.a import y\nfrom elsewhere import z\n",
    )
    graph = source.imports(modules)
    assert graph["gateway.c"] == {"gateway.a", "gateway.d"} and graph["gateway.alone"] == {"gateway.a"}
    assert source.circles(graph) == [["gateway.a", "gateway.b", "gateway.c", "gateway.d"]]


def test_two_circles_are_two_and_the_larger_comes_first() -> None:
    graph = {"a": {"b"}, "b": {"a", "c"}, "c": {"d"}, "d": {"e"}, "e": {"c"}, "f": {"a"}}
    assert source.circles(graph) == [["c", "d", "e"], ["a", "b"]]
    assert source.circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_a_linked_folder_is_not_counted_twice(tmp_path: Path) -> None:
    tree(tmp_path, a="x = 1\n")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "m.py").write_text("x = 1\n", encoding="utf-8")
    (tmp_path / "gateway" / "bundled").symlink_to(tmp_path / "models")
    assert set(source.read(tmp_path, "gateway")) == {"gateway.a"}


def test_names_that_occur_twice_include_private_and_inner_classes(tmp_path: Path) -> None:
    modules = parsed(
        tmp_path,
        a="class One: ...\nclass _Two: ...\n",
        b="class One: ...\ndef f():\n    class _Two: ...\n",
        c="class Three: ...\n",
    )
    found = classes.named_twice(classes.classes(modules))
    assert found == {"One": ["gateway.a", "gateway.b"], "_Two": ["gateway.a", "gateway.b"]}


def test_a_base_class_cuts_a_file_unless_it_is_shared_or_made_or_an_interface(tmp_path: Path) -> None:
    code = "    def work(self):\n        return 1\n"
    modules = parsed(
        tmp_path,
        a=f"class Half:\n{code}class Whole(Half):\n{code}",
        b=f"class Shared:\n{code}class X(Shared):\n{code}class Y(Shared):\n{code}",
        c=f"class Made:\n{code}class Special(Made):\n{code}made = Made()\n",
        d=f"{INTERFACE}class I(Interface):\n{code}",
    )
    found = classes.classes(modules)
    assert classes.cutting(found, modules) == ["Half"]
    assert classes.stubs(found) == ["Interface.work"]


EXCHANGE = """
class Half:
    __slots__ = ("_done", "_other")
    shared: ClassVar[bool] = True

    def __init__(self, keep: bool) -> None:
        self._done = self._fixed = False
        self._keep, self._other = keep, None

    def close(self) -> None:
        self._done = True


class Body:
    whole: bool

    def __init__(self) -> None:
        self.size = 0


class Exchange(Half):
    def begin(self, connection: Connection) -> None:
        self._connection = connection
        self._body = Body()
        self._body.whole = True
        self._keep: bool = False


class Connection:
    __slots__ = ("open",)
"""


def test_the_state_of_a_request_is_the_exchange_with_its_bases_and_what_it_makes(tmp_path: Path) -> None:
    state = classes.request_state(classes.classes(parsed(tmp_path, proxy__exchange=EXCHANGE)))
    assert [each.name for each in state] == ["Exchange", "Body"]
    assert state[0].slots == ("_body", "_connection", "_done", "_fixed", "_keep", "_other")
    assert state[0].mutable_booleans == ("_done", "_keep")
    assert (state[1].slots, state[1].mutable_booleans) == (("size", "whole"), ("whole",))


def test_a_function_is_as_long_as_its_lines(tmp_path: Path) -> None:
    modules = parsed(tmp_path, a="def one(): ...\n\n\nclass A:\n    async def three(\n        self,\n    ): ...\n")
    assert sorted(measure.function_lengths(modules.values())) == [1, 3]


def test_the_table_sets_a_commit_beside_the_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text("def test_a(): ...\n", encoding="utf-8")
    tree(tmp_path, a="from gateway import b\n", b="from gateway import a\n", proxy__exchange=EXCHANGE)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "before"]):
        subprocess.run([*git, *command], check=True, timeout=60)
    tree(tmp_path, b="x = 1\n")
    junit = tmp_path / "tests.xml"
    junit.write_text(JUNIT, encoding="utf-8")
    assert main(["--root", str(tmp_path), "--before", "HEAD", "--junit", str(junit), "--names"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "| | HEAD | now |"
    assert "| import circles (modules in each) | 1 (2) | 0 |" in printed
    assert "| base classes of gateway.proxy that only cut a file | 1 | 1 |" in printed
    assert "| `Exchange`: slots, mutable booleans | 6, 2 | 6, 2 |" in printed
    assert "| test functions | 1 | 1 |" in printed
    assert "| seconds of the tests | - | 95 |" in printed
    assert "base class that only cuts a file: Half" in printed


@pytest.mark.parametrize(
    ("option", "content", "says"),
    [
        ("--junit", "no xml", "not a JUnit file"),
        ("--junit", "<html/>", "no <testsuite> in it"),
        ("--cpu", "{}", "not a file of results"),
        ("--cpu", "", "holds no run yet"),
    ],
)
def test_a_file_of_another_kind_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, content: str, says: str
) -> None:
    given = tmp_path / "given"
    given.write_text(content, encoding="utf-8")
    assert main(["--root", str(tree(tmp_path, a="")), option, str(given)]) == 1
    error = capsys.readouterr().err
    assert says in error and str(given) in error


def test_a_commit_that_git_does_not_know_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run(["git", "-C", str(tmp_path), "init", "-q"], check=True, timeout=60)
    assert main(["--root", str(tree(tmp_path, a="")), "--before", "no-such-commit"]) == 1
    assert "'no-such-commit'" in capsys.readouterr().err


def test_cpu_is_the_median_of_the_rounds_ratios(tmp_path: Path) -> None:
    run = (
        '{"kind":"run","run":"r","rounds":2,"seconds":1,"proxies":[],"rates":{},"commit":"","kernel":"","processor":"",'
    )
    run += '"cpus":2,"shared_core":false,"versions":{}}'
    measured = [
        f'{{"kind":"measured","run":"r","round":{number},"workload":"small","proxy":"{proxy}","answered":1,"per_s":1,'
        f'"errors":0,"cpu_us":{cost}}}'
        for number, proxy, cost in ((1, "nginx", 10), (1, "gateway", 12), (2, "nginx", 20), (2, "gateway", 22))
    ]
    (tmp_path / "results.jsonl").write_text("\n".join([run, *measured]), encoding="utf-8")
    assert list(measure.cpu(tmp_path / "results.jsonl")) == [("CPU per request, small, ÷ nginx", "1.15 (1.10..1.20)")]

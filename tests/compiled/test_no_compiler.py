"""A wheel has all of the compiled data plane or none of it."""

from __future__ import annotations

from pathlib import Path

from tests.support.wheel import build, start_line, version


def test_without_a_compiler_the_wheel_is_built_all_the_same_and_says_so(tmp_path: Path) -> None:
    pure = build(tmp_path, CC="/nowhere/cc")
    assert "the data plane is NOT compiled" in pure.output
    assert not list(pure.site.rglob("*.so")), "some of it is worse than none"
    slower = "data plane interpreted: about twice the CPU; to compile it, install a C compiler and Python's headers"
    assert slower in version(pure.site)
    assert slower in start_line(pure.site, tmp_path)

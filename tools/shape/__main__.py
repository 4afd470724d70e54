"""Print the shape of the code as a table, of this tree and, if asked, of a commit before it.

    make shape                     this tree
    make shape BEFORE=e32989e      beside that commit; its files are taken from git, nothing is checked out
    make shape NAMES=1             with the classes, circles and stubs that the counts stand for

More columns' worth by hand: `python -m tools.shape --junit tests.xml --cpu loadtests/compare/results.jsonl`, and
`--junit-before`, `--cpu-before` for the commit before.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from tools.shape import measure

_ROOT = Path(__file__).parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what the command line asks for; returns the exit status."""
    asked = _options().parse_args(arguments)
    try:
        after = dict(chain(measure.code(asked.root), *_given(asked.junit, asked.cpu)))
        columns = {"now": after}
        if asked.before:
            with tempfile.TemporaryDirectory(prefix="shape-") as directory:
                unpack(asked.root, asked.before, Path(directory))
                before = dict(chain(measure.code(Path(directory)), *_given(asked.junit_before, asked.cpu_before)))
            columns = {asked.before: before, **columns}
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(table(columns)))
    if asked.names:
        print("\n" + "\n".join(listed(measure.names(asked.root))))
    return 0


def unpack(repository: Path, commit: str, directory: Path) -> None:
    """Put the files of a commit into a directory. Raises ValueError where git does not know the commit."""
    command = ["git", "-C", str(repository), "archive", "--format=tar", commit, "--", "gateway", "tests"]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    if done.returncode != 0:
        raise ValueError(f"git has no files of {commit!r}: {done.stderr.decode(errors='replace').strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(directory, filter="data")


def table(columns: dict[str, dict[str, str]]) -> Iterator[str]:
    """The columns beside each other, as Markdown; a dash where one has no such row."""
    rows = list(dict.fromkeys(name for values in columns.values() for name in values))
    yield f"| | {' | '.join(columns)} |"
    yield f"|---|{'---:|' * len(columns)}"
    for row in rows:
        yield f"| {row} | {' | '.join(values.get(row, '-') for values in columns.values())} |"


def listed(names: measure.Names) -> Iterator[str]:
    """What the counts stand for, a line each."""
    for name, modules in names.named_twice.items():
        yield f"class {name}: {', '.join(modules)}"
    for circle in names.circles:
        yield f"circle of {len(circle)}: {', '.join(circle)}"
    for name in names.cutting:
        yield f"base class that only cuts a file: {name}"
    for name in names.stubs:
        yield f"stub: {name}"
    for state in names.state:
        booleans = ", ".join(state.mutable_booleans) or "-"
        yield f"{state.module}.{state.name}: {len(state.slots)} slots; mutable booleans: {booleans}"


def _given(junit: Path | None, cpu: Path | None) -> Iterator[Iterator[tuple[str, str]]]:
    if junit:
        yield measure.tests(junit)
    if cpu:
        yield measure.cpu(cpu)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.shape", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=_ROOT, help="the tree to measure (default: this one)")
    parser.add_argument("--before", metavar="COMMIT", default="", help="a commit to measure as well")
    parser.add_argument("--junit", type=Path, help="a JUnit file of the tests' run")
    parser.add_argument("--junit-before", type=Path, help="the same for the commit before")
    parser.add_argument("--cpu", type=Path, help="results of loadtests/compare; the newest run counts")
    parser.add_argument("--cpu-before", type=Path, help="the same for the commit before")
    parser.add_argument("--names", action="store_true", help="list the classes, circles and stubs as well")
    return parser


if __name__ == "__main__":
    sys.exit(main())

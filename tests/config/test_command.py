"""``gateway check`` as a process: exit status, one line for each error, JSON, and no traceback ever."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "config").glob("*.yaml")) + sorted((ROOT / "config/examples").glob("*.yaml"))
MINIMAL = (ROOT / "config/examples/minimal.yaml").read_text()


RUN = "from gateway.config.command import check; check()"
# Root may write anywhere: the permission is asked for as another user, who may not be able to read the interpreter.
RUN_AS_NOBODY = (
    "import os; from gateway.config.command import check; os.setgroups([]); os.setresuid(*[65534] * 3); check()"
)


def check(*arguments: str | Path, run: str = RUN, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", run, *map(str, arguments)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": path, **environ},
    )


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_passes(example: Path) -> None:
    done = check(example)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("OK: 1 route, 2 backends\n  listen ")
    assert not (example.parent / "state").exists(), "check must create nothing"


def test_errors_are_one_line_each_on_standard_error_and_exit_status_is_2(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(MINIMAL.replace("stable: v1", "stable: v9\n    canary_percent: 130"))
    done = check(path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"{path}:10: routes[0].stable: there is no backend 'v9'; known: v1, v2",
        f"{path}:11: routes[0].canary_percent: 130 is greater than 100; expected a percentage from 0 to 100",
    ]


def test_json_lists_the_errors_and_nothing_for_a_good_file(tmp_path: Path) -> None:
    done = check("--json", ROOT / "config/gateway.yaml")
    assert (done.returncode, json.loads(done.stdout)) == (0, [])
    done = check("--json", tmp_path / "none.yaml")
    assert (done.returncode, done.stderr) == (2, "")
    assert json.loads(done.stdout) == [
        {
            "file": str(tmp_path / "none.yaml"),
            "place": "",
            "line": None,
            "column": None,
            "problem": "no such file",
            "hint": "config/gateway.yaml is an example",
        }
    ]


def test_text_that_the_terminal_cannot_show_is_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(MINIMAL.replace("stable: v1", 'stable: "ä\\n\\x1b[31m"\n    wörker: "é\\n"'), encoding="utf-8")
    for encoding in ("ascii", "utf-8"):
        done = check(path, PYTHONIOENCODING=encoding)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 2
        assert not any(word in done.stderr for word in ("Traceback", "\x1b"))


def test_a_state_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    path = tmp_path / "gateway.yaml"
    for place in ("file", "file/state", "dangling"):
        path.write_text(f"state_dir: {place}\n{MINIMAL}")
        done = check(path)
        assert done.returncode == 2
        assert (
            f"{path}:1: state_dir: {tmp_path / place.split('/')[0]} is not a directory; use another dir" in done.stderr
        )
    path.write_text(f"state_dir: a/b/c\n{MINIMAL}")
    assert check(path).returncode == 0
    assert not (tmp_path / "a").exists()


def test_a_state_directory_without_permission_is_a_warning() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "closed").mkdir(mode=0o555)
        path = directory / "gateway.yaml"
        path.write_text(f"state_dir: closed/state\n{MINIMAL}")
        done = check(path, run=RUN_AS_NOBODY if os.geteuid() == 0 else RUN)
        assert done.returncode == 0
        expected = (
            f"warning: state_dir: this user cannot write to {directory / 'closed'}: stable alone is served, and no"
        )
        assert done.stderr.startswith(expected) and "permit it, or use another directory" in done.stderr


def test_a_port_in_use_does_not_matter(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        path = tmp_path / "gateway.yaml"
        path.write_text(f"listen: 127.0.0.1:{taken.getsockname()[1]}\n{MINIMAL}")
        assert check(path).returncode == 0


def test_help_and_usage() -> None:
    assert "Validate the configuration file" in check("--help").stdout
    assert check().returncode == 2

"""The command line itself: versions, help, what is imported, how it ends."""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway import __version__
from gateway.cli import COMMANDS
from gateway.runtime.build import described

ROOT = Path(__file__).parents[2]
HEAVY = ("numpy", "onnxruntime", "scipy", "pydantic", "starlette", "uvicorn")


def test_the_version_is_reported(run: Any) -> None:
    assert run("--version") == (0, f"gateway {__version__} (data plane {described()})\n", "")


def test_the_help_names_every_command(run: Any) -> None:
    status, out, _ = run("--help")
    assert status == 0
    assert all(f"\n  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists_under_its_name(name: str) -> None:
    module, _, attribute = COMMANDS[name][0].partition(":")
    command = getattr(importlib.import_module(module), attribute)
    assert command.name == name


@pytest.mark.parametrize(
    "arguments", [[], ["--help"], ["rollout", "--help"], ["status", "--help"], ["weight", "r", "200"]]
)
def test_commands_that_only_talk_import_no_numerics_and_no_server(arguments: list[str]) -> None:
    code = f"import sys\nfrom gateway.cli import main\ntry: main({arguments!r})\nexcept SystemExit: pass\n"
    code += f"sys.stdout.flush(); print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["explode"], "No such command"),
        (["status", "--explode"], "No such option"),
        (["weight"], "Missing argument"),
        (["weight", "digits"], "Missing argument"),
        (["weight", "digits", "101"], "from 0 to 100"),
        (["weight", "digits", "-1"], "from 0 to 100"),
        (["weight", "digits", "nan"], "not nan"),
        (["weight", "digits", "inf"], "not inf"),
        (["weight", "digits", "five"], "not a percentage"),
        (["weight", "digits", "0.001"], "steps of 0.01"),
        (["weight", "../x", "5"], "not a valid route name"),
        (["status", "a b"], "not a valid route name"),
        (["rollout", "explode"], "No such command"),
        (["rollout", "pause", "x", "--reason", "a\nb"], "printable"),
        (["rollout", "list", "--limit", "0"], "--limit"),
        (["rollout", "start", "digits", "--plan", "/no/such/file"], "No such file"),
        (["status", "--url", "nonsense"], "is not a URL"),
        (["status", "--url", "http://[::1"], "is not a URL"),
        (["status", "--url", "ftp://127.0.0.1"], "is not a URL"),
        (["status", "--url", "http://127.0.0.1:99999"], "is not a URL"),
        (["status", "--token", "a b"], "a token contains only printable ASCII"),
        (["serve"], "give either the configuration file CONFIG, or --stable"),
        (["serve", "/no/such/file.yaml"], "no such file"),
    ],
)
def test_a_wrong_command_line_is_2_and_says_why(run: Any, arguments: list[str], says: str) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert says in err


def test_serve_names_each_error_of_the_configuration_on_a_line(run: Any, tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(
        "backends:\n  one: {endpoints: [ftp://x]}\nroutes:\n"
        "  - {name: r, match: {path_prefix: /}, stable: one, canary_percent: 130, sticki: 1}\n"
    )
    status, out, err = run("serve", str(config))
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 4 and all(line.startswith(f"{config}:") for line in err.splitlines())


@pytest.mark.parametrize("text", ["[1", '{"steps": []}', '{"steps": [{"percent": 5}, {"percent": 1}]}', "[]", "\xff"])
def test_a_plan_that_cannot_be_used_is_2(run: Any, tmp_path: Path, text: str) -> None:
    plan = tmp_path / "plan.json"
    plan.write_bytes(text.encode("latin-1"))
    status, out, err = run("rollout", "start", "digits", "--plan", str(plan))
    assert (status, out) == (2, "") and str(plan) in err


def test_a_reader_that_goes_away_leaves_no_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "--help"],
        cwd=ROOT,
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def test_an_interrupt_is_130_without_a_traceback(tmp_path: Path) -> None:
    # A plan from a pipe that nobody writes to: the command waits, whatever the machine's pace, until it is interrupted.
    fifo = tmp_path / "plan"
    os.mkfifo(fifo)
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "rollout", "start", "digits", "--plan", str(fifo)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with fifo.open("wb"):  # opens when the command has opened it for reading
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.strip()) == (130, "", "")

"""The supervisor over real processes: restarts, statuses, signals at any moment, and its own violent death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

DRIVER = """
import asyncio, logging, sys
from gateway.runtime import supervisor
from gateway.runtime.process import Child
from gateway.runtime.supervisor import Supervisor

async def main():
    it = Supervisor([{children}])
    it.watch_signals()
    {before}
    print("ready", flush=True)
    return await it.run()

logging.basicConfig(level=logging.WARNING)
sys.exit(asyncio.run(main()))
"""
# One write a line: children share a pipe, and print() makes several writes where output is not buffered.
SAY = """
import os, signal, sys, time
def say(line):
    os.write(1, (line + "\\n").encode())
"""
# Prints which child it is and its settings, then runs until it gets a signal.
GOOD = (
    SAY
    + """
settings = sys.stdin.read()
def end(*_):
    say("ended " + settings)
    os._exit(0)
signal.signal(signal.SIGTERM, end)
say(f"born {settings} {os.getpid()}")
while True:
    time.sleep(0.05)
"""
)
STUBBORN = (
    SAY
    + """
signal.signal(signal.SIGTERM, lambda *_: say("asked"))
say(f"born {sys.stdin.read()} {os.getpid()}")
while True:
    time.sleep(0.05)
"""
)


@contextmanager
def supervised(directory: Path, children: str, before: str = "pass", **modules: str) -> Iterator[subprocess.Popen[str]]:
    """A supervisor in a process of its own, over modules that are files in ``directory``."""
    for name, source in modules.items():
        (directory / f"{name}.py").write_text(textwrap.dedent(source))
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER.format(children=children, before=before)],
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=20)
        until(lambda: not descendants(process.pid), "nothing is left of it")


def descendants(pid: int) -> list[int]:
    """The processes that a supervisor of this id has started, also after its death."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            command = (directory / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"gateway.runtime.child" in command and str(pid).encode() in command:
            found.append(int(directory.name))
    return found


def until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline_s, f"never happened: {what}"
        time.sleep(0.02)


def lines(process: subprocess.Popen[str], count: int) -> list[list[str]]:
    assert process.stdout is not None
    return [process.stdout.readline().split() for _ in range(count)]


def test_children_get_their_settings_and_stop_rank_by_rank(tmp_path: Path) -> None:
    children = 'Child("one", "good", b"one", stop_rank=1), Child("two", "good", b"two")'
    with supervised(tmp_path, children, good=GOOD) as process:
        assert {line[1] for line in lines(process, 2)} == {"one", "two"}
        process.terminate()
        out, log = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out.split("\n")[:2] == ["ended two", "ended one"]
    assert log == ""


def test_a_child_that_dies_is_started_again(tmp_path: Path) -> None:
    with supervised(tmp_path, 'Child("it", "good", b"it")', good=GOOD) as process:
        for _ in range(3):
            ((_, _, pid),) = lines(process, 1)
            os.kill(int(pid), signal.SIGKILL)
        ((_, _, last),) = lines(process, 1)
        assert len(descendants(process.pid)) == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
        assert process.stderr is not None
        assert process.stderr.read().count("exited with status -9") == 3
        assert last != pid


def test_a_child_that_cannot_work_ends_everything_with_its_status(tmp_path: Path) -> None:
    children = 'Child("good", "good", b""), Child("bad", "bad", b"")'
    with supervised(tmp_path, children, good=GOOD, bad="raise SystemExit(2)") as process:
        assert process.wait(timeout=20) == 2


def test_a_child_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    before = """real, sys.executable = sys.executable, "/nowhere/python"
    asyncio.get_running_loop().call_later(0.5, setattr, sys, "executable", real)"""
    with supervised(tmp_path, 'Child("it", "good", b"it")', before, good=GOOD) as process:
        assert lines(process, 1)[0][:2] == ["born", "it"]
        process.terminate()
        _, log = process.communicate(timeout=20)
    assert "it cannot be started" in log


def test_a_stop_does_not_wait_for_a_restart_that_is_due_later(tmp_path: Path) -> None:
    with supervised(tmp_path, 'Child("bad", "bad", b"")', bad="raise SystemExit(1)") as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "restarting in 0.4 s" in line:
                break
        process.terminate()
        assert process.wait(timeout=20) == 0


def test_who_does_not_stop_in_time_is_killed(tmp_path: Path) -> None:
    with supervised(tmp_path, 'Child("it", "stubborn", b"it", stop_timeout_s=0.2)', stubborn=STUBBORN) as process:
        lines(process, 1)
        process.terminate()
        _, log = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "it did not stop" in log


def test_a_second_signal_kills_at_once(tmp_path: Path) -> None:
    with supervised(tmp_path, 'Child("it", "stubborn", b"it", stop_timeout_s=3600)', stubborn=STUBBORN) as process:
        lines(process, 1)
        process.terminate()
        assert lines(process, 1) == [["asked"]]
        process.terminate()
        assert process.wait(timeout=20) == 128 + signal.SIGTERM


@pytest.mark.parametrize("delay_s", [0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2])
def test_a_signal_while_children_are_being_born_leaves_none(tmp_path: Path, delay_s: float) -> None:
    children = ", ".join(f'Child("{n}", "good", b"{n}")' for n in range(4))
    with supervised(tmp_path, children, good=GOOD) as process:
        time.sleep(delay_s)
        process.terminate()
        process.communicate(timeout=20)
        assert process.returncode == 0
        assert descendants(process.pid) == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the children look for themselves")
@pytest.mark.parametrize("delay_s", [0.0, 0.02, 0.05, 0.1, 0.5])
def test_a_supervisor_that_is_killed_takes_its_children_along(tmp_path: Path, delay_s: float) -> None:
    children = ", ".join(f'Child("{n}", "good", b"{n}")' for n in range(3))
    with supervised(tmp_path, children, good=GOOD) as process:
        time.sleep(delay_s)
        process.kill()
        process.communicate(timeout=20)
        until(lambda: not descendants(process.pid), "they are gone")


# Says when it is ready, and drains until it may end; "stuck" never gets ready.
WORKER = (
    SAY
    + """
from gateway.runtime.child import say_ready, say_retiring
name = sys.stdin.read()
def end(*_):
    say_retiring()
    while not os.path.exists("drained"):
        time.sleep(0.02)
    say("ended " + name)
    os._exit(0)
signal.signal(signal.SIGTERM, end)
say(f"born {name} {os.getpid()}")
if name != "stuck":
    say_ready()
while True:
    time.sleep(0.05)
"""
)
REPLACE = """
    import os
    async def replace():
        done = await it.replace(Child("it", "worker", b"{successor}", stop_timeout_s=20), {timeout_s})
        os.write(1, f"replaced {{done}}\\n".encode())
    def on_command():
        os.read(0, 1)
        tasks.append(asyncio.ensure_future(replace()))
    asyncio.get_running_loop().add_reader(0, on_command)
    tasks = []"""


def replace(process: subprocess.Popen[str]) -> None:
    """Send the supervisor a command."""
    assert process.stdin is not None
    process.stdin.write(".")
    process.stdin.flush()


def test_a_child_is_replaced_make_before_break(tmp_path: Path) -> None:
    before = REPLACE.format(successor="second", timeout_s=20).strip()
    with supervised(tmp_path, 'Child("it", "worker", b"first", stop_timeout_s=20)', before, worker=WORKER) as it:
        assert lines(it, 1)[0][:2] == ["born", "first"]
        replace(it)
        assert [line[:2] for line in lines(it, 2)] == [["born", "second"], ["replaced", "True"]]
        (tmp_path / "drained").touch()
        assert lines(it, 1) == [["ended", "first"]]
        until(lambda: len(descendants(it.pid)) == 1, "the first is gone, and the second stays")
        it.terminate()
        assert it.wait(timeout=20) == 0


def test_a_successor_that_never_gets_ready_changes_nothing(tmp_path: Path) -> None:
    before = REPLACE.format(successor="stuck", timeout_s=1.0).strip()
    (tmp_path / "drained").touch()
    with supervised(tmp_path, 'Child("it", "worker", b"first", stop_timeout_s=20)', before, worker=WORKER) as it:
        assert lines(it, 1)[0][:2] == ["born", "first"]
        replace(it)
        ((said, name, *_),) = lines(it, 1)
        if said == "born":  # it may not even come to that in its time
            assert name == "stuck"
            ((said, name),) = lines(it, 1)
        assert (said, name) == ("replaced", "False")
        until(lambda: len(descendants(it.pid)) == 1, "the stuck one is gone")
        it.terminate()
        assert lines(it, 1) == [["ended", "first"]]
        assert it.wait(timeout=20) == 0


def test_a_child_that_retires_has_its_successor_while_it_drains(tmp_path: Path) -> None:
    with supervised(tmp_path, 'Child("it", "worker", b"it", stop_timeout_s=20)', worker=WORKER) as it:
        ((_, _, first),) = lines(it, 1)
        os.kill(int(first), signal.SIGTERM)
        ((_, _, second),) = lines(it, 1)
        assert {int(first), int(second)} == set(descendants(it.pid)), "the first still drains"
        (tmp_path / "drained").touch()
        assert lines(it, 1) == [["ended", "it"]]
        it.terminate()
        assert it.wait(timeout=20) == 0


BEATING = """
import asyncio, os, signal, sys
from gateway.runtime import child
child.BEAT_S = 0.05
async def main():
    child.say_ready()
    os.write(1, f"born {sys.stdin.read()} {os.getpid()}\\n".encode())
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    await child.beat()
asyncio.run(main())
"""


def test_a_child_that_hangs_is_killed_and_started_again(tmp_path: Path) -> None:
    children = 'Child("it", "beating", b"it", says_ready=True, silence_s_max=2.0)'
    with supervised(tmp_path, children, beating=BEATING) as process:
        ((_, _, pid),) = lines(process, 1)
        os.kill(int(pid), signal.SIGSTOP)
        ((_, _, next_pid),) = lines(process, 1)
        assert next_pid != pid
        process.terminate()
        _, log = process.communicate(timeout=20)
    assert "state T) hangs: no heartbeat for" in log and "exited with status -9" in log


def test_time_in_which_the_supervisor_stood_still_is_held_against_nobody(tmp_path: Path) -> None:
    """Both are stopped, as by a suspended machine; the child wakes a little later, but within its limit."""
    children = 'Child("it", "beating", b"it", says_ready=True, silence_s_max=1.0)'
    with supervised(tmp_path, children, beating=BEATING) as process:
        ((_, _, pid),) = lines(process, 1)
        time.sleep(0.3)
        os.kill(process.pid, signal.SIGSTOP)
        os.kill(int(pid), signal.SIGSTOP)
        time.sleep(1.5)
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.1)
        os.kill(int(pid), signal.SIGCONT)
        time.sleep(0.5)
        assert descendants(process.pid) == [int(pid)]
        process.terminate()
        _, log = process.communicate(timeout=20)
    assert "hangs" not in log


def test_a_child_that_has_yet_to_speak_is_given_longer(tmp_path: Path) -> None:
    slow = "import time; time.sleep(1.0)\n" + BEATING
    children = 'Child("it", "slow", b"it", says_ready=True, silence_s_max=0.3)'
    with supervised(tmp_path, children, slow=slow) as process:
        assert len(lines(process, 1)) == 1
        process.terminate()
        _, log = process.communicate(timeout=20)
    assert "hangs" not in log


def test_ready_is_when_all_are_who_say_so(tmp_path: Path) -> None:
    before = "t = asyncio.create_task(it.ready()); t.add_done_callback(lambda _: print('all ready', flush=True))"
    children = 'Child("a", "beating", b"a", says_ready=True), Child("b", "good", b"b")'
    with supervised(tmp_path, children, before=before, beating=BEATING, good=GOOD) as process:
        said = sorted(line[0] for line in lines(process, 3))
        assert said == ["all", "born", "born"]
        process.terminate()
        assert process.wait(timeout=20) == 0

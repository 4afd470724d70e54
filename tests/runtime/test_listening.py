"""The admin's Unix socket: private, taken over from the dead, never from the living."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gateway.runtime import listening


def test_a_socket_is_for_this_user_alone_and_goes_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    before = os.umask(0)
    try:
        with listening.unix_socket(path) as listener:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert listening.address_of(listener) == str(path) and listening.private(listener)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
        assert os.umask(0) == 0, "the umask of the process is as before"
    finally:
        os.umask(before)
    assert not path.exists()


def test_one_that_a_dead_process_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.listen()
    left.close()
    with listening.unix_socket(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


@pytest.mark.parametrize("backlog", [0, 8])
def test_one_at_which_somebody_listens_is_refused_and_left(tmp_path: Path, backlog: int) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as living, socket.socket(socket.AF_UNIX) as first:
        living.bind(str(path))
        living.listen(backlog)
        first.connect(str(path))  # with no backlog the queue is full by now
        with pytest.raises(OSError, match="another process listens there") as caught, listening.unix_socket(path):
            pass
        assert caught.value.filename == f"unix:{path}: stop it, or choose another path"
        assert path.exists()


def test_what_is_no_socket_is_refused_and_left(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    path.write_text("mine")
    with pytest.raises(OSError, match="not a socket") as caught, listening.unix_socket(path):
        pass
    assert "remove it" in caught.value.filename and path.read_text() == "mine"
    with pytest.raises(OSError, match="No such file") as caught, listening.unix_socket(tmp_path / "no" / "admin.sock"):
        pass
    assert "create its directory first" in caught.value.filename


def test_a_file_that_is_anothers_by_now_is_left(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with listening.unix_socket(path):
        path.rename(tmp_path / "aside.sock")
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
    assert path.is_socket()


def test_an_inherited_admin_socket_that_others_can_reach_needs_a_token(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(
        "listen: 127.0.0.1:0\nbackends: {a: {endpoints: [http://127.0.0.1:9], probe: null}}\n"
        "routes: [{name: r, match: {path_prefix: /}, stable: a}]\n"
    )
    with socket.create_server(("0.0.0.0", 0)) as listener:
        done = subprocess.run(
            [sys.executable, "-m", "gateway", "serve", str(path), "--admin-fd", str(listener.fileno())],
            pass_fds=[listener.fileno()],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stdout) == (1, "")
    assert "is reachable from other machines without a token" in done.stderr and "add admin.token_env" in done.stderr


def test_an_address_in_use_is_an_error_at_once_unless_it_may_be_free_in_a_moment(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket(socket.AF_UNIX) as unix:
        port = taken.getsockname()[1]
        unix.bind(str(path))
        unix.listen()
        with pytest.raises(OSError, match="cannot listen") as refused:
            listening.listen("127.0.0.1", port, 2)
        assert refused.value.errno == errno.EADDRINUSE
        with pytest.raises(OSError, match="cannot listen"), listening.unix_socket(path, time.monotonic() + 0.1):
            pass

        def free() -> None:
            taken.close()
            unix.close()

        frees = threading.Timer(0.2, free)
        frees.start()
        until_s = time.monotonic() + 20
        listeners = listening.listen("127.0.0.1", port, 2, until_s)
        with listening.unix_socket(path, until_s):
            assert [listener.getsockname()[1] for listener in listeners] == [port, port]
        frees.join()
        for listener in listeners:
            listener.close()

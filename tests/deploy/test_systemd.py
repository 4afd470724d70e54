"""The systemd units, read by systemd's own tools, and against the program that they start."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from gateway.config.schema import GatewayConfig
from tests.support.chart import DEPLOY
from tests.support.ports import free_port

UNITS = DEPLOY / "systemd"
SERVICE = UNITS / "canary-gateway.service"
# What docs/deploy.md says; 10 is wide open, 0 closed.
EXPOSURE_MAX = 1.5


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def values(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", SERVICE.read_text(encoding="utf-8"), re.MULTILINE)


def test_systemd_understands_every_line(tmp_path: Path) -> None:
    for unit in UNITS.iterdir():
        shutil.copy(unit, tmp_path)
    service = tmp_path / SERVICE.name
    gateway = str(Path(sys.executable).parent / "gateway")
    service.write_text(service.read_text().replace("/opt/gateway/bin/gateway", gateway))
    units = sorted(tmp_path.iterdir())
    done = analyze("verify", "--man=no", *units)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    service.write_text(service.read_text().replace("ProtectHome=", "ProtectHomes="))
    assert "ProtectHomes" in analyze("verify", "--man=no", *units).stderr, "it sees errors"


def test_the_service_can_do_little() -> None:
    done = analyze("security", "--offline=true", "--no-pager", SERVICE)
    found = re.search(r"Overall exposure level for \S+ ([\d.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= EXPOSURE_MAX


def test_the_unit_fits_the_program() -> None:
    (start,), (stop_s,) = values("ExecStart"), values("TimeoutStopSec")
    assert start.split()[1:] == ["serve", "/etc/canary-gateway/gateway.yaml"]
    limits = GatewayConfig.model_fields["limits"].get_default(call_default_factory=True)
    assert float(stop_s) > limits.drain_timeout_s + limits.drain_grace_s
    assert values("Type") == ["notify"] and values("KillMode") == ["mixed"]


def test_systemd_hands_over_a_socket_that_serves(tmp_path: Path) -> None:
    """By systemd's own tool, which listens, and starts the program when the first client comes."""
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as backend:
        Thread(target=backend.serve_forever, daemon=True).start()
        config = tmp_path / "gateway.yaml"
        config.write_text(
            f"listen: 127.0.0.1:{free_port()}\nadmin: {{listen: 127.0.0.1:{free_port()}}}\n"
            f"backends: {{v1: {{endpoints: ['http://127.0.0.1:{backend.server_address[1]}'], probe: null}}}}\n"
            "routes: [{name: r, match: {path_prefix: /}, stable: v1}]\n"
        )
        port = free_port()
        gateway = Path(sys.executable).parent / "gateway"
        command: list[str | Path] = ["systemd-socket-activate", f"--listen=127.0.0.1:{port}", gateway, "serve", config]
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
        try:
            assert asked(port, process) == 200, (tmp_path / "log").read_text()
        finally:
            process.terminate()
            status = process.wait(120)
            backend.shutdown()
    assert status == 0 and f"serving on http://127.0.0.1:{port}" in (tmp_path / "log").read_text()


def asked(port: int, process: subprocess.Popen[bytes]) -> int:
    """The status of a GET, once systemd's tool listens."""
    while process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as reply:
                return int(reply.status)
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError):
                raise
            time.sleep(0.05)
    return 0

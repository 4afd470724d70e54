"""The systemd units, read by systemd's own tools, and against the program that they start."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from gateway.config.schema import GatewayConfig
from tests.support.chart import DEPLOY

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

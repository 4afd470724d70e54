"""A real Prometheus that scrapes a gateway, and the panels' queries as Grafana sends them."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "config/prometheus"
PROMETHEUS_YML, ALERTS_YML, RULES_YML = (PROMETHEUS / f"{name}.yml" for name in ("prometheus", "alerts", "rules"))
BOARDS = {
    file.stem: json.loads(file.read_text()) for file in sorted((ROOT / "config/grafana/dashboards").glob("*.json"))
}
RATE_INTERVAL = "5s"  # what Grafana would make of a scrape interval of 1 s, and one more
PATIENCE_S = 180.0


def tool(name: str) -> str:
    """The path of a tool of Debian's prometheus package."""
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"{name} is not installed; it is in Debian's package prometheus (apt-get install prometheus)")
    return path


def promtool(*arguments: str, text: str | None = None) -> None:
    """Run promtool, which must have nothing to complain about."""
    command = [tool("promtool"), *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr.strip(), done.stderr


@contextlib.contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, interrupted at the end, and killed with its group if it ignores that."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT, start_new_session=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@dataclass
class Prometheus:
    """A running Prometheus's HTTP API, and where it scrapes."""

    client: httpx.Client
    metrics_url: str
    since_s: float

    def ask(self, path: str, **parameters: Any) -> Any:
        answer = self.client.get(f"/api/v1/{path}", params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def instant(self, query: str) -> list[float]:
        """The values of all series of a query, now."""
        return [float(series["value"][1]) for series in self.ask("query", query=query)["result"]]

    def over_time(self, query: str) -> list[float]:
        """All values of a query since the beginning."""
        found = self.ask("query_range", query=query, start=self.since_s, end=time.time(), step="1s")
        return [float(value) for series in found["result"] for _, value in series["values"]]

    def shown(self, board: str, title: str, letter: str = "A") -> list[float]:
        """All numbers that a panel's query has shown since the beginning."""
        values = self.over_time(self.substituted(panel(board, title, letter)))
        return [value for value in values if math.isfinite(value)]

    def by(self, query: str, label: str) -> dict[str, list[float]]:
        """All numbers of each series since the beginning, by one of its labels."""
        found = self.ask("query_range", query=query, start=self.since_s, end=time.time(), step="1s")
        return {
            series["metric"].get(label, ""): [n for _, text in series["values"] if math.isfinite(n := float(text))]
            for series in found["result"]
        }

    def routes(self) -> list[str]:
        """The values of the dashboard's route variable."""
        names: list[str] = self.ask("label/route/values", **{"match[]": "gateway_canary_weight_ratio"})
        return names

    def substituted(self, expression: str) -> str:
        """A panel's expression with all routes chosen."""
        return expression.replace("$__rate_interval", RATE_INTERVAL).replace("$route", "|".join(self.routes()))


def panel(board: str, title: str, letter: str = "A") -> str:
    """The expression of one panel's target."""
    (found,) = (one for one in BOARDS[board]["panels"] if one["title"] == title)
    return next(str(target["expr"]) for target in found["targets"] if target["refId"] == letter)


def configured(folder: Path, admin_port: int) -> Path:
    """The shipped configuration with the target's port and the scrape interval changed."""
    text = PROMETHEUS_YML.read_text()
    for shipped, changed in (
        ('targets: ["127.0.0.1:9900"]', f'targets: ["127.0.0.1:{admin_port}"]'),
        ("scrape_interval: 5s", "scrape_interval: 1s"),
        ("evaluation_interval: 15s", "evaluation_interval: 1s"),
    ):
        assert text.count(shipped) == 1, f"{PROMETHEUS_YML} no longer says {shipped}"
        text = text.replace(shipped, changed)
    for file in (ALERTS_YML, RULES_YML):
        shutil.copy(file, folder)
    (folder / "prometheus.yml").write_text(text)
    return folder / "prometheus.yml"


@contextlib.contextmanager
def scraping(folder: Path, admin_port: int) -> Iterator[tuple[Prometheus, subprocess.Popen[bytes]]]:
    """A Prometheus that scrapes the admin listener on ``admin_port``."""
    port = free_port()
    command = [
        tool("prometheus"),
        f"--config.file={configured(folder, admin_port)}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
        "--enable-feature=exemplar-storage",
    ]
    with (
        running(command, folder / "prometheus.log") as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client,
    ):
        yield Prometheus(client, f"http://127.0.0.1:{admin_port}/metrics", time.time()), process


def wait_for(prometheus: Prometheus, query: str, processes: dict[Path, subprocess.Popen[bytes]]) -> None:
    """Until the query has a result. A process that ends meanwhile, or an end of patience, is a failure."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        for log, process in processes.items():
            assert process.poll() is None, f"{log.stem} ended with {process.returncode}:\n{tail(log)}"
        with contextlib.suppress(httpx.TransportError):  # it may not listen yet
            if prometheus.client.get("/-/ready").status_code == 200 and prometheus.instant(query):
                return
        time.sleep(0.25)
    reported = "\n".join(f"--- {log.name}\n{tail(log)}" for log in processes)
    pytest.fail(f"no result of {query} within {PATIENCE_S:g} s\n{reported}")


def tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-30:])


def failed(prometheus: Prometheus) -> dict[str, float]:
    shares = prometheus.by(
        prometheus.substituted(panel("canary-gateway-rollout", "Failed attempts by variant")), "variant"
    )
    return {variant: max(values, default=0.0) for variant, values in shares.items()}


def first_byte(prometheus: Prometheus) -> dict[str, float]:
    query = panel("canary-gateway-rollout", "First byte by variant")
    return {
        name: statistics.median(values)
        for name, values in prometheus.by(prometheus.substituted(query), "variant").items()
        if values
    }


def evidence_reached(prometheus: Prometheus) -> bool:
    """Whether the joint evidence that it is worse came below its line, on the panel."""
    title = "Evidence that the canary is worse"
    joint, needed = (prometheus.shown("canary-gateway-rollout", title, letter) for letter in "BC")
    return min(joint) <= min(needed) < 0.05


def least_probability(prometheus: Prometheus) -> dict[str, float]:
    """By metric: the smallest probability that the panel has shown of such evidence for a canary that is not worse."""
    query = panel("canary-gateway-rollout", "Evidence that the canary is worse")
    found = prometheus.by(prometheus.substituted(query), "metric")
    return {name: min(values) for name, values in found.items() if values}

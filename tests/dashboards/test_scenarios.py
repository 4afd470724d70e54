"""What the dashboards show in the demo's other scenarios: the phase, and the metric that the evidence is about.

Scenarios whose every panel is looked at are in test_queries.py.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.demo.scenarios import SCENARIOS
from tests.dashboards.scraper import (
    Prometheus,
    evidence_reached,
    failed,
    least_probability,
    running,
    scraping,
    tool,
    wait_for,
)
from tests.support.ports import free_port

OTHERS = ["flat", "crash", "hang", "wrong", "notfound", "login", "stream-error", "impatient"]
AT_ONCE = 3
# What must have been scraped before the panels are looked at: the end in three scrapes, so that they show it.
OVER = (
    'sum_over_time(gateway_rollout_phase{phase="ROLLED_BACK"}[1h]) >= 3'
    " and on (route) gateway_evidence_joint_probability"
)
UNDER_WAY = 'gateway_requests_total{variant="canary"} > 50 and on (route) gateway_evidence_joint_probability'


class Runs:
    """Demos with a Prometheus each, a few at a time: the next one begins when one is let go."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting = deque(OTHERS)
        self._open: dict[str, ExitStack] = {}
        self._running: dict[str, Prometheus] = {}
        self._logs: dict[str, dict[Path, object]] = {}
        for _ in range(AT_ONCE):
            self._start_next()

    def get(self, name: str) -> Prometheus:
        """The one that has seen the scenario as far as it is needed."""
        while name not in self._running:  # when tests are chosen by name
            self._start_next()
        wait_for(self._running[name], UNDER_WAY if SCENARIOS[name].cause is None else OVER, self._logs[name])  # type: ignore[arg-type]  # processes, by construction
        return self._running[name]

    def let_go(self, name: str) -> None:
        """End it."""
        self._running.pop(name)
        self._open.pop(name).close()
        self._start_next()

    def close(self) -> None:
        """End all."""
        self._waiting.clear()
        for name in list(self._running):
            self.let_go(name)

    def _start_next(self) -> None:
        if not self._waiting:
            return
        name, stack = self._waiting.popleft(), ExitStack()
        folder = self._folder / name
        folder.mkdir()
        port = free_port()
        arguments = ["--scenario", name, "--json", "--admin-port", str(port), "--keep-running-s", "3600"]
        prometheus, scraper = stack.enter_context(scraping(folder, port))
        command = [sys.executable, "-m", "gateway", "demo", *arguments]
        demo = stack.enter_context(running(command, folder / "demo.log"))
        self._open[name], self._running[name] = stack, prometheus
        self._logs[name] = {folder / "demo.log": demo, folder / "prometheus.log": scraper}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    tool("prometheus")
    found = Runs(tmp_path_factory.mktemp("scenarios"))
    yield found
    found.close()


@pytest.mark.parametrize("name", OTHERS)
def test_the_evidence_is_about_what_is_wrong(runs: Runs, name: str) -> None:
    scenario, prometheus = SCENARIOS[name], runs.get(name)
    phases = prometheus.shown("canary-gateway-rollout", "Phase")
    shares = failed(prometheus)
    assert shares.get("stable", 0.0) < 0.02
    if scenario.cause is None:
        assert 8.0 not in phases, "8: rolled back"
        assert not evidence_reached(prometheus)
    else:
        assert 8.0 in phases
        least = least_probability(prometheus)
        assert min(least, key=lambda metric: least[metric]) in {scenario.cause, *scenario.also}, least
        assert evidence_reached(prometheus)
    if scenario.cause == "errors":
        assert shares["canary"] > 0.05
    runs.let_go(name)

"""The dashboards against the real thing: running demos, a real Prometheus that scrapes them, every panel's query.

Prometheus runs on config/prometheus/prometheus.yml with another target port, another scrape interval and a storage of
its own. The panels' queries are sent as Grafana sends them: over a range, with the variables substituted. For each
scenario it is asserted what the panels show there.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "config/prometheus"
PROMETHEUS_YML, ALERTS_YML, RULES_YML = (PROMETHEUS / f"{name}.yml" for name in ("prometheus", "alerts", "rules"))
BOARDS = {
    file.stem: json.loads(file.read_text()) for file in sorted((ROOT / "config/grafana/dashboards").glob("*.json"))
}

RATE_INTERVAL = "5s"  # what Grafana would make of a scrape interval of 1 s, and one more
SCRAPES_MIN = 8
PATIENCE_S = 120.0
# What must have been scraped before the panels are looked at.
MILESTONES = {
    "errors": 'gateway_rollout_phase{phase="ROLLED_BACK"} == 1 and on (route) gateway_effect_difference',
    "slow": 'gateway_rollout_phase{phase="ROLLED_BACK"} == 1 and on (route) gateway_latency_quantile_seconds',
    "good": 'gateway_requests_total{variant="canary"} > 0 and on (route) gateway_effect_difference',
}

PANELS = [
    pytest.param(target["expr"], id=f"{name}-{panel['title']}-{target['refId']}")
    for name, board in BOARDS.items()
    for panel in board["panels"]
    for target in panel.get("targets", ())
]
ANNOTATIONS = [
    pytest.param(one["expr"], id=one["name"])
    for board in BOARDS.values()
    for one in board.get("annotations", {}).get("list", ())
    if "expr" in one
]
# What can be empty in every scenario: nothing was ejected, refused, or came from an instance that is not there.
MAY_BE_EMPTY = re.compile('ejections_total|wait for|queue_seconds|gateway_retries_total|result!=|metric="latency"')
MINUTE = re.findall(
    r"^\| [^|]*\? \| `((?:\\\\\||[^|`])+)` \|$", (ROOT / "docs/metrics.md").read_text(), flags=re.MULTILINE
)


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


@pytest.fixture(scope="module", params=list(MILESTONES))
def scenario(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def prometheus(scenario: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has seen a demo of the scenario, which is still running."""
    tool("prometheus")
    folder = tmp_path_factory.mktemp(scenario)
    admin_port = free_port()
    arguments = ["--scenario", scenario, "--json", "--admin-port", str(admin_port), "--keep-running-s", "3600"]
    with (
        scraping(folder, admin_port) as (prometheus, scraper),
        running([sys.executable, "-m", "gateway", "demo", *arguments], folder / "demo.log") as demo,
    ):
        processes = {folder / "demo.log": demo, folder / "prometheus.log": scraper}
        wait_for(prometheus, MILESTONES[scenario], processes)
        wait_for(prometheus, f'sum_over_time(up{{job="canary-gateway"}}[1h]) >= {SCRAPES_MIN}', processes)
        yield prometheus


@pytest.mark.parametrize("expression", PANELS)
def test_every_panel_has_data(prometheus: Prometheus, expression: str) -> None:
    query = prometheus.substituted(expression)
    assert "$" not in query, f"a variable is left in {query}"
    values = prometheus.over_time(query)  # and Prometheus accepts it
    if not MAY_BE_EMPTY.search(query):
        assert any(math.isfinite(value) for value in values), f"no data for {query}: {values[:20]}"


@pytest.mark.parametrize("expression", ANNOTATIONS)
def test_every_annotation_is_a_query(prometheus: Prometheus, expression: str) -> None:
    prometheus.over_time(prometheus.substituted(expression))


@pytest.mark.parametrize("expression", MINUTE)
def test_the_first_minute_has_an_answer(prometheus: Prometheus, expression: str) -> None:
    query = expression.replace("\\|", "|").replace("[1m]", f"[{RATE_INTERVAL}]").replace("[5m]", f"[{RATE_INTERVAL}]")
    assert prometheus.over_time(query), f"no data for {query}"


def test_the_recorded_series_are_there(prometheus: Prometheus) -> None:
    rules = [rule for group in yaml.safe_load(RULES_YML.read_text())["groups"] for rule in group["rules"]]
    for rule in rules:
        if "_rate1m" in rule["record"] or rule["record"].endswith(":rate1m"):
            assert prometheus.over_time(rule["record"]), rule["record"]


# what the panels show in each scenario


def failed(prometheus: Prometheus) -> dict[str, float]:
    shares = prometheus.by(
        prometheus.substituted(panel("canary-gateway-rollout", "Failed attempts by variant")), "variant"
    )
    return {variant: max(values, default=0.0) for variant, values in shares.items()}


def first_byte(prometheus: Prometheus) -> dict[str, float]:
    query = panel("canary-gateway-rollout", "First byte by variant")
    return {
        name: max(values) for name, values in prometheus.by(prometheus.substituted(query), "variant").items() if values
    }


def evidence_reached(prometheus: Prometheus) -> bool:
    """Whether the joint evidence that it is worse came below its line, on the panel."""
    title = "Evidence that the canary is worse"
    joint, needed = (prometheus.shown("canary-gateway-rollout", title, letter) for letter in "BC")
    return min(joint) <= min(needed) < 0.05


def errors_separate(prometheus: Prometheus) -> None:
    shares = failed(prometheus)
    assert shares["canary"] > 0.1 and shares.get("stable", 0.0) < 0.02
    assert evidence_reached(prometheus)
    high, estimate, low = (
        max(prometheus.shown("canary-gateway-rollout", "Effect on errors", letter)) for letter in "ABC"
    )
    assert high > estimate > low and estimate > 0.05
    assert sum(prometheus.shown("canary-gateway", "Rescues")) > 0
    assert max(prometheus.shown("canary-gateway", "Failed requests")) == 0


def latencies_separate(prometheus: Prometheus) -> None:
    shares, times = failed(prometheus), first_byte(prometheus)
    assert shares.get("canary", 0.0) < 0.02 and shares.get("stable", 0.0) < 0.02, "it answers, late"
    assert times["canary"] > 2 * times["stable"]
    assert evidence_reached(prometheus)
    query = panel("canary-gateway-rollout", "Evidence that the canary is worse")
    least = {
        name: min(values) for name, values in prometheus.by(prometheus.substituted(query), "metric").items() if values
    }
    assert min(least, key=lambda name: least[name]) == "latency"


def nothing_separates(prometheus: Prometheus) -> None:
    shares = failed(prometheus)
    assert max(shares.values()) < 0.02
    assert not evidence_reached(prometheus)
    assert max(prometheus.shown("canary-gateway", "Canary weight")) > 0


TRUTHS: dict[str, Callable[[Prometheus], None]] = {
    "errors": errors_separate,
    "slow": latencies_separate,
    "good": nothing_separates,
}


def test_the_panels_show_the_scenarios_truth(prometheus: Prometheus, scenario: str) -> None:
    TRUTHS[scenario](prometheus)
    phases = prometheus.shown("canary-gateway-rollout", "Phase")
    assert (8.0 in phases) == (scenario != "good"), "8: rolled back"


def test_the_route_variable_has_values(prometheus: Prometheus) -> None:
    assert prometheus.routes()


def test_the_numbers_agree_with_one_another(prometheus: Prometheus) -> None:
    """All families of a scrape come from one set of values."""
    tries = "sum by (route, variant) (gateway_upstream_tries_total)"
    for histogram in ("gateway_request_duration_seconds", "gateway_upstream_first_byte_seconds"):
        assert prometheus.over_time(f"{tries} - sum by (route, variant) ({histogram}_count)")
        assert set(prometheus.over_time(f"{tries} - sum by (route, variant) ({histogram}_count)")) == {0.0}
    assert set(prometheus.over_time("sum by (route) (gateway_rollout_phase)")) == {1.0}


def test_users_see_no_server_error_and_rescues_have_a_reason(prometheus: Prometheus, scenario: str) -> None:
    assert sum(prometheus.instant('gateway_requests_total{code=~"5.."}')) == 0
    failures = sum(prometheus.instant('gateway_upstream_tries_total{variant="canary", result="errors"}'))
    rescued = sum(prometheus.instant("gateway_rescues_total"))
    assert (failures > 0 and rescued > 0) == (scenario == "errors")


def test_exemplars_of_slow_buckets_and_failures_are_kept(prometheus: Prometheus, scenario: str) -> None:
    def traces(query: str) -> set[str]:
        found = prometheus.ask("query_exemplars", query=query, start=prometheus.since_s, end=time.time() + 60)
        return {one["labels"]["trace_id"] for series in found for one in series["exemplars"]}

    durations = traces("gateway_request_duration_seconds_bucket")
    assert durations and all(re.fullmatch("[0-9a-f]{32}", trace) for trace in durations)
    assert bool(traces('gateway_upstream_tries_total{result="errors"}')) == (scenario == "errors")


def test_promtool_accepts_the_live_metrics(prometheus: Prometheus) -> None:
    answer = httpx.get(prometheus.metrics_url, trust_env=False, timeout=10)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    promtool("check", "metrics", text=answer.text)


# the files, without a gateway


def test_promtool_accepts_the_files() -> None:
    promtool("check", "config", str(PROMETHEUS_YML))
    promtool("check", "rules", str(ALERTS_YML), str(RULES_YML))


def slo_series(requests: str, failures: str) -> dict[str, str]:
    """The series of one objective of 99.9 %."""
    labels = '{job="canary-gateway", route="r", slo="availability"}'
    objective = f"0.999x{requests.rpartition('x')[2]}"
    return {
        f"gateway_slo_requests_total{labels}": requests,
        f"gateway_slo_failures_total{labels}": failures,
        f"gateway_slo_objective_ratio{labels}": objective,
    }


# An alert, and series of one point every 15 s for half an hour that make it fire after five minutes.
FIRING = {
    "GatewayDown": {'up{job="canary-gateway"}': "0x120"},
    "GatewayNotReady": {"gateway_ready": "0x120"},
    "GatewayServerErrors": {
        'gateway_requests_total{route="r", code="200"}': "0+100x120",
        'gateway_requests_total{route="r", code="502"}': "0+5x120",
    },
    "GatewayRescuesDenied": {'gateway_rescues_denied_total{route="r"}': "0+1x120"},
    "GatewayEndpointDown": {'gateway_endpoint_up{backend="b"}': "0x120"},
    "GatewayBackendPanic": {'gateway_backend_panic{backend="b"}': "1x120"},
    "GatewayProbesBlind": {'gateway_probe_unknown_total{reason="descriptors"}': "0+3x120"},
    "CanaryRolledBack": {'gateway_rollout_phase{route="r", phase="ROLLED_BACK"}': "0x18 1x102"},
    "CanaryEvidenceRefused": {'gateway_verdicts_total{route="r", verdict="ERROR"}': "0+1x120"},
    "GatewayWorkersBehind": {"gateway_workers": "2x120", "gateway_workers_applied": "1x120"},
    "GatewayWorkersRestart": {"gateway_worker_starts_total": "1+1x120"},
    "GatewayEventLoopLag": {"gateway_event_loop_lag_seconds": "0.5x120"},
    "GatewayEndpointEjected": {
        'gateway_endpoint_ejections_total{backend="b", endpoint="e", reason="reset"}': "0+1x120"
    },
    "GatewayRetriesHigh": {
        'gateway_retries_total{route="r", reason="reset"}': "0+20x120",
        'gateway_upstream_tries_total{route="r", result="ok"}': "0+100x120",
    },
    "GatewayRetriesDenied": {'gateway_retries_denied_total{route="r", reason="budget"}': "0+2x120"},
    "GatewayStateNotKept": {"gateway_state_kept": "0x120"},
    "GatewaySpansLost": {'gateway_spans_total{result="failed"}': "0+5x120"},
    "GatewaySloBurnsFast": slo_series("0+100x120", "0+3x120"),
    "GatewaySloBurnsSlowly": slo_series("0+1000x120", "0+2x120"),
    "GatewayHookFails": {
        'gateway_hook_messages_total{hook="chat", result="dropped"}': "0+1x120",
        'gateway_hook_pending_messages{hook="chat"}': "1x120",
    },
}
QUIET = {
    'up{job="canary-gateway"}': "1x120",
    "gateway_ready": "1x120",
    'gateway_requests_total{route="r", code="200"}': "0+1000x120",
    'gateway_requests_total{route="r", code="502"}': "0+1x120",
    'gateway_rescues_denied_total{route="r"}': "0x120",
    'gateway_endpoint_up{backend="b"}': "1x120",
    'gateway_backend_panic{backend="b"}': "0x120",
    'gateway_probe_unknown_total{reason="late"}': "3x120",
    'gateway_rollout_phase{route="r", phase="ROLLED_BACK"}': "0x120",
    'gateway_verdicts_total{route="r", verdict="ERROR"}': "0x120",
    "gateway_workers": "2x120",
    "gateway_workers_applied": "2x120",
    "gateway_worker_starts_total": "2x120",
    "gateway_state_kept": "1x120",
    'gateway_endpoint_ejections_total{backend="b", endpoint="e", reason="reset"}': "1x120",
    'gateway_retries_total{route="r", reason="reset"}': "0+1x120",
    'gateway_upstream_tries_total{route="r", result="ok"}': "0+100x120",
    'gateway_retries_denied_total{route="r", reason="budget"}': "3x120",
    'gateway_spans_total{result="exported"}': "0+5x120",
    **slo_series("0+10000x120", "0+1x120"),
    "gateway_event_loop_lag_seconds": "0.002x120",
    'gateway_hook_messages_total{hook="chat", result="dropped"}': "1x120",
    'gateway_hook_pending_messages{hook="ci"}': "0 1 0 1 0 0 1x2 0x112",
}


def firing(series: dict[str, str], at: str, alerts: list[str]) -> dict[str, Any]:
    """One of promtool's rule tests: with the series given, just these alerts fire at that time."""
    return {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": at,
                "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in alerts],
            }
        ],
    }


def test_each_alert_fires_when_it_should_and_not_otherwise(tmp_path: Path) -> None:
    rules = [rule["alert"] for group in yaml.safe_load(ALERTS_YML.read_text())["groups"] for rule in group["rules"]]
    assert sorted(rules) == sorted(FIRING), "an alert without a test"
    # Those on burn rates wait longer: two minutes and fifteen. Windows that are not full yet give the same ratio.
    at = {"GatewaySloBurnsFast": "10m", "GatewaySloBurnsSlowly": "25m"}
    cases = [firing(series, at.get(alert, "6m"), [alert]) for alert, series in FIRING.items()]
    cases.append(firing(QUIET, "6m", []))
    cases.append(firing(FIRING["CanaryRolledBack"], "25m", []))
    document = {"rule_files": [str(RULES_YML), str(ALERTS_YML)], "evaluation_interval": "15s", "tests": cases}
    (tmp_path / "alerts_test.yml").write_text(yaml.safe_dump(document))
    promtool("test", "rules", str(tmp_path / "alerts_test.yml"))

"""The dashboards against the real thing: running demos, a real Prometheus that scrapes them, every panel's query.

Prometheus runs on config/prometheus/prometheus.yml with another target port, another scrape interval and a storage of
its own. The panels' queries are sent as Grafana sends them: over a range, with the variables substituted. For each
scenario it is asserted what the panels show there.
"""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.dashboards.scraper import (
    ALERTS_YML,
    BOARDS,
    PROMETHEUS_YML,
    RATE_INTERVAL,
    ROOT,
    RULES_YML,
    Prometheus,
    evidence_reached,
    failed,
    first_byte,
    least_probability,
    promtool,
    running,
    scraping,
    tool,
    wait_for,
)
from tests.support.ports import free_port

SCRAPES_MIN = 8
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
MAY_BE_EMPTY = re.compile(
    'ejections_total|gateway_tokens_total|wait for|queue_seconds|gateway_retries_total|result!=|metric="latency"'
)
MINUTE = re.findall(
    r"^\| [^|]*\? \| `((?:\\\\\||[^|`])+)` \|$", (ROOT / "docs/metrics.md").read_text(), flags=re.MULTILINE
)


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
        # For three seconds, so that a panel, which has a point a second, shows it.
        wait_for(prometheus, f"count_over_time(({MILESTONES[scenario]})[10s:1s]) >= 3", processes)
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
    assert times["canary"] > times["stable"], "the medians, over the whole time"
    assert evidence_reached(prometheus)
    least = least_probability(prometheus)
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

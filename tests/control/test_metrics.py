"""`/metrics` as Prometheus reads it: hand-built totals are rendered and parsed back."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard as GrafanaDashboard
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

import gateway
from gateway.admin.auth_failures import AuthFailures
from gateway.admin.connections import Connections
from gateway.admin.exposition import takes_openmetrics
from gateway.app.scrape import scrape
from gateway.control.api import ControlPlane, TrafficTotals
from gateway.control.show import mirror_metrics, traffic_metrics
from gateway.control.show.metrics import Scrape
from gateway.control.views import BackendView, BadMoments, EndpointView, ProbeCounts, Readiness, RolloutView, RouteView
from gateway.control.workers.exemplars import NewestExemplars
from gateway.control.workers.report_aggregator import ReportAggregator
from gateway.core.analysis.types import Analysis, Finding, Verdict
from gateway.core.errors import Blame
from gateway.core.model_version import ModelVersion
from gateway.core.objectives import Objectives
from gateway.core.rollout.types import Phase, Plan
from gateway.core.stats.histogram import bucket_of, size_class
from gateway.core.types import Variant
from gateway.hooks.counters import GateTotals, HookCounters, HookTotals
from gateway.proxy.exchange import retry
from gateway.proxy.heads import gateway_errors
from gateway.proxy.routes import route_mirror
from gateway.runtime.build import data_plane
from gateway.runtime.notices import Notice
from gateway.runtime.samples import Inspected
from gateway.runtime.wire import Exemplar, Report, RouteTotals
from tests.support.control import ManualClock
from tools.dashboards.__main__ import written

ROOT = Path(__file__).resolve().parents[2]
BOARDS = {file.name: json.loads(file.read_text()) for file in (ROOT / "config/grafana/dashboards").glob("*.json")}
ALERTS, RULES = ROOT / "config/prometheus/alerts.yml", ROOT / "config/prometheus/rules.yml"

HOOKS = HookCounters(
    {"chat": HookTotals(delivered=3, failed_attempts=2, dropped=1, pending=4), "ci": HookTotals()},
    {"load-test": GateTotals(passed=1, not_yet=5)},
)

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def route_view(name: str = "digits", **changes: Any) -> RouteView:
    view = RouteView(
        name=name,
        path_prefix="/",
        hosts=(),
        stable="v1",
        canary="v2",
        canary_percent=12.5,
        epoch=7,
        workers=2,
        workers_applied=1,
        endpoints=(
            EndpointView("v1", "http://a:1", healthy=True),
            EndpointView("v2", "http://b:1", healthy=False),
            EndpointView("v2", "http://c:1", healthy=None),
        ),
        rollout_id="r1",
        phase="PROGRESSING",
    )
    return dataclasses.replace(view, **changes)


def finding(metric: str, bad: float, ok: float, *, decides: bool = True) -> Finding:
    return Finding(metric, Verdict.UNDECIDED, "", decides, bad, ok, 5, 1000, 30, 100)


def analysis(verdict: Verdict = Verdict.UNDECIDED, findings: tuple[Finding, ...] = ()) -> Analysis:
    return Analysis(verdict, "", (), findings, 1.5, 4.6, 3.0, 1000, 100)


def rollout_view(found: Analysis | None, route: str = "digits") -> RolloutView:
    return RolloutView(
        id="r1",
        route=route,
        stable="v1",
        canary="v2",
        phase="PROGRESSING",
        step=2,
        steps=4,
        canary_percent=12.5,
        reason="",
        causes=(),
        by="someone",
        started_at="",
        updated_at="",
        plan=Plan(()),
        canary_requests=100,
        analysis=found,
    )


def report(boot: str = "a", seq: int = 1, totals: tuple[RouteTotals, ...] = (), **changes: Any) -> Report:
    base = Report(
        boot=boot,
        seq=seq,
        epoch=7,
        evidence=[],
        totals=list(totals),
        faults={},
        in_flight=0,
        connections=0,
        upstream_connections=0,
    )
    return replace(base, **changes)


@dataclass
class Plane:
    """A control plane that stands still: what `render` may read, with a real observer's totals."""

    notice: ClassVar[Notice] = Notice()
    table_source = "journal"
    state_kept = True

    aggregator: ReportAggregator = field(default_factory=ReportAggregator)
    views: list[RouteView] = field(default_factory=lambda: [route_view()])
    newest: dict[str, RolloutView] = field(default_factory=dict)
    verdicts: dict[tuple[str, str], int] = field(default_factory=dict)
    inspection: Inspected | None = None
    promised: dict[str, Objectives] = field(default_factory=lambda: {"digits": Objectives()})

    def traffic_later(self) -> Callable[[], TrafficTotals]:
        return self.aggregator.merged_later()

    def routes(self) -> list[RouteView]:
        return self.views

    def objectives(self) -> dict[str, Objectives]:
        return self.promised

    def rollouts(self, route: str | None = None, limit: int = 50, before: str | None = None) -> list[RolloutView]:
        assert limit == 1, "a scrape must not build a view of every rollout that ever was"
        return [self.newest[route]] if route in self.newest else []

    def inspected(self) -> tuple[Inspected | None, bool | None]:
        return self.inspection, None if self.inspection is None else True

    def verdict_counts(self) -> dict[tuple[str, str], int]:
        return self.verdicts

    def backends(self) -> list[BackendView]:
        return [BackendView("v1", (), ()), BackendView("v2", (), (), model=ModelVersion("digits", "2"))]

    def probes(self) -> ProbeCounts:
        return ProbeCounts({"descriptors": 4}, {"v1": False, "v2": True})

    def readiness(self) -> Readiness:
        return Readiness(ready=True, workers=2, reasons=())


def rendered(plane: Plane, accept: str = "") -> str:
    return _scrape(plane).render(openmetrics=takes_openmetrics(accept))[0].decode()


def _scrape(plane: Plane) -> Scrape:
    return scrape(cast(ControlPlane, plane), HOOKS, Connections(4), AuthFailures(ManualClock()))


def parsed(text: str, *, openmetrics: bool = False) -> Samples:
    families = parse_openmetrics(text) if openmetrics else parse_text(text)
    samples = [sample for family in families for sample in family.samples]
    out = {(s.name, frozenset(s.labels.items())): s.value for s in samples}
    assert len(out) == len(samples), "a series is given twice"
    return out


def scraped(plane: Plane) -> Samples:
    return parsed(rendered(plane))


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


def by_label(samples: Samples, name: str, label: str) -> dict[str, float]:
    return {dict(labels)[label]: n for (known, labels), n in samples.items() if known == name}


def busy() -> Plane:
    """Two workers with traffic, a rollout under way."""
    plane = Plane()
    stable = RouteTotals("digits", Variant.STABLE, answered={200: 90, 404: 2}, tries={"ok": 90, "client_errors": 2})
    canary = RouteTotals("digits", Variant.CANARY, answered={200: 8}, tries={"ok": 8, "errors": 3}, rescued=3)
    canary.rescues_refused, canary.forced = {"budget": 1}, 2
    for latency_us in (400, 700, 3_000_000):
        canary.duration[bucket_of(latency_us)] = 1
        canary.duration_us_sum += latency_us
    gauges = {"in_flight": 3, "connections": 5, "upstream_connections": 4, "loop_lag_us_max": 1500}
    plane.aggregator.arrived("a", 0, 0.0)
    plane.aggregator.arrived("b", 1, 0.0)
    plane.aggregator.take(report("a", 1, (stable, canary), faults={"no_route": 4}, aborted=6, **gauges), 0.0)
    plane.aggregator.take(report("b", 1, (stable,), loop_lag_us_max=250, in_flight=1), 0.0)
    plane.newest["digits"] = rollout_view(
        analysis(findings=(finding("errors", 2.0, -math.inf), finding("latency", math.nan, 0.5, decides=False)))
    )
    plane.verdicts = {("digits", "UNDECIDED"): 41, ("digits", "PASS"): 2}
    canary.samples = {"taken": 7, "dropped": 1, "header:fallback": 5}
    plane.inspection = Inspected(
        report("inspector", 1), {"digits": {"decoded": 6, "nan": 1}}, {"digits": {"click": {"matched": 3}}}, {}
    )
    return plane


def test_workers_counts_are_merged_and_labelled() -> None:
    samples = scraped(busy())
    assert value(samples, "gateway_requests_total", route="digits", variant="stable", code="200") == 180
    assert value(samples, "gateway_requests_total", route="digits", variant="canary", code="200") == 8
    assert value(samples, "gateway_upstream_tries_total", route="digits", variant="canary", result="errors") == 3
    assert value(samples, "gateway_rescues_total", route="digits") == 3
    assert value(samples, "gateway_rescues_denied_total", route="digits", reason="budget") == 1
    assert value(samples, "gateway_rescues_denied_total", route="digits", reason="no_time") == 0
    assert value(samples, "gateway_forced_requests_total", route="digits", variant="canary") == 2
    assert value(samples, "gateway_errors_total", reason="no_route") == 4
    assert value(samples, "gateway_aborted_requests_total") == 6
    assert value(samples, "gateway_in_flight_requests") == 4
    assert value(samples, "gateway_downstream_connections") == 5
    assert value(samples, "gateway_upstream_connections") == 4
    assert value(samples, "gateway_event_loop_lag_seconds") == 0.0015
    assert value(samples, "gateway_worker_starts_total") == 2
    assert value(samples, "gateway_rejected_reports_total") == 0


def test_what_answers_and_labels_came_to_is_reported() -> None:
    samples = scraped(busy())
    assert value(samples, "gateway_samples_total", route="digits", variant="canary", result="taken") == 7
    assert value(samples, "gateway_samples_total", route="digits", variant="stable", result="taken") == 0
    results = by_label(samples, "gateway_samples_total", "result")
    assert "header:fallback" not in results, "that a header came is no sample's end"
    assert value(samples, "gateway_inspected_answers_total", route="digits", result="nan") == 1
    assert value(samples, "gateway_labels_total", route="digits", event="click", result="matched") == 3
    assert value(samples, "gateway_inspector_up") == 1
    assert value(scraped(Plane()), "gateway_inspector_up") is None


def test_control_state_is_reported_in_base_units() -> None:
    samples = scraped(busy())
    assert value(samples, "gateway_canary_weight_ratio", route="digits") == 0.125
    assert value(samples, "gateway_rollout_step", route="digits") == 2
    assert value(samples, "gateway_table_epoch") == 7
    assert value(samples, "gateway_workers") == 2
    assert value(samples, "gateway_workers_applied") == 1
    assert value(samples, "gateway_ready") == 1
    assert value(samples, "gateway_build_info", version=gateway.__version__, data_plane=data_plane()) == 1
    assert by_label(samples, "gateway_endpoint_up", "endpoint") == {"http://a:1": 1, "http://b:1": 0}
    phases = by_label(samples, "gateway_rollout_phase", "phase")
    assert phases == {phase: float(phase == "PROGRESSING") for phase in Phase}


def test_an_endpoint_that_two_routes_share_is_one_series() -> None:
    samples = scraped(Plane(views=[route_view("a"), route_view("b")]))
    assert by_label(samples, "gateway_endpoint_up", "endpoint") == {"http://a:1": 1, "http://b:1": 0}


def test_known_series_exist_at_zero_before_the_first_report() -> None:
    samples = scraped(Plane())
    for variant in ("stable", "canary"):
        labels = {"route": "digits", "variant": variant}
        for result in traffic_metrics.RESULTS:
            assert value(samples, "gateway_upstream_tries_total", result=result, **labels) == 0
        assert value(samples, "gateway_request_duration_seconds_count", **labels) == 0
        assert value(samples, "gateway_request_duration_seconds_bucket", le="+Inf", **labels) == 0
    assert by_label(samples, "gateway_verdicts_total", "verdict") == dict.fromkeys(Verdict, 0.0)
    assert by_label(samples, "gateway_errors_total", "reason") == dict.fromkeys(traffic_metrics.REASONS, 0.0)
    assert value(samples, "gateway_rescues_total", route="digits") == 0
    assert value(samples, "gateway_rollout_step", route="digits") == 0


def test_the_reasons_are_those_of_the_data_plane() -> None:
    known = {fault.reason for fault in vars(gateway_errors).values() if isinstance(fault, gateway_errors.Fault)}
    assert sorted(traffic_metrics.REASONS) == sorted(known), (
        "traffic_metrics.REASONS must list every fault in proxy/gateway_errors.py once"
    )


def test_the_reasons_of_retries_and_rescues_are_those_of_the_data_plane() -> None:
    refusals = {value for name, value in vars(retry).items() if name.isupper() and isinstance(value, str)}
    assert set(traffic_metrics.RESCUE_REFUSALS) == refusals
    assert set(traffic_metrics.RETRY_REFUSALS) == refusals - {retry.NO_STABLE}
    known = [fault for fault in vars(gateway_errors).values() if isinstance(fault, gateway_errors.Fault)]
    # An answer that stalls has begun, and is over.
    retried = {fault.reason for fault in known if fault.blame is Blame.UPSTREAM} - {gateway_errors.IDLE_TIMEOUT.reason}
    assert set(traffic_metrics.RETRIED) == retried | {"status"}
    assert set(traffic_metrics.UNSERVED) == {fault.reason for fault in gateway_errors.OF_THE_GATEWAY}


def test_the_reasons_of_mirroring_are_those_of_the_data_plane() -> None:
    assert (mirror_metrics.SHED, mirror_metrics.NOT_JUDGED) == (route_mirror.SHED, route_mirror.NOT_JUDGED)


def test_what_became_of_messages_and_questions_is_reported() -> None:
    samples = scraped(busy())
    assert value(samples, "gateway_hook_messages_total", hook="chat", result="delivered") == 3
    assert value(samples, "gateway_hook_messages_total", hook="chat", result="dropped") == 1
    assert value(samples, "gateway_hook_messages_total", hook="ci", result="dropped") == 0
    assert value(samples, "gateway_hook_failed_attempts_total", hook="chat") == 2
    assert value(samples, "gateway_hook_pending_messages", hook="chat") == 4
    assert value(samples, "gateway_gate_answers_total", gate="load-test", answer="not_yet") == 5
    assert value(samples, "gateway_gate_answers_total", gate="load-test", answer="refused") == 0


def test_a_route_that_is_gone_keeps_its_counters() -> None:
    plane = busy()
    plane.views = [route_view("other")]
    samples = scraped(plane)
    assert value(samples, "gateway_requests_total", route="digits", variant="stable", code="200") == 180
    assert by_label(samples, "gateway_canary_weight_ratio", "route") == {"other": 0.125}


def test_evidence_is_finite_or_absent() -> None:
    samples = scraped(busy())
    labels = {"route": "digits", "metric": "errors"}
    assert value(samples, "gateway_evidence_log", test="bad", **labels) == 2.0
    assert value(samples, "gateway_evidence_log", test="ok", **labels) is None
    assert by_label(samples, "gateway_evidence_log", "test") == {"bad": 2.0, "ok": 0.5}
    assert by_label(samples, "gateway_evidence_needed_log", "test") == {"bad": 4.6, "ok": 3.0}
    assert by_label(samples, "gateway_evidence_joint_log", "test") == {"bad": 1.5}
    assert value(samples, "gateway_finding_ratio", variant="stable", **labels) == 0.005
    assert value(samples, "gateway_finding_ratio", variant="canary", **labels) == 0.3
    assert not any(math.isnan(n) for n in samples.values())


def test_the_joint_evidence_for_passing_is_the_least_of_the_deciding_metrics() -> None:
    plane = Plane()
    found = (finding("errors", 0.0, 2.5), finding("latency", 0.0, 1.25), finding("overload", 0.0, -9.0, decides=False))
    plane.newest["digits"] = rollout_view(analysis(findings=found))
    assert by_label(scraped(plane), "gateway_evidence_joint_log", "test") == {"bad": 1.5, "ok": 1.25}


@pytest.mark.parametrize("found", [None, analysis(Verdict.ERROR, (finding("evidence", 0.0, 0.0, decides=False),))])
def test_no_evidence_is_claimed_by_an_analysis_that_has_none(found: Analysis | None) -> None:
    plane = Plane()
    plane.newest["digits"] = rollout_view(found)
    names = {name for name, _ in scraped(plane)}
    assert "gateway_rollout_step" in names
    assert not {name for name in names if "evidence" in name or "finding" in name}


def counters(samples: Samples) -> Samples:
    return {key: n for key, n in samples.items() if key[0].endswith(("_total", "_bucket", "_count", "_sum"))}


def test_no_counter_goes_backwards_when_a_worker_restarts() -> None:
    plane = busy()
    before = counters(scraped(plane))
    plane.aggregator.gone("a")
    gone = counters(scraped(plane))
    plane.aggregator.arrived("c", 0, 2.0)
    plane.aggregator.take(report("c", 1, (RouteTotals("digits", Variant.STABLE, answered={200: 1}),)), 2.0)
    after = counters(scraped(plane))
    assert gone == before
    assert all(after[key] >= n for key, n in before.items())
    answered = ("gateway_requests_total", frozenset({"route": "digits", "variant": "stable", "code": "200"}.items()))
    assert after[answered] == before[answered] + 1


def test_a_histogram_leaves_with_conservative_bounds_and_an_exact_sum() -> None:
    samples = scraped(busy())
    labels = {"route": "digits", "variant": "canary"}
    name = "gateway_request_duration_seconds"
    counts = {le: value(samples, f"{name}_bucket", le=le, **labels) for le in ("0.0005", "0.001", "2.5", "5.0", "+Inf")}
    assert counts == {"0.0005": 1, "0.001": 2, "2.5": 2, "5.0": 3, "+Inf": 3}
    assert value(samples, f"{name}_count", **labels) == 3
    assert value(samples, f"{name}_sum", **labels) == pytest.approx(3.0011)


@given(st.lists(st.integers(0, 20_000_000) | st.sampled_from(traffic_metrics.BOUNDS_US) | st.integers(2**31, 2**40)))
def test_cumulative_is_monotone_complete_and_never_claims_a_request_was_faster(latencies_us: list[int]) -> None:
    histogram: dict[int, int] = {}
    for latency_us in latencies_us:
        histogram[bucket_of(latency_us)] = histogram.get(bucket_of(latency_us), 0) + 1
    series = traffic_metrics.cumulative(histogram)
    counts = [n for _, n in series]
    assert [le for le, _ in series] == [*(repr(us / 1e6) for us in traffic_metrics.BOUNDS_US), "+Inf"]
    assert counts == sorted(counts)
    assert counts[-1] == len(latencies_us)
    for us, n in zip(traffic_metrics.BOUNDS_US, counts, strict=False):
        assert sum(v * (1 + 1 / 32) < us for v in latencies_us) <= n <= sum(v <= us for v in latencies_us)


# What Prometheus 2 and 3 send when they scrape.
_PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
_PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ("Application/OpenMetrics-Text; Version=1.0.0", True),
        ("application/openmetrics-text; q=0, text/plain", False),
        ("application/openmetrics-text; version=0.0.1", False),
        ("application/openmetrics-text; version=nonsense\x80", False),
        (_PROMETHEUS_2, True),
        (_PROMETHEUS_3, True),
    ],
)
def test_the_format_is_openmetrics_for_those_who_take_it(accept: str, openmetrics: bool) -> None:
    body, content_type = _scrape(busy()).render(openmetrics=takes_openmetrics(accept))
    kind = "application/openmetrics-text; version=1.0.0;" if openmetrics else "text/plain; version=0.0.4;"
    assert content_type.startswith(kind)
    assert body.endswith(b"# EOF\n") == openmetrics


def test_both_formats_say_the_same() -> None:
    plane = busy()
    assert parsed(rendered(plane, "application/openmetrics-text"), openmetrics=True) == scraped(plane)


def test_the_same_values_render_to_the_same_bytes() -> None:
    assert rendered(busy()) == rendered(busy())


def test_label_values_survive_whatever_they_contain() -> None:
    url = 'http://x/"\\\n'
    plane = Plane(views=[route_view(endpoints=(EndpointView("v1", url, healthy=True),))])
    assert by_label(scraped(plane), "gateway_endpoint_up", "endpoint") == {url: 1}


def test_a_slow_bucket_and_a_failure_lead_to_a_trace() -> None:
    plane = busy()
    shown = [
        Exemplar("digits", Variant.CANARY, "errors", 3_000_000, "a" * 32, 100.5),
        Exemplar("digits", Variant.CANARY, "ok", 700, "b" * 32, 101.5),
        Exemplar("digits", Variant.CANARY, "ok", 690, "c" * 32, 102.5),
    ]
    plane.aggregator.take(report("a", 2, exemplars=shown), 0.0)
    families = {family.name: family for family in parse_openmetrics(rendered(plane, "application/openmetrics-text"))}
    found = {
        (sample.labels["variant"], sample.labels.get("le")): sample.exemplar
        for sample in families["gateway_request_duration_seconds"].samples
        if sample.exemplar is not None
    }
    assert set(found) == {("canary", "0.001"), ("canary", "5.0")}
    assert found["canary", "0.001"].labels == {"trace_id": "c" * 32}, "the newest of its bucket"
    assert (found["canary", "5.0"].value, float(found["canary", "5.0"].timestamp)) == (3.0, 100.5)
    failures = [s for s in families["gateway_upstream_tries"].samples if s.exemplar is not None]
    assert [(s.labels["result"], s.exemplar.labels) for s in failures] == [("errors", {"trace_id": "a" * 32})]
    assert "trace_id" not in rendered(plane), "the plain format knows no exemplars"


def test_exemplars_are_bounded_and_the_newest_stay() -> None:
    newest = NewestExemplars()
    many = 25_000
    for n in range(many):
        newest.take([Exemplar(f"r{n}", 0, "ok", 1000, "a" * 32, float(n))])
    kept = newest.all()
    assert len(kept) == 20_000 and kept[-1].at_s == many - 1


def test_sizes_and_queueing_are_histograms() -> None:
    plane = Plane()
    stable = RouteTotals("digits", Variant.STABLE)
    for size in (0, 256, 257, 5_000_000):
        stable.request_sizes[size_class(size)] = stable.request_sizes.get(size_class(size), 0) + 1
        stable.request_bytes_sum += size
    stable.queued, stable.queued_us_sum = {bucket_of(30_000): 2}, 60_000
    plane.aggregator.arrived("a", 0, 0.0)
    plane.aggregator.take(report("a", 1, (stable,)), 0.0)
    samples, labels = scraped(plane), {"route": "digits", "variant": "stable"}
    name = "gateway_request_size_bytes"
    counts = [value(samples, f"{name}_bucket", le=f"{le}.0", **labels) for le in (256, 4096, 1 << 20, 1 << 24)]
    assert counts == [2, 3, 3, 4] and value(samples, f"{name}_sum", **labels) == 5_000_513
    assert value(samples, "gateway_upstream_queue_seconds_count", **labels) == 2
    assert value(samples, "gateway_upstream_queue_seconds_sum", **labels) == 0.06
    assert value(samples, "gateway_response_size_bytes_count", **labels) == 0


def test_objectives_count_what_users_got() -> None:
    plane = busy()
    assert value(scraped(plane), "gateway_slo_requests_total", route="digits", slo="availability") == 192
    plane.promised = {"digits": Objectives(99.5, latency_ms=2.0, latency_percent=95.0)}
    canary = RouteTotals("digits", Variant.CANARY, answered={200: 1, 503: 3})
    canary.first_byte = {bucket_of(1_000): 7, bucket_of(2_500): 2}
    plane.aggregator.arrived("c", 2, 0.0)
    plane.aggregator.take(report("c", 1, (canary,)), 0.0)
    samples = scraped(plane)
    found = {
        slo: [
            value(samples, f"gateway_slo_{what}", route="digits", slo=slo)
            for what in ("requests_total", "failures_total", "objective_ratio")
        ]
        for slo in ("availability", "latency")
    }
    assert found == {"availability": [196, 3, 0.995], "latency": [9, 2, 0.95]}


def test_evidence_is_a_probability_beside_the_one_that_it_has_to_reach() -> None:
    samples = scraped(busy())
    joint = by_label(samples, "gateway_evidence_joint_probability", "test")
    assert joint == {"bad": pytest.approx(math.exp(-1.5)), "ok": 1.0}
    needed = by_label(samples, "gateway_evidence_needed_probability", "test")
    assert needed == {"bad": pytest.approx(0.01, rel=0.01), "ok": pytest.approx(0.05, rel=0.01)}
    errors = {"route": "digits", "metric": "errors"}
    assert value(samples, "gateway_evidence_probability", test="ok", **errors) == 1.0, "no evidence at all"


def test_effects_have_an_estimate_and_bounds() -> None:
    plane = Plane()
    details = {"difference": 0.25, "difference_low": 0.1, "ratio": 5.0, "ratio_low": 2.0, "ratio_high": math.inf}
    times = {"stable_p50_us": 2_000.0, "canary_p50_us": 9_000.0, "canary_p50_us_low": 8_000.0}
    found = (replace(finding("errors", 0, 0), details=details), replace(finding("latency", 0, 0), details=times))
    plane.newest["digits"] = rollout_view(analysis(findings=found))
    samples = scraped(plane)
    assert by_label(samples, "gateway_effect_difference", "bound") == {"low": 0.1, "estimate": 0.25}
    assert by_label(samples, "gateway_effect_ratio", "bound") == {"low": 2.0, "estimate": 5.0}
    quantiles = {
        (dict(labels)["variant"], dict(labels)["bound"]): n
        for (name, labels), n in samples.items()
        if name == "gateway_latency_quantile_seconds"
    }
    assert quantiles == {("stable", "estimate"): 0.002, ("canary", "low"): 0.008, ("canary", "estimate"): 0.009}


def test_no_traffic_makes_series_without_bound() -> None:
    """Labels are the configuration's or from fixed lists, whatever a backend answers."""
    plane = busy()
    before = len(scraped(plane))
    strange = RouteTotals("digits", Variant.STABLE, answered=dict.fromkeys(range(100, 600), 1))
    plane.aggregator.arrived("d", 3, 0.0)
    plane.aggregator.take(report("d", 1, (strange,)), 0.0)
    samples = scraped(plane)
    assert len(samples) - before < len(HTTPStatus) + 5
    assert value(samples, "gateway_requests_total", route="digits", variant="stable", code="5xx") == 100 - 11
    one_route = sum(dict(labels).get("route") == "digits" for _, labels in samples)
    assert one_route < 600, f"{one_route} series of one route"


# documents and dashboards speak of the metrics that exist


def families(plane: Plane) -> dict[str, str]:
    """Every family's name, as in queries, with its type."""
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", rendered(plane), flags=re.MULTILINE))


def names_in(expression: str) -> set[str]:
    """The families that a query reads."""
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"(?<![\w:])gateway_\w+", expression)}


def test_the_document_lists_every_metric_with_its_type() -> None:
    table = re.findall(
        r"^\| `((?:gateway|gen_ai)_\w+)` \| (\w+) \|", (ROOT / "docs/metrics.md").read_text(), flags=re.MULTILINE
    )
    assert dict(table) == families(busy())
    assert len(table) == len(dict(table))


def test_every_metric_has_a_help_text() -> None:
    helps = dict(re.findall(r"^# HELP (\S+) (.*)$", rendered(busy()), flags=re.MULTILINE))
    assert helps.keys() == families(busy()).keys()
    assert all(len(text) > 10 and text.endswith(".") for text in helps.values())


def test_alerts_and_panels_read_metrics_that_exist() -> None:
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    queries = [rule["expr"] for rule in rules] + [t["expr"] for p in panels() for t in p["targets"]]
    known = families(busy()).keys()
    assert {name for query in queries for name in names_in(query)} <= known
    assert all(rule["labels"]["severity"] in {"page", "ticket"} and rule["annotations"]["summary"] for rule in rules)


def panels() -> list[Mapping[str, Any]]:
    found = [panel for board in BOARDS.values() for panel in board["panels"]]
    return [panel for panel in found if panel["type"] != "row"]


def test_recording_rules_read_metrics_that_exist_and_alerts_lead_to_the_runbook() -> None:
    known = families(busy()).keys()
    recorded = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    assert {name for rule in recorded for name in names_in(rule["expr"])} <= known
    alerts = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    read = {name for rule in alerts for name in re.findall(r"\w+:gateway_\w+:\w+", rule["expr"])}
    assert read and read <= {rule["record"] for rule in recorded}
    sections = re.findall(r"^## (\w+)$", (ROOT / "docs/runbook.md").read_text(), flags=re.MULTILINE)
    assert sections == list(dict.fromkeys(sections)) and set(sections) == {rule["alert"] for rule in alerts}
    for rule in alerts:
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"


def test_the_dashboards_are_whole_and_what_their_builder_writes() -> None:
    assert written() == {name: json.dumps(board, indent=2, ensure_ascii=False) + "\n" for name, board in BOARDS.items()}
    assert len({board["uid"] for board in BOARDS.values()}) == len(BOARDS) == 3
    for name, board in BOARDS.items():
        # Grafana's own models read it, and lose nothing of it but what they write in another order.
        again = json.loads(json.dumps(GrafanaDashboard.from_json(board), cls=JSONEncoder))
        assert again == board, name
        everything = board["panels"]
        assert len({panel["id"] for panel in everything}) == len(everything)
        cells: set[tuple[int, int]] = set()
        for panel in everything:
            at = panel["gridPos"]
            mine = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert not mine & cells, f"{panel['title']!r} lies over another panel"
            assert at["x"] + at["w"] <= 24
            cells |= mine
    for panel in panels():
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        assert {panel["datasource"]["uid"], *(t["datasource"]["uid"] for t in panel["targets"])} == {"${datasource}"}


def test_stables_bad_moments_and_the_endpoints_that_fail_have_series_from_the_first_scrape_on() -> None:
    plane = busy()
    one = BadMoments("errors", 3600.0, 12.0, 12.0, 1.4, 2.3)
    plane.views = [route_view(stable_known_s=3600.0, bad_moments=(one,))]
    before = scraped(plane)
    moments = "gateway_stable_bad_moments"
    assert value(before, "gateway_stable_known_seconds", route="digits") == 3600.0
    assert value(before, moments, route="digits", metric="errors") == 12.0
    assert value(before, moments, route="digits", metric="overload") == 0.0
    assert value(before, "gateway_stable_bad_moment_longest_seconds", route="digits", metric="errors") == 2.3
    failures = "gateway_endpoint_failures_total"
    assert by_label(before, failures, "endpoint") == {"http://a:1": 0.0, "http://b:1": 0.0, "http://c:1": 0.0}
    failed = RouteTotals("digits", Variant.CANARY, failed_at={"http://b:1": {"errors": 3, "no_content": 9}})
    for boot in ("x", "y"):
        plane.aggregator.take(report(boot, totals=(failed,)), 1.0)
    assert value(scraped(plane), failures, route="digits", variant="canary", endpoint="http://b:1") == 6.0

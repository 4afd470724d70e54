"""The configuration becomes the core's values, and its defaults are the core's own."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gateway.config.build import analysis_spec, plan, routing_table
from gateway.config.core_values import core_value
from gateway.config.errors import ConfigError
from gateway.config.load import load
from gateway.config.schema import GatewayConfig
from gateway.config.shape import keys
from gateway.config.texts import TextsConfig
from gateway.config.watching import needs_inspector, watched
from gateway.core.analysis.spec import ROUTE_DEFAULT
from gateway.core.analysis.types import (
    EventSpec,
    GuardrailSpec,
    LatencySpec,
    MetricShares,
    Mode,
    RateSpec,
    Unit,
    Worse,
)
from gateway.core.predictions.events import WatchSettings
from gateway.core.predictions.settings import RouteWatch
from gateway.core.predictions.text_events import TextSettings
from gateway.core.rollout.types import OnDeadline, Plan, Step
from gateway.core.traffic.router import Router
from gateway.core.traffic.table import (
    Backend,
    Endpoint,
    Mark,
    Rescue,
    Route,
    RoutingTable,
    Sticky,
    Tap,
    Timeouts,
)
from gateway.runtime.settings import AccessLogSettings, HeaderPolicy

MINIMAL = """\
backends:
  v1: {endpoints: [http://h]}
  v2: {endpoints: [https://h, "http://[::1]:8002"]}
routes:
  - name: model
    match: {path_prefix: /}
    stable: v1
    canary: v2
"""
TAP = Tap(failures_per_s=50.0, modest=True)
UNREAD = EventSpec("unread", Mode.ADVISE)
TEXTS = TextsConfig().events()
FAULTS = tuple(EventSpec(name, Mode.AUTO, margin_delta=0.02, share=0.005) for name in ("unreadable", "nan", "empty"))
CLASSES = tuple(
    EventSpec(
        name,
        Mode.AUTO,
        Worse.DIFFERENT,
        tolerance_delta=0.25,
        margin_ratio=1.0,
        margin_delta=0.35,
        share=0.03 / 11,
        group="answers",
    )
    for name in (*(f"class_{index}" for index in range(10)), "class_other")
)
LOW = EventSpec("low_confidence", Mode.ADVISE, Worse.HIGHER, 1.5, 0.05, 2.0, 0.1, 0.005)
PREDICTIONS = (*FAULTS, *CLASSES, LOW)
FAILURES = EventSpec("model_errors", Mode.AUTO, guarded=True)
DEFAULT = msgspec.structs.replace(ROUTE_DEFAULT, events=(*PREDICTIONS, FAILURES, UNREAD, *TEXTS))
NO_PREDICTIONS = ("null", "{mode: off}", "{mode: 'off'}", "{mode: false}")


def config_of(directory: Path, text: str) -> GatewayConfig:
    path = directory / "gateway.yaml"
    path.write_text(text)
    return load(path, environ={})


def test_defaults_are_those_of_the_core(tmp_path: Path) -> None:
    config = config_of(tmp_path, MINIMAL)
    assert routing_table(config) == RoutingTable(
        epoch=1,
        routes=(Route(name="model", path_prefix="/", stable="v1", canary="v2", salt="model", tap=TAP),),
        backends={
            "v1": Backend("v1", (Endpoint("h", 80),)),
            "v2": Backend("v2", (Endpoint("h", 443, tls=True), Endpoint("::1", 8002))),
        },
    )
    assert analysis_spec(config.routes[0]) == DEFAULT
    assert plan(config.routes[0]) == Plan(tuple(Step(weight_bp) for weight_bp in (100, 500, 2500, 5000)))


def test_partial_sections_keep_the_cores_other_defaults(tmp_path: Path) -> None:
    analysis = "{errors: {mode: advise}, client_errors: {margin_ratio: 2}, overload: {}, latency: {slice_s: 2}}"
    config = config_of(tmp_path, f"{MINIMAL}    analysis: {analysis}\n    timeouts: {{idle_s: 5}}\n")
    assert analysis_spec(config.routes[0]) == msgspec.structs.replace(
        DEFAULT,
        errors=RateSpec(mode=Mode.ADVISE),
        client_errors=RateSpec(margin_ratio=2.0),
        latency=LatencySpec(slice_s=2.0),
    )
    assert routing_table(config).route("model").timeouts == Timeouts(idle_s=5.0)


def test_every_key_of_the_analysis_arrives(tmp_path: Path) -> None:
    analysis = (
        "{alpha_sample_ratio: 0.001, burst_s: 0, overload: {mode: off}, latency: {slo_ms: [50, 200.5]},"
        " duration: {mode: advise}, model_errors: {mode: advise, margin_delta: 0.05, share: 0.5, samples_per_s_max: 7},"
        " events: [{name: clicked, header: X-Clicked, mode: advise, worse: different,"
        " tolerance_ratio: 1.1, tolerance_delta: 0.02, margin_ratio: 2, margin_delta: 0.1, share: 0.5,"
        " unit: slice, slice_s: 2}],"
        " guardrails: [{metric: nan, limit: 0.01}, {metric: latency, limit: 0.02, threshold_ms: 1.5, share: 1}],"
        " shares: {errors: 0.25}}"
    )
    config = config_of(tmp_path, f"{MINIMAL}    analysis: {analysis}\n")
    assert analysis_spec(config.routes[0]) == msgspec.structs.replace(
        DEFAULT,
        alpha_sample_ratio=0.001,
        burst_s=0.0,
        learn_bursts=False,
        overload=RateSpec(mode=Mode.OFF),
        latency=LatencySpec(slo_us=(50_000, 200_500)),
        duration=LatencySpec(mode=Mode.ADVISE),
        events=(
            EventSpec("clicked", Mode.ADVISE, Worse.DIFFERENT, 1.1, 0.02, 2.0, 0.1, 0.5, Unit.SLICE, 2.0),
            *PREDICTIONS,
            EventSpec("model_errors", Mode.ADVISE, margin_delta=0.05, share=0.5, guarded=True),
            UNREAD,
            *TEXTS,
        ),
        guardrails=(GuardrailSpec("nan", 0.01), GuardrailSpec("latency", 0.02, 1_500, share=1.0)),
        shares=MetricShares(errors=0.25),
    )
    assert routing_table(config).route("model").tap == Tap(
        marks=(Mark("clicked", "x-clicked"),), failures_per_s=7, modest=True
    )


def test_an_event_with_bounds_is_a_mean(tmp_path: Path) -> None:
    events = (
        "[{name: cost, header: X-Cost, bounds: [0, 0.5], margin_ratio: 1.2, margin_delta: 0},"
        " {name: score, trial: label, bounds: [1, 5], worse: lower}, {name: mean_ms, of: latency, bounds: [0, 2000]}]"
    )
    config = config_of(tmp_path, f"{MINIMAL}    analysis: {{predictions: null, events: {events}}}\n")
    cost, score, mean_ms, *_ = analysis_spec(config.routes[0]).events
    assert cost == EventSpec("cost", margin_ratio=1.2, margin_delta=0.0, bounds=(0.0, 0.5))
    assert (score.bounds, score.worse, mean_ms.of) == ((1.0, 5.0), Worse.LOWER, "latency")
    tap = routing_table(config).route("model").tap
    assert tap is not None and tap.ids and tap.marks == (Mark("cost", "x-cost", None, (0.0, 0.5)),)
    labels = watched(config)["model"].labels
    assert labels is not None and labels.bounds == {"score": (1.0, 5.0)}


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ("header: X, bounds: [2, 1]", "bounds are two rising numbers; write them as"),
        ("header: X, bounds: [-1, 1]", "values that may be negative have no ratio"),
        ("header: X, bounds: [0, 1], header_value: a", "with bounds the header's text is the number"),
        ("trial: request, bounds: [0, 1]", "a value is one of a labelled request"),
        ("of: latency", "of needs bounds"),
        ("of: latency, header: X, bounds: [0, 1]", "of has no other source"),
    ],
)
def test_what_a_mean_cannot_have_is_said(tmp_path: Path, event: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config_of(tmp_path, f"{MINIMAL}    analysis: {{events: [{{name: x, {event}}}]}}\n")


@pytest.mark.parametrize("predictions", NO_PREDICTIONS)
def test_predictions_are_read_unless_they_are_switched_off(tmp_path: Path, predictions: str) -> None:
    off = config_of(tmp_path, f"{MINIMAL}    analysis: {{predictions: {predictions}}}\n")
    assert analysis_spec(off.routes[0]).events == (FAILURES, UNREAD, *TEXTS)
    assert routing_table(off).route("model").tap == Tap(share=0.0, failures_per_s=50.0)
    assert watched(off) == {"model": RouteWatch(failures=True, texts=TextSettings())}


def test_a_section_of_predictions_asks_for_them(tmp_path: Path) -> None:
    """What cannot be compared holds promotion then, and the others' part of alpha is what it was."""
    asked = config_of(tmp_path, f"{MINIMAL}    analysis: {{predictions: {{}}}}\n")
    events = {event.name: event for event in analysis_spec(asked.routes[0]).events}
    assert {events[name].mode for name in ("nan", "class_0")} == {Mode.DECIDE}
    assert (events["nan"].share, events["class_0"].share) == (0.05, 0.25 / 11)
    assert routing_table(asked).route("model").tap == Tap(failures_per_s=50.0)
    auto = config_of(tmp_path, f"{MINIMAL}    analysis: {{predictions: {{mode: auto}}}}\n")
    assert analysis_spec(auto.routes[0]) == DEFAULT, "as if nothing were said"


def test_rare_events_are_proven_by_as_many_answers_as_errors(tmp_path: Path) -> None:
    config = config_of(tmp_path, f"{MINIMAL}    analysis: {{errors: {{margin_delta: 0.1}}}}\n")
    events = {event.name: event for event in analysis_spec(config.routes[0]).events}
    assert events["nan"].margin_delta == events["model_errors"].margin_delta == 0.1


def test_an_event_from_a_header_is_not_read_from_answers(tmp_path: Path) -> None:
    config = config_of(tmp_path, f"{MINIMAL}    analysis: {{events: [{{name: empty, header: x-empty}}]}}\n")
    watch = watched(config)["model"].watch
    assert watch is not None and watch.reported == ("empty",)
    assert [event.mode for event in analysis_spec(config.routes[0]).events if event.name == "empty"] == [Mode.DECIDE]


def test_there_is_room_for_every_event_that_may_be_configured(tmp_path: Path) -> None:
    events = ", ".join(f"{{name: e{index}, header: x-{index}}}" for index in range(32))
    limits = ", ".join(f"{{metric: e{index}, limit: 0.1}}" for index in range(32))
    analysis = f"{{events: [{events}], guardrails: [{limits}], predictions: {{classes_max: 24}}}}"
    spec = analysis_spec(config_of(tmp_path, f"{MINIMAL}    analysis: {analysis}\n").routes[0])
    assert len(spec.guardrails) == 32 and len(spec.events) == 32 + 3 + 25 + 1 + 2 + len(TEXTS)


def test_without_model_errors_no_answer_is_read(tmp_path: Path) -> None:
    off = "{model_errors: {mode: off}, predictions: null}"
    config = config_of(tmp_path, f"{MINIMAL}    analysis: {off}\n")
    assert analysis_spec(config.routes[0]) == ROUTE_DEFAULT
    assert routing_table(config).route("model").tap is None
    assert watched(config) == {} and not needs_inspector(config)
    watch, unfolded = WatchSettings(surely=True), 8 * 256 * 1024
    by_default = RouteWatch(watch=watch, failures=True, decoded_bytes_max=unfolded, texts=TextSettings())
    assert watched(config_of(tmp_path, MINIMAL)) == {"model": by_default}
    assert needs_inspector(config_of(tmp_path, MINIMAL.replace("    canary: v2\n", ""))), "a canary may come later"


def test_the_split_is_not_checked_where_sessions_stick(tmp_path: Path) -> None:
    config = config_of(tmp_path, f"{MINIMAL}    sticky: {{header: X-User}}\n")
    assert analysis_spec(config.routes[0]).alpha_sample_ratio == 0.0


def test_every_value_arrives_in_its_unit(tmp_path: Path) -> None:
    text = MINIMAL.replace("{path_prefix: /}", "{path_prefix: /v2/, hosts: [A.example, '[::1]']}") + (
        "    canary_percent: 0.29\n"
        "    forced_variant_header: X-Variant\n"
        "    sticky: {cookie: Session}\n"
        "    rescue: {replayable: false, body_bytes_max: 0, file_bytes_max: 5, budget_percent: 12.5, budget_burst: 3}\n"
        "    analysis: {latency: {tolerance_ms: 0.25, margin_ms: 7, quantiles: [0.9]}}\n"
        "    plan: {steps: [{percent: 0.07, min_time_s: 0, min_requests: 7}, {percent: 99}], deadline_s: 9, "
        "on_deadline: rollback}\n"
    )
    config = config_of(tmp_path, text)
    table = routing_table(config, epoch=9)
    assert table.epoch == 9
    assert table.route("model") == Route(
        name="model",
        path_prefix="/v2/",
        stable="v1",
        canary="v2",
        weight_bp=29,
        hosts=("a.example", "[::1]"),
        forced_header="x-variant",
        sticky=Sticky(cookie="Session"),
        salt="model",
        rescue=Rescue(replayable=False, body_bytes_max=0, file_bytes_max=5, budget_percent=12.5, budget_burst=3),
        tap=TAP,
    )
    assert Router(table).match(b"A.EXAMPLE:8080", b"/v2/x") == table.route("model")
    assert analysis_spec(config.routes[0]).latency == LatencySpec(tolerance_us=250, margin_us=7000, quantiles=(0.9,))
    steps = (Step(7, min_time_s=0.0, min_requests=7), Step(9_900))
    assert plan(config.routes[0]) == Plan(steps, 9.0, OnDeadline.ROLLBACK)


def test_what_is_said_of_exchanges_arrives(tmp_path: Path) -> None:
    text = MINIMAL + (
        "    upgrades: [WebSocket, raw]\n    on_half_close: abort\n    stream_requests: true\n"
        "    timeouts: {try_s: 2, tunnel_idle_s: 9}\n"
        "headers: {via: null, forwarded: true, underscores: drop, request_id: X-Id, traceparent: pass}\n"
        "access_log: {path: log/access, sample: 0.5}\n"
    )
    config = config_of(tmp_path, text)
    route = routing_table(config).route("model")
    assert route.streams_requests
    assert (route.upgrades, route.half_close_s) == (("websocket", "raw"), 0.0)
    assert route.timeouts == Timeouts(try_s=2.0, tunnel_idle_s=9.0)
    assert core_value(config.headers, HeaderPolicy) == HeaderPolicy(None, True, "drop", "x-id", "pass")
    assert core_value(config.access_log, AccessLogSettings) == AccessLogSettings(str(tmp_path / "log/access"), 0.5)


def test_the_defaults_of_a_worker_are_those_of_the_file(tmp_path: Path) -> None:
    config = config_of(tmp_path, MINIMAL)
    assert core_value(config.headers, HeaderPolicy) == HeaderPolicy()
    assert core_value(config.access_log, AccessLogSettings) == AccessLogSettings()


@pytest.mark.parametrize("text", ["client", "endpoint", "model.example", "model.example:8443", "'[::1]:80'", "'[::1]'"])
def test_a_host_header_is_a_word_or_a_host(tmp_path: Path, text: str) -> None:
    changed = MINIMAL.replace("  v1: {", f"  v1: {{host_header: {text}, ")
    assert changed != MINIMAL
    assert routing_table(config_of(tmp_path, changed)).backends["v1"].host_header == text.strip("'")


@pytest.mark.parametrize("percent", [0, 0.01, 0.07, 0.29, 1.13, 33.33, 57.89, 99.99, 100])
def test_percents_become_exact_basis_points(tmp_path: Path, percent: float) -> None:
    config = config_of(tmp_path, f"{MINIMAL}    canary_percent: {percent}\n")
    assert routing_table(config).route("model").weight_bp == int(f"{percent:.2f}".replace(".", ""))


def test_the_admin_and_data_defaults_do_not_collide() -> None:
    defaults = {name: default for name, _, default in keys(GatewayConfig)}
    assert (defaults["listen"], defaults["admin.listen"]) == ("127.0.0.1:8080", "127.0.0.1:9900")

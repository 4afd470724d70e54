"""Sections and the core's values have the same fields, but for those that are named here: none is forgotten."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from gateway.config.core_values import core_value, section_tree
from gateway.config.plan import PlanConfig, StepConfig, WindowConfig
from gateway.config.schema import GatewayConfig
from gateway.config.section import Section
from gateway.config.shape import keys
from gateway.core.rollout.types import Plan, Step, Window

# By section: keys that become no field of that name, and fields that no key of that name fills.
OTHERWISE = {
    "StepConfig": ({"percent"}, {"weight_bp"}),
    "WindowConfig": ({"opens", "closes"}, {"from_minute", "until_minute"}),
    "PlanConfig": ({"bake_holdout_percent"}, {"bake_holdout_bp"}),
    "BackendTlsConfig": ({"ca_file", "cert_file", "key_file"}, {"ca", "certificate", "key"}),
    "RouteConfig": (
        {"match", "canary_percent", "forced_variant_header", "on_half_close", "stream_requests", "analysis", "plan"}
        | {"slo", "protocol"},
        {
            *("path_prefix", "hosts", "weight_bp", "forced_header", "half_close_s", "streams_requests"),
            *("exempt_statuses", "salt", "tap", "external"),
        },
    ),
    "AnalysisConfig": (
        {"interval_s", "exempt_statuses", "model_errors", "predictions", "data_checks", "texts", "labels"},
        {"bake_share", "learn_bursts", "sticky"},
    ),
    "TracingConfig": ({"endpoint", "headers_env", "service_name"}, set()),
    "BackendConfig": ({"probe", "model"}, {"name", "guard"}),
    "TimeoutsConfig": ({"profile"}, set()),
    "LatencyConfig": ({"tolerance_ms", "margin_ms", "slo_ms"}, {"tolerance_us", "margin_us", "slo_us"}),
    "DurationConfig": ({"tolerance_ms", "margin_ms", "slo_ms"}, {"tolerance_us", "margin_us", "slo_us"}),
    "StreamConfig": ({"tolerance_ms", "margin_ms", "slo_ms"}, {"tolerance_us", "margin_us", "slo_us"}),
    "ModelErrorsConfig": (
        {"samples_per_s_max"},
        {"name", "worse", "unit", "slice_s", "group", "guarded", "bounds", "of"},
    ),
    "EventConfig": ({"header", "header_value", "trial"}, {"group", "guarded"}),
    "MirrorConfig": ({"percent"}, {"share_bp"}),
    "MirrorStepConfig": ({"percent"}, {"share_bp"}),
    "GuardrailConfig": ({"threshold_ms"}, {"threshold_us"}),
}


def sections() -> Iterator[type[Section]]:
    found = {}
    for _, outer, _ in keys(GatewayConfig):
        shape = outer
        while shape.kind in (list, dict):
            shape = shape.child(0) or shape
        if shape.fields and issubclass(shape.kind, Section) and shape.kind.core is not None:
            found[shape.kind.__name__] = shape.kind
    yield from found.values()


SECTIONS = list(sections())


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_a_section_has_the_fields_of_its_core_value(section: type[Section]) -> None:
    assert section.core is not None
    names, fields = set(section.model_fields), set(section.core.__struct_fields__)
    assert (names - fields, fields - names) == OTHERWISE.get(section.__name__, (set(), set()))


def test_the_table_names_no_other_section() -> None:
    assert set(OTHERWISE) <= {section.__name__ for section in SECTIONS} and len(SECTIONS) > 12


def test_the_defaults_of_a_section_are_those_of_the_core() -> None:
    for section in SECTIONS:
        if any(field.is_required() for field in section.model_fields.values()):
            continue
        if section.__name__ in ("PlanConfig", "AnalysisConfig"):
            continue
        assert section.core is not None
        if all(field.required is False for field in msgspec.structs.fields(section.core)):
            default = {"DurationConfig": {"mode": "off"}, "StreamConfig": {"mode": "auto"}}.get(section.__name__, {})
            assert core_value(section(), section.core) == msgspec.convert(default, section.core), section


@pytest.mark.parametrize(
    ("section", "value"),
    [
        (StepConfig, Step(1)),
        (StepConfig, Step(9_999, 5.5, 7, gate="manual")),
        (WindowConfig, Window((0, 4), 540, 1020)),
        (WindowConfig, Window((6,))),
        (PlanConfig, Plan((Step(100), Step(250)), windows=(Window((1,), 5, 9),), bake_holdout_bp=33)),
    ],
)
def test_the_way_back_is_the_way_there(section: type[Section], value: msgspec.Struct) -> None:
    assert core_value(section.model_validate(section_tree(section, value)), type(value)) == value

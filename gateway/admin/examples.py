"""One day in the life of a rollout, as the examples of the API's description: real values, so that they stay valid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway import __version__
from gateway.admin import request_schemas, schemas
from gateway.admin.configuring import Change, Source
from gateway.admin.problems import Problem, problem
from gateway.admin.response_bodies import plan_tree
from gateway.config.backends import BackendConfig
from gateway.config.core_values import core_value
from gateway.config.plan import PlanConfig
from gateway.config.routes import RouteConfig
from gateway.config.schema import GatewayConfig
from gateway.control.journal.rows import AuditEntry
from gateway.control.views import (
    AlarmView,
    BackendView,
    ControlEvent,
    DataResult,
    DecisionView,
    EndpointView,
    FindingNumbers,
    LatencyDistributions,
    MetricSeries,
    Readiness,
    RolloutDataResults,
    RolloutSeries,
    RouteView,
    WorkerView,
)
from gateway.core.analysis.types import Verdict
from gateway.core.rollout.types import Plan

_ROLLOUT_ID = "digits-7c1e9a42"
_PLAN: Mapping[str, Any] = {
    "steps": [
        {"percent": 1.0, "min_time_s": 10.0, "min_requests": 50},
        {"percent": 12.5, "min_time_s": 10.0, "min_requests": 50},
        {"percent": 50.0, "min_time_s": 20.0, "min_requests": 100},
    ],
    "deadline_s": 3600.0,
}
_REASON = "step 1/3 (1 %) passed: errors, client_errors, overload and latency are proven not worse"

ROUTE = RouteView(
    name="digits",
    path_prefix="/v2/models/digits",
    hosts=(),
    stable="digits-v1",
    canary="digits-v2",
    canary_percent=12.5,
    epoch=7,
    workers=2,
    workers_applied=2,
    endpoints=(
        EndpointView("digits-v1", "http://127.0.0.1:8001", True),
        EndpointView("digits-v2", "http://127.0.0.1:8002", True),
    ),
    rollout_id=_ROLLOUT_ID,
    phase="PROGRESSING",
)
DECISION = DecisionView(
    seq=2,
    revision=2,
    at="2026-11-23T09:00:10.000Z",
    after_s=10.2,
    event="Analysed",
    by="automation",
    automatic=True,
    phase_before="PROGRESSING",
    phase="PROGRESSING",
    step="2/3",
    canary_percent_before=1.0,
    canary_percent=12.5,
    reason=_REASON,
    causes=(),
    canary_requests=412,
    verdict="PASS",
    numbers=(FindingNumbers("errors", "PASS", "not worse", True, 1, 3120, 0, 412, -0.7, 3.4),),
)
FINDING = schemas.FindingBody(
    metric="errors",
    verdict=Verdict.UNDECIDED,
    reason="canary errors 0.00% (0 of 412) against stable 0.03% (1 of 3120): not yet shown to be good enough",
    decides=True,
    log_e_bad=-0.7,
    log_e_ok=2.4,
    stable_events=1,
    stable_trials=3120,
    canary_events=0,
    canary_trials=412,
    details={"log_e_bad_needed": 5.99, "log_e_ok_needed": 3.0},
)
ROLLOUT = schemas.RolloutBody(
    id=_ROLLOUT_ID,
    route="digits",
    stable="digits-v1",
    canary="digits-v2",
    phase="PROGRESSING",
    step=2,
    steps=3,
    canary_percent=12.5,
    reason=_REASON,
    causes=(),
    by="automation",
    started_at="2026-11-23T09:00:00.000Z",
    updated_at="2026-11-23T09:00:14.310Z",
    plan=plan_tree(core_value(PlanConfig.model_validate(_PLAN), Plan)),
    canary_requests=412,
    revision=3,
    analysis=schemas.AnalysisBody(
        verdict=Verdict.UNDECIDED,
        reason=FINDING.reason,
        causes=("errors",),
        findings=(FINDING,),
        log_e_bad=-0.7,
        log_e_bad_needed=5.99,
        log_e_ok_needed=3.0,
        stable_requests=3120,
        canary_requests=412,
    ),
)
BACKEND = BackendView("digits-v2", (EndpointView("digits-v2", "http://127.0.0.1:8002", True),), ("digits",))
CHANGE = Change(
    changed=("backends.digits-v3",),
    backends_added=("digits-v3",),
    backends_removed=(),
    routes_added=(),
    routes_removed=(),
)
AUDIT = AuditEntry(
    id=41,
    at="2026-11-23T09:00:14.310Z",
    principal="ci",
    actor="ada via ci",
    address="10.1.2.3",
    method="POST",
    path=f"/api/v1/rollouts/{_ROLLOUT_ID}/abort",
    status=200,
    said="the label service was down",
)
EVENT = ControlEvent(
    18, "2026-11-23T09:00:14.310Z", "weight", "digits", _ROLLOUT_ID, {"canary_percent": 12.5, "epoch": 7}, "5f3a9c1b-18"
)

# By the type of the body that they are an example of.
BY_TYPE: Mapping[Any, Any] = {
    RouteView: ROUTE,
    Readiness: Readiness(ready=False, workers=1, reasons=("1 of 2 workers are connected",)),
    ControlEvent: EVENT,
    Problem: problem(
        "conflict",
        f"cannot resume: rollout {_ROLLOUT_ID} on route digits is PROGRESSING ({_REASON});"
        " allowed now: pause, set-weight, promote, abort",
        f"/api/v1/rollouts/{_ROLLOUT_ID}/resume",
    ),
    BackendView: BACKEND,
    Change: CHANGE,
    Source: Source("api", "/etc/gateway/gateway.yaml", '"6f1ed002ab559585"', "ada via ci", "2026-11-23T08:59:00.000Z"),
    schemas.BackendList: schemas.BackendList((BACKEND,)),
    schemas.WorkerList: schemas.WorkerList((WorkerView(0, 4711, 7, 3, 12, 0.021),)),
    schemas.AlarmList: schemas.AlarmList(
        (
            AlarmView(
                "disk", "the disk of the state directory does not answer: no canary gets more traffic until it does"
            ),
        )
    ),
    schemas.AuditList: schemas.AuditList((AUDIT,)),
    schemas.RouteList: schemas.RouteList((ROUTE,), 1),
    schemas.RolloutBody: ROLLOUT,
    schemas.RolloutList: schemas.RolloutList((ROLLOUT,)),
    schemas.GatewayState: schemas.GatewayState(
        ready=True,
        reasons=(),
        warnings=(),
        state_kept=True,
        table_source="journal",
        version=__version__,
        hooks=(schemas.HookState("slack", 0, 12, 0, 1),),
    ),
    RolloutDataResults: RolloutDataResults(
        _ROLLOUT_ID,
        (
            DataResult(
                "2026-01-01T00:00:00.000Z",
                "canary",
                success=False,
                failures=("expect_column_values_to_be_in_set(column=response.label): 3 of 25 rows",),
                result={"success": False},
            ),
        ),
    ),
    RolloutSeries: RolloutSeries(
        _ROLLOUT_ID,
        1.0,
        (1767225600.0, 1767225601.0),
        (12.5, 12.5),
        (0.2, 0.4),
        (
            MetricSeries(
                *("errors", "share", (0.1, 0.3), (1.2, 1.6)),
                *((0.001, 0.002), (-0.01, -0.008), (0.012, 0.011), (None, None), (0.01, 0.01)),
            ),
        ),
    ),
    LatencyDistributions: LatencyDistributions(
        _ROLLOUT_ID, (1792, 2048, 2304, 2560), (0, 1203, 212, 0), (0, 171, 31, 0)
    ),
    schemas.StoryBody: schemas.StoryBody(_ROLLOUT_ID, (DECISION,)),
    schemas.LabelsTaken: schemas.LabelsTaken(2),
    schemas.WebhookTaken: schemas.WebhookTaken(accepted=True),
    schemas.Health: schemas.Health(alive=True),
}

_BACKEND_TREE: Mapping[str, Any] = {"endpoints": ["http://127.0.0.1:8003"], "queue_max": 256}
_ROUTE_TREE: Mapping[str, Any] = {
    "name": "digits",
    "match": {"path_prefix": "/v2/models/digits"},
    "stable": "digits-v1",
    "canary": "digits-v2",
    "plan": {"steps": [{"percent": 1}, {"percent": 25, "min_requests": 1000}], "on_deadline": "rollback"},
}
# By the section of the configuration, or the request's body, that they are an example of.
SECTIONS: Mapping[Any, Mapping[str, Any]] = {
    request_schemas.WeightRequest: {"canary_percent": 12.5},
    request_schemas.StartRequest: {"plan": _PLAN, "reason": "nightly build 1187"},
    request_schemas.ActionRequest: {"reason": "the label service was down"},
    request_schemas.PromoteRequest: {"reason": "the evidence of last night is enough", "next_step": True},
    request_schemas.LabelsRequest: {
        "events": [
            {"request_id": "0f7c1d52", "name": "click"},
            {"request_id": "b80a", "name": "right", "value": False},
        ]
    },
    BackendConfig: _BACKEND_TREE,
    RouteConfig: _ROUTE_TREE,
    GatewayConfig: {
        "listen": "127.0.0.1:8080",
        "backends": {
            "digits-v1": {"endpoints": ["http://127.0.0.1:8001"]},
            "digits-v2": {"endpoints": ["http://127.0.0.1:8002"]},
        },
        "routes": [_ROUTE_TREE],
    },
}

"""One day in the life of a rollout, as the examples of the API's description: real values, so that they stay valid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.admin import bodies
from gateway.admin.problems import Problem, problem
from gateway.control.views import ControlEvent, EndpointView, Readiness, RouteView
from gateway.core.analysis.types import Verdict

_ROLLOUT_ID = "digits-7c1e9a42"
_STEPS = ((1.0, 10.0, 50), (12.5, 10.0, 50), (50.0, 20.0, 100))
_REASON = "step 1/3 (1.00%) passed: errors, client_errors, overload and latency are proven not worse"

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
FINDING = bodies.FindingBody(
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
ROLLOUT = bodies.RolloutBody(
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
    plan=bodies.PlanBody(tuple(bodies.StepBody(*step) for step in _STEPS), deadline_s=3600.0),
    canary_requests=412,
    analysis=bodies.AnalysisBody(
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
EVENT = ControlEvent(
    18, "2026-11-23T09:00:14.310Z", "weight", "digits", _ROLLOUT_ID, {"canary_percent": 12.5, "epoch": 7}
)
PLAN_WISH = bodies.PlanWish(tuple(bodies.StepWish(*step) for step in _STEPS), deadline_s=3600.0)

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
    bodies.RouteList: bodies.RouteList((ROUTE,)),
    bodies.RolloutBody: ROLLOUT,
    bodies.RolloutList: bodies.RolloutList((ROLLOUT,)),
    bodies.WeightWish: bodies.WeightWish(12.5),
    bodies.StartWish: bodies.StartWish(PLAN_WISH, "nightly build 1187"),
    bodies.VerbWish: bodies.VerbWish("the label service was down"),
    bodies.Health: bodies.Health(alive=True),
}

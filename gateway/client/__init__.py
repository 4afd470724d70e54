"""A client of the gateway's admin API for programs, pipelines and notebooks. It needs httpx, and nothing else.

from gateway.client import Client

with Client("http://127.0.0.1:9900", token) as client:
    rollout = client.start_rollout("digits", idempotency_key="build-1234")
    rollout = client.wait(rollout, timeout_s=3600, on_event=lambda now: print(now.phase, now.reason))
    assert rollout.promoted, rollout.reason
"""

from __future__ import annotations

from gateway.api_types import (
    AnalysisBody,
    ControlEvent,
    DecisionView,
    EndpointView,
    FindingBody,
    Readiness,
    RolloutBody,
    RolloutList,
    RouteView,
    StoryBody,
)
from gateway.client.aio import AsyncClient
from gateway.client.errors import (
    ApiError,
    ChangedMeanwhileError,
    ForbiddenError,
    GatewayFailedError,
    InvalidRequestError,
    RefusedError,
    TooManyRequestsError,
    UnauthorizedError,
    UnexpectedAnswerError,
    UnknownNameError,
    UnreachableError,
    WaitTimeoutError,
    one_line,
)
from gateway.client.sync import Client
from gateway.client.wire import DEFAULT_URL
from gateway.core.model_version import ModelVersion

__all__ = [
    "DEFAULT_URL",
    "AnalysisBody",
    "ApiError",
    "AsyncClient",
    "ChangedMeanwhileError",
    "Client",
    "ControlEvent",
    "DecisionView",
    "EndpointView",
    "FindingBody",
    "ForbiddenError",
    "GatewayFailedError",
    "InvalidRequestError",
    "ModelVersion",
    "Readiness",
    "RefusedError",
    "RolloutBody",
    "RolloutList",
    "RouteView",
    "StoryBody",
    "TooManyRequestsError",
    "UnauthorizedError",
    "UnexpectedAnswerError",
    "UnknownNameError",
    "UnreachableError",
    "WaitTimeoutError",
    "one_line",
]

"""What sources see of a gateway with one route, whose rollouts end when a test says so."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from gateway.control.views import RolloutView
from gateway.core.model_version import ModelVersion
from gateway.core.rollout.types import Plan, Step


class RouteGateway:
    """A gateway with one route, whose rollouts end when the test says so. It outlives the sources."""

    def __init__(self) -> None:
        self.views: list[RolloutView] = []
        self.stable = ModelVersion("digits", "1", "models:/digits/1")
        self.refuses = True
        self.told: list[tuple[str, str]] = []
        self.released: list[str] = []

    def rollouts(self, route: str) -> Sequence[RolloutView]:
        return self.views[::-1]

    def report_link(self, rollout_id: str) -> str:
        return f"http://gateway/api/v1/rollouts/{rollout_id}/report"

    def plan_refuses(self, route: str) -> bool:
        return self.refuses

    def backend_name(self, route: str, model: ModelVersion) -> str:
        return f"{route}-{model.version}"

    def serving(self, route: str) -> ModelVersion | None:
        return self.stable

    def configured(self, backend: str) -> bool:
        active = {view.canary for view in self.views if view.phase == "PROGRESSING"}
        return backend in active | {f"digits-{self.stable.version}"}

    async def start(
        self, route: str, model: ModelVersion, endpoints: Sequence[str], *, by: str, retry: bool, reason: str
    ) -> RolloutView:
        known = [view for view in self.views if view.model == model]
        if known and known[-1].phase == "PROGRESSING":
            return known[-1]
        assert retry or not known, "a version is not tried twice by itself"
        if self.views and self.views[-1].phase == "PROGRESSING":
            self.end("WITHDRAWN")
        count = len(self.views) + 1
        plan = Plan((Step(5000),))
        texts: dict[str, Any] = dict.fromkeys(("reason", "by", "started_at"), "")
        view = RolloutView(
            **texts,
            id=f"digits-{count}",
            route=route,
            stable="stable",
            canary=f"digits-{model.version}",
            phase="PROGRESSING",
            step=1,
            steps=1,
            canary_percent=50.0,
            causes=(),
            updated_at=f"2026-01-01T00:00:{count:02}",
            plan=plan,
            canary_requests=0,
            analysis=None,
            model=model,
        )
        self.views.append(view)
        return view

    async def release(self, route: str, backend: str) -> bool:
        self.released.append(backend)
        return True

    def tell(self, route: str, state: str, version: str, reason: str) -> None:
        self.told.append((state, version))

    def end(self, phase: str) -> None:
        self.views[-1] = ended = dataclasses.replace(self.views[-1], phase=phase, reason=f"it was {phase}")
        if phase == "PROMOTED" and ended.model is not None:
            self.stable = ended.model

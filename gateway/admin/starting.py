"""Starting a rollout of a version that no file names: its backend is configured, becomes the canary, and is rolled out.

Rules:

1. One call, and repeating it changes nothing: a version whose rollout is under way, or was promoted, is answered with
   that rollout. The same version at other endpoints, or with another digest, is another thing and is refused.
2. A version's backend has the settings of the route's stable one but for endpoints and model. Its name is the route's
   and the version's; a backend that already says that it serves the version is used instead.
3. When the start is refused, the configuration is as before.
4. The configuration follows promotions: the route's stable backend is the one promoted last, and a backend that this
   module made is dropped when no route needs it any more.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from typing import Any

from gateway.admin.configuring import Configuring
from gateway.config.backends import BackendConfig
from gateway.config.plain import plain
from gateway.config.schema import GatewayConfig
from gateway.control.api import ControlPlane
from gateway.control.views import RolloutView
from gateway.core.errors import ConflictError
from gateway.core.model_version import ModelVersion
from gateway.core.rollout.types import Phase, Plan

_NAME_CHARS_MAX = 63
_OTHER_CHARS = re.compile(r"[^A-Za-z0-9._-]+")


class VersionStarts:
    """Starts versions, one at a time."""

    def __init__(self, control: ControlPlane, configuring: Configuring) -> None:
        self._control = control
        self._configuring = configuring
        self._turn = asyncio.Lock()

    async def start(
        self,
        route: str,
        model: ModelVersion,
        endpoints: Sequence[str],
        by: str,
        plan: Plan | None = None,
        *,
        retry: bool = False,
        reason: str = "",
    ) -> tuple[RolloutView, bool]:
        """The rollout of this version, and whether it was started just now. Raises as a start does (`control.api`)."""
        async with self._turn:
            self._control.route(route)
            name = backend_name(self._configuring.config, route, model)
            known = self._known(route, name, model, endpoints)
            if known is not None:
                return known, False
            self._refuse_second_try(route, name, retry)
            before = plain(self._configuring.config)
            await self._configuring.edit(
                lambda tree: self._name_canary(tree, route, name, model, endpoints), by, expect=lambda: None
            )
            named = self._configuring.config
            try:
                started = await self._control.commands.start(route, by, plan, retry=retry, reason=reason)
            except BaseException:
                if self._configuring.config is named:
                    await self._configuring.replace(before, by, expect=lambda: None)
                raise
            return started, True

    async def withdraw_canary(self, route: str, name: str, by: str) -> None:
        """Take an ended canary out of the configuration, and its backend when no other route names it."""

        def edit(tree: dict[str, Any]) -> None:
            section = next(one for one in tree["routes"] if one["name"] == route)
            if section.get("canary") == name:
                del section["canary"]
            if name not in {one.get(role) for one in tree["routes"] for role in ("stable", "canary")}:
                tree["backends"].pop(name, None)

        async with self._turn:
            await self._configuring.edit(edit, by, expect=lambda: None)

    def _known(self, route: str, name: str, model: ModelVersion, endpoints: Sequence[str]) -> RolloutView | None:
        """The rollout of this version that is under way or was promoted (rule 1)."""
        view = self._control.route(route)
        latest = next(iter(self._control.rollouts(route, limit=1)), None)
        phase = None if latest is None else Phase(latest.phase)
        under_way = view.canary == name and phase is not None and phase.active
        if not under_way and view.stable != name:
            return None
        backend = self._configuring.config.backends[name]
        said = backend.model
        if {one.url for one in backend.endpoints} != set(endpoints) or (
            said is not None and model.digest and said.digest != model.digest
        ):
            raise ConflictError(
                f"version {model.version} is on route {route} already, at other endpoints or with another digest:"
                " give what is different another version, or end its rollout first"
            )
        if latest is None or latest.canary != name:
            raise ConflictError(f"version {model.version} is the stable version of route {route} already")
        return latest

    def _refuse_second_try(self, route: str, name: str, retry: bool) -> None:
        """As the start itself does, but before a rollout under way makes room for it."""
        of_version = (view for view in self._control.rollouts(route, limit=50) if view.canary == name)
        last = next((view for view in of_version if view.phase != Phase.WITHDRAWN), None)
        if last is not None and last.phase == Phase.ROLLED_BACK and not retry:
            raise ConflictError(
                f"{name} was rolled back on route {route} ({last.reason});"
                " ask for a retry (--retry) to try the same version again"
            )

    def _name_canary(
        self, tree: dict[str, Any], route: str, name: str, model: ModelVersion, endpoints: Sequence[str]
    ) -> None:
        """Make the version the route's canary in the configuration's tree."""
        config, view = self._configuring.config, self._control.route(route)
        section = next(one for one in tree["routes"] if one["name"] == route)
        left = {section.get("stable"), section.get("canary")} - {None}
        if view.stable is not None and not Phase(view.phase).active:
            section["stable"] = view.stable
        like = config.backends.get(view.stable or "")
        tree["backends"][name] = (
            _settings(like)
            | {"endpoints": list(endpoints)}
            | {"model": {key: value for key, value in vars(model).items() if value}}
        )
        section["canary"] = name
        needed = {one.get(role) for one in tree["routes"] for role in ("stable", "canary")}
        for backend in left - needed:
            said = config.backends[backend].model
            if said is not None and backend == _made_name(route, said.version):
                del tree["backends"][backend]


def backend_name(config: GatewayConfig, route: str, model: ModelVersion) -> str:
    """The backend that serves this version on this route: one that says so, or the name for a new one."""
    section = next(one for one in config.routes if one.name == route)
    others = {name for one in config.routes if one.name != route for name in (one.stable, one.canary)}
    for name, backend in config.backends.items():
        said = backend.model
        ours = name in (section.stable, section.canary) or name not in others
        same_model = said is not None and (said.name or model.name) == (model.name or said.name)
        if ours and said is not None and same_model and said.version == model.version:
            return name
    made = _made_name(route, model.version)
    if made in config.backends:
        raise ConflictError(f"backend {made} exists and does not say that it serves version {model.version}")
    return made


def _made_name(route: str, version: str) -> str:
    """The name of a backend for a version: readable, and different for different versions.

    >>> _made_name("digits", "7"), _made_name("digits", "2026/11 a")
    ('digits-7', 'digits-2026-11-a-341c35')
    """
    plain_version = _OTHER_CHARS.sub("-", version).strip("-._") or "version"
    name = f"{route}-{plain_version}"
    if plain_version == version and len(name) <= _NAME_CHARS_MAX:
        return name
    return f"{name[: _NAME_CHARS_MAX - 7]}-{hashlib.sha256(version.encode()).hexdigest()[:6]}"


def _settings(like: BackendConfig | None) -> dict[str, Any]:
    return {} if like is None else {key: value for key, value in plain(like).items() if key != "model"}

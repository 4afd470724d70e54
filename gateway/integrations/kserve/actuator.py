"""Applies a rollout's weight to an InferenceService, again and again until it is so.

Rules:

1. What is wanted is read from the control plane at each step, and what is there from the API: a step that was missed,
   a crash or a change by someone else is made good by the next one.
2. KServe splits in whole percents: a weight in between is applied as the percent below, and said.
3. The split counts as in force from when the service says so, and `settle_s` later; until then, and while it cannot be
   read, nothing is counted.
4. A version that is not ready gets nothing: KServe would send it requests all the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from gateway.config.actuators import KserveConfig
from gateway.config.files import write_whole
from gateway.control.decide.external import ExternalSplit
from gateway.core.rollout.types import Phase
from gateway.integrations.errors import ExternalError
from gateway.integrations.kserve.inference_service import (
    PROMOTED,
    ROLLED_BACK,
    Memory,
    Seen,
    SplitChange,
    WantedSplit,
    change,
    read,
)
from gateway.integrations.kserve.kubernetes import InferenceServices
from gateway.integrations.prometheus.counting import Splits
from gateway.runtime.clock import Clock

_log = logging.getLogger("gateway.actuators")
NAME = "actuators.json"
_CONFLICTS_MAX = 5
_ENDS = {Phase.PROMOTED: PROMOTED, Phase.ROLLED_BACK: ROLLED_BACK, Phase.WITHDRAWN: ROLLED_BACK}


class Memories:
    """What was applied last on each route, in the state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / NAME
        try:
            self._known = msgspec.json.decode(self._path.read_bytes(), type=dict[str, Memory])
        except (OSError, msgspec.DecodeError):
            self._known = {}

    def of(self, route: str) -> Memory:
        """What was applied last on this route."""
        return self._known.get(route, Memory())

    async def put(self, route: str, memory: Memory) -> None:
        """Keep it. Raises OSError."""
        known = self._known | {route: memory}
        await asyncio.to_thread(write_whole, self._path, msgspec.json.encode(known))
        self._known = known


class KserveActuator:
    """One route's InferenceService. ``tell`` is told what was applied."""

    def __init__(
        self,
        route: str,
        config: KserveConfig,
        memories: Memories,
        clock: Clock,
        tell: Callable[[str], None],
    ) -> None:
        self._route = route
        self._config = config
        self._memories = memories
        self._clock = clock
        self._tell = tell
        self._services = InferenceServices(config)
        self.splits = Splits()
        # What the split in force is about; how the service was seen last, and when.
        self._about: tuple[str, int, int] | None = None
        self.seen: Seen | None = None
        self.confirmed_s = 0.0
        self._waits_since_s: float | None = None

    async def close(self) -> None:
        """Close its connections."""
        await self._services.close()

    async def step(self, split: ExternalSplit) -> str:
        """Make the split as wanted; returns what keeps it from being in force. Raises ExternalError, OSError."""
        wanted = _wanted(split)
        if wanted is None:
            self._end(self._clock.wall_s())
            return ""
        try:
            seen = await self._apply(wanted, split)
        except ExternalError:
            # It may have been changed at any moment since it was read last.
            self._end(self.confirmed_s)
            raise
        self.seen = seen
        return self._in_force(seen, wanted, split)

    async def _apply(self, wanted: WantedSplit, split: ExternalSplit) -> Seen:
        for _ in range(_CONFLICTS_MAX):
            service = await self._services.get()
            seen = read(service, self._config.mode)
            held = wanted if seen.ready or not wanted.percent else wanted._replace(percent=0)
            memory = self._memories.of(self._route)
            todo = change(service, seen, held, memory, self._config.mode)
            if todo.patch is None:
                await self._remember(todo, memory)
                return seen
            if not held.end:
                await self._remember(todo, memory)
            # Somebody else may have changed it since it was read last; from now on it changes for certain.
            as_we_left_it = self._about == (wanted.rollout, seen.percent, split.first_epoch)
            self._end(self._clock.wall_s() if as_we_left_it else self.confirmed_s)
            patched = await self._services.patch(todo.patch)
            if patched is not None:
                await self._remember(todo, memory)
                self._said(held)
                return read(patched, self._config.mode)
        raise ExternalError("the InferenceService is changed by others all the time: every patch came too late")

    async def _remember(self, todo: SplitChange, memory: Memory) -> None:
        if todo.memory != memory:
            await self._memories.put(self._route, todo.memory)

    def _said(self, wanted: WantedSplit) -> None:
        where = f"InferenceService {self._config.namespace}/{self._config.name}"
        what = {PROMOTED: "the canary was promoted", ROLLED_BACK: "the canary gets nothing any more"}.get(
            wanted.end, f"the canary gets {wanted.percent} %"
        )
        _log.warning("route %s: %s: %s", self._route, where, what)
        self._tell(f"{where}: {what}")

    def _in_force(self, seen: Seen, wanted: WantedSplit, split: ExternalSplit) -> str:
        """Note since when the split is in force; returns why it is not."""
        now_s = self._clock.wall_s()
        if wanted.end:
            self._end(now_s)
            return ""
        if not seen.ready:
            self._end(self.confirmed_s)
            return f"the canary {seen.canary} is not ready: it gets no requests"
        if seen.served != wanted.percent:
            self._end(self.confirmed_s)
            if self._waits_since_s is None:
                self._waits_since_s = now_s
            waits_s = now_s - self._waits_since_s
            has = "nothing is said of it" if seen.served is None else f"it serves {seen.served} %"
            late = waits_s > 6 * self._config.interval_s
            return f"KServe was told {wanted.percent} % for the canary {waits_s:.0f} s ago, and {has}" if late else ""
        self._waits_since_s = None
        about = wanted.rollout, wanted.percent, split.first_epoch
        if about != self._about:
            self._end(now_s)
            self.splits.begin(split.epoch, 100 * wanted.percent, now_s + self._config.settle_s)
            self._about = about
        self.confirmed_s = now_s
        return ""

    def _end(self, at_s: float) -> None:
        self.splits.end(at_s)
        self._about = None


def _wanted(split: ExternalSplit) -> WantedSplit | None:
    """What the rollout wants of the InferenceService; None without one."""
    if split.phase in _ENDS:
        return WantedSplit(split.rollout_id, 0, _ENDS[split.phase])
    if not split.phase.active:
        return None
    return WantedSplit(split.rollout_id, split.weight_bp // 100)

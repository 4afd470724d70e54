"""Active health: each endpoint is probed on a schedule; ``rise`` good answers make it up, ``fall`` bad ones down.

Rules:

1. An endpoint starts as up, so that a gateway without an answer yet does not refuse traffic; its first answers settle
   it.
2. A probe whose outcome is unknown (probe.py, rule 1) changes nothing: it neither counts for an endpoint nor against it
   nor interrupts a streak. It is counted by its reason and logged when it begins and ends.
3. Probes run on a thread and an event loop of their own, so that the control plane's work (scrapes, decisions, large
   configurations) does not delay them. What delays them all the same (the GIL, a stopped process, a starved machine) is
   measured: a probe that got no answer while its loop was late is unknown.
4. An endpoint that is down is *refused* or *silent* by its latest probe. Workers weigh the two differently
   (proxy/backends.py), so a change from one to the other is passed on like a turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
from collections.abc import Callable, Mapping

from gateway.config.backends import BackendConfig, ProbeConfig
from gateway.config.core_values import core_value
from gateway.control.health.probe import REASONS, EndpointProbe, ProbeOutcome, ProbeResult, Target
from gateway.core.traffic.table import Backend, BackendTls, Endpoint
from gateway.runtime.clock import Clock, SystemClock

_log = logging.getLogger("gateway.control")
# How often the probes' loop looks how late it is.
_LAG_LOOK_S = 0.05
# Probes that began together must not stay together: each interval varies by up to this share.
_JITTER = 0.1
_STOP_S = 2.0
_THREAD_LOOK_S = 1.0


class EndpointState:
    """What is known of one endpoint. ``up`` is None where no probe is configured."""

    def __init__(
        self, backend: str, endpoint: Endpoint, probe: ProbeConfig | None, tls: BackendTls | None = None
    ) -> None:
        self.backend = backend
        self.endpoint = endpoint
        self.probe = probe
        self.tls = tls
        self.up: bool | None = None if probe is None else True
        # While it is down: whether its latest answer was a refusal, and not mere silence.
        self.refused = False
        # The latest result whose outcome was known, in words, and since when (wall clock) it has been up or down.
        self.last_answer = ""
        self.since_s: float | None = None
        # Why probes are undecided at present, and since when; empty when they are not.
        self.unknown = ""
        self.unknown_since_s = 0.0
        # Whether workers use it although it is down, because it answers requests (endpoint_health.py).
        self.kept = False
        # Whether what is said of it has been asked, and is not only what it began as.
        self.settled = probe is None
        self._streak = 0
        self._agreeing = 0
        self._unknowns = 0

    @property
    def asked(self) -> tuple[object, ...]:
        """Who is asked, and how."""
        return self.backend, self.endpoint, self.probe, self.tls

    @property
    def asked_enough(self) -> bool:
        """Whether waiting longer for its first settled state is of no use: it is settled, or it cannot be asked."""
        return self.settled or (self.probe is not None and self._unknowns >= self.probe.fall)

    @property
    def doubtful(self) -> bool:
        """Whether it has never been known to be up, and probes are undecided."""
        return not self.settled and self.asked_enough

    def take(self, result: ProbeResult, now_s: float) -> bool:
        """Take in one result; True when workers have to know."""
        assert self.probe is not None
        if result.outcome is ProbeOutcome.UNKNOWN:
            self.unknown_since_s = self.unknown_since_s if self.unknown else now_s
            self.unknown = result.text
            self._unknowns += 1
            return False
        self.unknown = ""
        self._unknowns = 0
        self.last_answer = result.text
        good = result.outcome is ProbeOutcome.READY
        refused = result.outcome is ProbeOutcome.REFUSED
        if good == self.up:
            self._streak = 0
            self._agreeing += 1
            self.settled = self.settled or self._agreeing >= self.probe.rise
            changed = not good and refused != self.refused
            self.refused = refused
            return changed
        self._agreeing = 0
        self._streak += 1
        if self._streak < (self.probe.rise if good else self.probe.fall):
            return False
        self.up = good
        self.refused = refused
        self.since_s = now_s
        self.settled = True
        self._streak = 0
        return True


class Prober:
    """Probes every endpoint of every backend that wants it."""

    def __init__(
        self,
        backends: dict[str, BackendConfig],
        on_turn: Callable[[EndpointState], None],
        on_settled: Callable[[], None] = lambda: None,
        clock: Clock | None = None,
    ) -> None:
        self._on_turn = on_turn
        # Called once, when every endpoint has been asked often enough to be known.
        self._on_settled: Callable[[], None] | None = on_settled
        self._clock = clock or SystemClock()
        self._configs = backends
        self.endpoints = _unprobed(backends)
        self._known = set(self.endpoints)
        # How many probes ended in an unknown outcome, by its reason.
        self.unknown: dict[str, int] = dict.fromkeys(REASONS, 0)
        self._blind = False
        self._thread: _ProbeThread | None = None
        self._backends: Mapping[str, Backend] = {}

    def restrict(self, backends: Mapping[str, Backend]) -> None:
        """Let the names of these backends lead only where each may be, from now on."""
        self._backends = backends
        self._aim()

    @property
    def down(self) -> tuple[EndpointState, ...]:
        """The endpoints that are down."""
        return tuple(health for health in self.endpoints if health.up is False)

    @property
    def undecided(self) -> list[EndpointState]:
        """The endpoints whose probes are undecided, longest first."""
        return sorted((one for one in self.endpoints if one.unknown), key=lambda one: one.unknown_since_s)

    def watch(self, backends: dict[str, BackendConfig]) -> None:
        """Probe these from now on; what is known of an endpoint that stays, with the same probe, stays known."""
        known = {one.asked: one for one in self.endpoints}
        self._configs = backends
        self.endpoints = [known.get(one.asked, one) for one in _unprobed(backends)]
        self._known = set(self.endpoints)
        self._aim()

    async def run(self) -> None:
        """Probe for ever."""
        loop = asyncio.get_running_loop()

        def report(health: EndpointState, result: ProbeResult) -> None:
            with contextlib.suppress(RuntimeError):  # control's loop is closed: it ends
                loop.call_soon_threadsafe(self._take, health, result)

        thread: _ProbeThread | None = None
        try:
            while True:
                if thread is None or not thread.alive:
                    if thread is not None:
                        _log.error("probes: their thread has ended and is restarted")
                    thread = self._start(report)
                await asyncio.sleep(_THREAD_LOOK_S)
        finally:
            self._thread = None
            if thread is not None:
                await asyncio.to_thread(thread.stop)

    def _start(self, report: Callable[[EndpointState, ProbeResult], None]) -> _ProbeThread | None:
        """A thread that probes; None where the machine has none to give just now, or no descriptors for its loop."""
        try:
            self._thread = _ProbeThread(report)
        except (OSError, RuntimeError) as error:
            _log.error("probes: they cannot be started, endpoints keep their state: %s", error)  # no fault of ours
            return None
        self._aim()
        return self._thread

    def _aim(self) -> None:
        if self._thread is not None:
            self._thread.aim({one: self._target(one, one.probe) for one in self.endpoints if one.probe is not None})

    def _target(self, health: EndpointState, probe: ProbeConfig) -> Target:
        config, backend = self._configs[health.backend], self._backends.get(health.backend)
        return Target(
            health.backend,
            health.endpoint,
            probe,
            health.tls,
            host_header=config.host_header,
            resolve_s=config.resolve_s,
            resolve_max_age_s=config.resolve_max_age_s,
            allow=None if backend is None else backend.allow(health.endpoint),
        )

    def _take(self, health: EndpointState, result: ProbeResult) -> None:
        if health not in self._known:
            return
        if result.outcome is ProbeOutcome.UNKNOWN:
            self.unknown[result.reason] += 1
        if health.take(result, self._clock.wall_s()):
            self._on_turn(health)
        self._note_blindness(health)
        if self._on_settled is not None and all(one.asked_enough for one in self.endpoints):
            notify, self._on_settled = self._on_settled, None
            notify()

    def _note_blindness(self, health: EndpointState) -> None:
        """Log once that probes are undecided, and once that none is any more: many often have the same cause."""
        if health.unknown and not self._blind:
            self._blind = True
            where = f"endpoint {health.endpoint.url} of backend {health.backend}"
            _log.warning("probes: unknown whether %s is up, it keeps its state: %s", where, health.unknown)
        elif self._blind and not health.unknown and not any(one.unknown for one in self.endpoints):
            self._blind = False
            _log.warning("probes: the state of all endpoints is known again")


class _ProbeThread:
    """The thread on which probes run. Daemon: it never holds up the end of the process."""

    def __init__(self, report: Callable[[EndpointState, ProbeResult], None]) -> None:
        self._report = report
        self._looked_s = 0.0
        self._lag_sum_s = 0.0
        self._targets: dict[EndpointState, Target] = {}
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="probes", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._thread.is_alive()

    def aim(self, targets: dict[EndpointState, Target]) -> None:
        """Probe these from now on. Called from another thread."""
        self._targets = targets
        self._wake()

    def stop(self) -> None:
        """End, and wait for a moment until that is so. Called from another thread."""
        self._stopped = True
        self._wake()
        self._thread.join(_STOP_S)

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._changed.set)

    def _work(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        watchers: dict[EndpointState, tuple[Target, asyncio.Task[None]]] = {}
        async with asyncio.TaskGroup() as group:
            lag = group.create_task(self._measure_lag())
            while not self._stopped:
                targets = self._targets
                for health, (target, task) in list(watchers.items()):
                    if targets.get(health) != target:
                        del watchers[health]
                        task.cancel()
                for health, target in targets.items():
                    if health not in watchers:
                        watchers[health] = (target, group.create_task(self._watch(health, target)))
                await self._changed.wait()
                self._changed.clear()
            for _, task in watchers.values():
                task.cancel()
            lag.cancel()

    async def _watch(self, health: EndpointState, target: Target) -> None:
        probe = EndpointProbe(target, self._late_s)
        while True:
            self._report(health, await probe.ask())
            await asyncio.sleep(target.probe.interval_s * random.uniform(1 - _JITTER, 1 + _JITTER))

    async def _measure_lag(self) -> None:
        """Add up how late this loop is, whatever it is that keeps it from running."""
        while True:
            self._looked_s = self._loop.time()
            await asyncio.sleep(_LAG_LOOK_S)
            self._lag_sum_s = self._late_s()

    def _late_s(self) -> float:
        """How late the loop has been so far, in sum, the present moment included."""
        return self._lag_sum_s + max(0.0, self._loop.time() - self._looked_s - 2 * _LAG_LOOK_S)


def _tls(backend: BackendConfig) -> BackendTls | None:
    return None if backend.tls is None else core_value(backend.tls, BackendTls)


def _unprobed(backends: dict[str, BackendConfig]) -> list[EndpointState]:
    return [
        EndpointState(name, endpoint, backend.probe, _tls(backend))
        for name, backend in backends.items()
        for endpoint in backend.endpoints
    ]
